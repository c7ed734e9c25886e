import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.errors import Unavailable
from nextchar.models.runtime.model_networks import is_batch_invariant, load_networks
from nextchar.models.runtime.session import Network
from nextchar.models.saved_model import SavedModel, describe_files
from tests.models.runtime.networks import random_weights, saved_model


@pytest.mark.parametrize(("units", "threads"), [([33], 1), ([64, 64], 1), ([40, 24], 2)])
def test_batch_invariance_is_recognized(units: list[int], threads: int) -> None:
    assert is_batch_invariant(Network(stateful_lstm_graph(random_weights(61, 19, units)), threads=threads))


def test_rounding_by_batch_size_is_recognized() -> None:
    class Rounding(Network):
        def step(self, ids, state, first=0):  # type: ignore[no-untyped-def]
            logits, after = super().step(ids, state, first)
            return logits * np.float32(1 + 1e-6 * (ids.shape[1] > 1)), after

    assert not is_batch_invariant(Rounding(stateful_lstm_graph(random_weights(61, 19, [33]))))


@pytest.mark.parametrize("by", ["rows", "steps"])
@pytest.mark.parametrize("result", [0, 1])
def test_logits_or_states_that_differ_by_batch_or_chunk_are_recognized(by: str, result: int) -> None:
    class Rounding(Network):
        def step(self, ids, state, first=0):  # type: ignore[no-untyped-def]
            results = list(super().step(ids, state, first))
            if (len(ids) if by == "steps" else ids.shape[1]) > 1:
                results[result] = results[result] * np.float32(1 + 1e-6)
            return tuple(results)

    assert not is_batch_invariant(Rounding(stateful_lstm_graph(random_weights(61, 19, [33]))))


def test_networks_of_each_precision_are_loaded_alone_and_mixed() -> None:
    text = "the fox jumps over the dog. " * 20
    for int8, mixed_text in ((False, None), (True, None), (False, text), (True, text)):
        saved = saved_model(int8=int8, mixed_text=mixed_text)
        loaded = load_networks(saved, threads=1)
        precisions = ["float32", "int8"] if int8 else ["float32"]
        kinds = ["network", "mixture"] if mixed_text else ["network"]
        assert sorted(loaded.networks) == sorted((p, kind) for p in precisions for kind in kinds)
        files = ["model.onnx", "model.int8.npz"] if int8 else ["model.onnx"]
        expected = sum(saved.card.files[name].bytes for name in files)
        if mixed_text:
            experts = loaded.networks["float32", "mixture"].experts  # type: ignore[attr-defined]
            expected += sum(array.nbytes for array in experts)
        assert loaded.weight_bytes == expected


def test_damaged_int8_file_makes_the_model_unavailable() -> None:
    whole = saved_model(int8=True)

    def read(name: str) -> bytes:
        return whole.file(name)[: -10 if name.endswith(".npz") else None]

    files = describe_files({name: read(name) for name in whole.card.files})
    with pytest.raises(Unavailable, match="int8 weights") as caught:
        load_networks(SavedModel(whole.card.model_copy(update={"files": files}), read), threads=1)
    assert caught.value.code == "model_damaged"


def test_damaged_or_foreign_files_make_the_model_unavailable() -> None:
    whole = saved_model()
    for contents in (b"", whole.file("model.onnx")[:-10]):
        damaged = SavedModel(whole.card, lambda _, contents=contents: contents)  # type: ignore[misc]
        with pytest.raises(Unavailable) as caught:
            load_networks(damaged, threads=1)
        assert caught.value.code == "model_damaged"
    other = SavedModel(whole.card.model_copy(update={"characters": "ab"}), whole.file)
    with pytest.raises(Unavailable, match="outputs and"):
        load_networks(other, threads=1)
    bare = SavedModel(whole.card.model_copy(update={"files": {}}), whole.file)
    with pytest.raises(Unavailable, match=r"no model\.onnx"):
        load_networks(bare, threads=1)
