"""The page of NumPy that reads a saved model, compared with the runtime."""

import json
from pathlib import Path

import numpy as np
import pytest

from nextchar.models.architectures.spec import Trainable
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.kernels.mixture_arguments import BY_BACKOFF, BY_NETWORK, GROUPS, LAST_SETS, ORDERS, PAIRS
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.reference import Model, read
from nextchar.models.runtime import mixture
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.mixture import experts_of, make_mixture, without_adaptation
from nextchar.models.runtime.session import Network
from nextchar.models.saved_model import Card, SavedModel, describe_files
from nextchar.worker.evaluation import graph_of, saved_files
from nextchar.worker.prepared_text import Text
from nextchar.worker.training import fit
from tests.models.architectures.networks import V, perturbed, random_ids, small
from tests.models.runtime.engine_calls import complete
from tests.models.runtime.mixtures import learned_for

ROOT = Path(__file__).parents[2]
STORY = "the cat sat on the mat; the dog sat on the log.\nA café.\n" * 10
TEXT = Text.split(STORY, validation_fraction=0.1)
READ = "the dog sat on a café; the zebra sat on the log."
CONFIG = NetworkConfig(layers=2, units=6, embedding=5, dropout=0.0, coupled_gates=True)


def saved_in(folder: Path, network: Trainable, characters: str, **more: bytes) -> SavedModel:
    """Save a network as a model in a folder, with more files by their names without .npz."""
    files = saved_files(network) | {f"{name}.npz": data for name, data in more.items()}
    card = Card(
        id="model_x", name="x", created_at=0, network=network.config, training=TrainingConfig(),
        characters=characters, parameters=1, files=describe_files(files),
    )  # fmt: skip
    for name, data in (files | {"model.json": card.portable()}).items():
        (folder / name).write_bytes(data)
    return SavedModel(card, files.__getitem__)


@pytest.fixture(scope="module")
def trained() -> Trainable:
    return fit(CONFIG, TrainingConfig(rows=4, window=10, budget=Budget(steps=150)), TEXT).network


@pytest.fixture
def saved(trained: Trainable, tmp_path: Path) -> SavedModel:
    return saved_in(tmp_path, trained, TEXT.vocabulary.characters)


@pytest.fixture
def model(saved: SavedModel, tmp_path: Path) -> Model:
    del saved  # in the same folder
    return read(tmp_path)


@pytest.mark.parametrize("is_saved_by_keras", [False, True])
def test_logits_and_state_are_those_of_the_runtime(
    trained: Trainable, tmp_path: Path, is_saved_by_keras: bool
) -> None:
    network = perturbed(small("stateful_lstm", layers=2)) if is_saved_by_keras else trained
    saved_in(tmp_path, network, "abcdef")
    model, runtime, ids = read(tmp_path), Network(graph_of(network)), random_ids(5, 3, min_id=0)
    logits, after = runtime.step(ids, runtime.initial_state(3))
    state = model.initial_state(3)
    for t in range(len(ids)):
        own, state = model.step(ids[t], state)
        np.testing.assert_allclose(own, logits[t], atol=1e-5)
    np.testing.assert_allclose(np.concatenate(state.reshape(4, 3, 6), axis=1), after, atol=1e-5)
    assert not is_saved_by_keras or logits.shape[2] == V


@pytest.mark.parametrize("prompt", ["the dog", "A zebra", ""])
def test_at_temperature_0_the_text_is_that_of_the_engine(
    saved: SavedModel, model: Model, prompt: str
) -> None:
    engine = Engine(saved)
    options = {"temperature": 0.0, "max_characters": 30, "precision": "float32", "expert": "lstm"}
    expected = complete(engine, prompt, **options).text()
    engine.close()
    assert model.sample(prompt, 30, temperature=0) == expected
    assert model.sample(prompt, 30, temperature=1e-5) == expected
    assert model.sample(prompt, 30, seed=1) == model.sample(prompt, 30, seed=1) != expected
    assert model.sample(prompt, 30, seed=1) != model.sample(prompt, 30, seed=2)


def test_bits_per_character_are_those_of_the_service(saved: SavedModel, model: Model) -> None:
    [line] = LoadedModel.load(saved).scorer.read([READ])
    assert TEXT.vocabulary.unknown(READ) == ["b", "r", "z"]
    assert model.score(READ) == pytest.approx(line.surprisal.bits.mean(), abs=1e-5)


@pytest.mark.parametrize("length", [30, 3000])
def test_network_and_contexts_are_mixed_as_by_the_kernels(
    trained: Trainable, tmp_path: Path, length: int
) -> None:
    random, size = np.random.default_rng(length), len(TEXT.vocabulary)
    known = np.minimum(random.geometric(0.3, length) - 1, size - 1).astype(np.int32)  # some are unknown
    text = TEXT.vocabulary.decode(known.tolist())
    learned = without_adaptation(learned_for(text, TEXT.vocabulary))
    weights, last_weights = np.zeros_like(learned.weights), np.zeros_like(learned.last_weights)
    for inputs in (BY_BACKOFF, BY_NETWORK):  # by node and last character, and nothing else
        weights[:PAIRS, inputs] = learned.weights[:PAIRS, inputs]
    last_weights[:GROUPS, 0] = 1.1 * LAST_SETS
    learned = learned._replace(weights=weights, last_weights=last_weights)
    ids = np.concatenate([known[-6:], np.minimum(random.geometric(0.3, 100) - 1, size - 1), known[:9]])
    network = make_mixture(Network(graph_of(trained)), experts_of(known, learned))
    logits, _ = network.step(ids[:, None].astype(np.int32), network.initial_state())
    saved_in(tmp_path, trained, TEXT.vocabulary.characters, mixture=mixture.dump(known, learned))
    model = read(tmp_path)
    state = model.initial_state()
    for t in range(len(ids)):
        logprobs, state = model.predict(ids[: t + 1].tolist(), state)
        if t >= ORDERS[-1]:
            np.testing.assert_allclose(logprobs[1:], logits[t, 0, 1:], atol=2e-4)
            assert np.exp(logprobs).sum() == pytest.approx(1) and np.exp(logprobs[0]) == 0


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("change", [{"network": {"architecture": "scan_rnn"}}, {"alphabet": "bytes"}])
def test_models_of_other_kinds_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    card = json.loads((tmp_path / "model.json").read_text()) | change
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="reads models of the architecture stateful_lstm"):
        read(tmp_path)


@pytest.mark.parametrize("page", ["models/reference.py", "worker/reference.py"])
def test_each_reference_is_one_page(page: str) -> None:
    assert len((ROOT / page).read_text().splitlines()) <= 120
