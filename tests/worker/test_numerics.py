"""What decides the last bits of a run is kept, and a resume that changes it says so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures import NAMES
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.kernels.selection import BFLOAT16_KERNEL, FLOAT32_KERNEL
from nextchar.worker import precision as numerics
from nextchar.worker.precision import Numerics, numerics_here
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit
from tests.worker.test_precision import TEXT, Recorder

KERNEL_HERE = numerics._kernel
NETWORK = NetworkConfig(units=6, embedding=5, dropout=0.0)
HERE = Numerics("float32", "avx2", 2, None, "0.2.0")


def _fit(recorder: Recorder, network: NetworkConfig = NETWORK, **options: Any) -> Result:
    training = TrainingConfig(rows=4, window=10, budget=Budget(steps=20))
    given = {"precision": "float32", "cores": 2, "hooks": recorder.hooks} | options
    return fit(network, training, TEXT, **given)


def _stopped(*, stop_at: int, **options: Any) -> Any:
    """Return the last checkpoint of a run that was stopped."""
    recorder = Recorder(stop_at=stop_at)
    _fit(recorder, **options)
    return recorder.checkpoints[-1]


@pytest.fixture
def _other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with a kernel of another name, until KERNEL_HERE is set again."""
    monkeypatch.setattr(numerics, "_kernel", lambda _: ("float32", "other"))


@pytest.mark.usefixtures("_other_kernel")
def test_a_run_that_is_resumed_on_another_processor_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = _stopped(stop_at=7)
    monkeypatch.setattr(numerics, "_kernel", KERNEL_HERE)
    recorder = Recorder()
    result = _fit(recorder, resume=checkpoint)
    (sentence,) = recorder.messages
    assert sentence == (
        f"the run continues with other kernels (from float32 other to float32 {FLOAT32_KERNEL.name}), so its"
        " result can differ in the last bits from that of an uninterrupted run"
    )
    assert (result.stopped, result.steps) == (None, 20)
    assert [(one.variant, one.from_step) for one in result.numerics] == [
        ("other", 0),
        (FLOAT32_KERNEL.name, 7),
    ]
    again = Recorder()
    _fit(again, resume=recorder.checkpoints[0])  # the next one has both
    assert again.messages == []


def test_a_run_that_is_resumed_on_the_same_processor_says_nothing_and_has_the_same_bits() -> None:
    recorder = Recorder()
    resumed = _fit(recorder, resume=_stopped(stop_at=7))
    assert recorder.messages == []
    whole = _fit(Recorder())
    assert resumed.numerics == whole.numerics and len(whole.numerics) == 1
    for ours, theirs in zip(resumed.network.variables, whole.network.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(("dropout", "end"), [(0.0, "uninterrupted run"), (0.2, "dropout masks differ, too")])
def test_another_number_of_cores_is_reported(dropout: float, end: str) -> None:
    network = NETWORK.model_copy(update={"dropout": dropout})
    recorder = Recorder()
    _fit(recorder, network, resume=_stopped(stop_at=7, network=network), cores=1)
    (sentence,) = recorder.messages
    assert "with another number of replicas (from 2 to 1), so" in sentence
    assert sentence.endswith(end)


def test_cores_that_get_no_replica_change_nothing() -> None:
    recorder = Recorder()
    _fit(recorder, resume=_stopped(stop_at=7), cores=3)  # 4 rows
    assert recorder.messages == []


@pytest.mark.usefixtures("_other_kernel")
def test_checkpoints_of_older_versions_continue_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = _stopped(stop_at=7)
    del checkpoint.meta["numerics"]
    monkeypatch.setattr(numerics, "_kernel", KERNEL_HERE)
    recorder = Recorder()
    result = _fit(recorder, resume=checkpoint)
    assert recorder.messages == []
    assert [one.from_step for one in result.numerics] == [7]


@pytest.mark.parametrize(("stop_at", "variants"), [(0, {FLOAT32_KERNEL.name}), (20, {"other"})])
@pytest.mark.usefixtures("_other_kernel")
def test_a_processor_that_trains_no_step_is_not_named(
    stop_at: int, variants: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = _stopped(stop_at=stop_at)
    monkeypatch.setattr(numerics, "_kernel", KERNEL_HERE)
    recorder = Recorder()
    result = _fit(recorder, resume=checkpoint)
    assert recorder.messages == []
    assert {one.variant for one in result.numerics} == variants


def test_all_that_changed_is_in_one_sentence() -> None:
    here = replace(HERE, product="bfloat16", variant="amx", nextchar="0.3.0", from_step=9)
    assert here.sentence_after(HERE, has_dropout=True) == (
        "the run continues with other kernels (from float32 avx2 to bfloat16 amx) and another version of"
        " nextchar (from 0.2.0 to 0.3.0), so its result can differ in the last bits from that of an"
        " uninterrupted run"
    )


def test_another_version_of_tensorflow_is_named_where_it_trains() -> None:
    before = replace(HERE, variant="library-avx2", tensorflow="2.21.0")
    here = replace(before, tensorflow="2.22.0")
    assert "another version of TensorFlow (from 2.21.0 to 2.22.0), so" in here.sentence_after(
        before, has_dropout=False
    )


def test_from_kernels_to_a_gpu_dropout_changes() -> None:
    here = replace(HERE, variant="NVIDIA H100", tensorflow="2.22.0")
    sentence = here.sentence_after(HERE, has_dropout=True)
    assert "(from float32 avx2 to float32 NVIDIA H100), so" in sentence
    assert sentence.endswith("dropout masks differ, too")


def test_16_bits_are_named_where_the_processor_has_them() -> None:
    here = numerics_here(NETWORK, "mixed", rows=4, cores=1)
    expected = ("bfloat16", BFLOAT16_KERNEL.name) if BFLOAT16_KERNEL else ("float32", FLOAT32_KERNEL.name)
    assert (here.product, here.variant) == expected


@pytest.mark.parametrize("name", sorted({*NAMES} - {"stateful_lstm"}))
def test_every_network_has_numerics(name: Any) -> None:
    here = numerics_here(NetworkConfig(architecture=name), "float32", rows=4, cores=2)
    assert here.product == "float32"
    assert here.variant == FLOAT32_KERNEL.name or here.variant.startswith("library-")
    assert here.replicas == (1 if name in {"numpy_rnn", "scan_rnn"} else 2)


@pytest.mark.parametrize(("precision", "product"), [("mixed", "float16"), ("float32", "float32")])
def test_on_gpus_the_gpu_is_the_variant(
    precision: Any, product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "gpus", lambda: ["GPU:0", "GPU:1"])
    here = numerics_here(NETWORK, precision, rows=4, cores=1)
    assert (here.product, here.variant, here.replicas) == (product, "GPU", 2)
