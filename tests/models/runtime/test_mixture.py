"""The mixture of a network with n-grams and matches."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.architectures.onnx_graph import stateful_lstm_graph
from models.errors import Unavailable
from models.kernels.mixture_arguments import HISTORY, MATCH_AT, STATE_COLUMNS, WEIGHTS
from models.runtime import mixture
from models.runtime.int8_file import quantize_lstm
from models.runtime.lstm_network import LstmNetwork
from models.runtime.mixture import GeneratingMixture, MixtureNetwork, make_mixture
from models.runtime.session import Network
from models.text.vocabulary import Vocabulary
from tests.models.runtime.mixtures import SlowMixture, experts_for, random_mixture_weights
from tests.models.runtime.networks import random_weights

TEXT = "the cat sat on the mat\nthe dog sat on the log\nA long line that is copied word for word.\n" * 3
VOCABULARY = Vocabulary(TEXT)
V = len(VOCABULARY)
WEIGHTS_OF_NETWORK = random_weights(V, 5, [8])
READ = "A long line that is copied word for word.\nthe cat sat on tac eht. the cat sat on tac eht. the dog"


def float32() -> MixtureNetwork:
    return make_mixture(Network(stateful_lstm_graph(WEIGHTS_OF_NETWORK)), experts_for(TEXT, VOCABULARY))


def int8() -> GeneratingMixture:
    network = make_mixture(LstmNetwork(quantize_lstm(WEIGHTS_OF_NETWORK)), experts_for(TEXT, VOCABULARY))
    assert isinstance(network, GeneratingMixture)
    return network


@pytest.fixture(params=[float32, int8])
def network(request: pytest.FixtureRequest) -> MixtureNetwork:
    made: MixtureNetwork = request.param()
    return made


def ids_of(text: str) -> np.ndarray:
    return VOCABULARY.encode(text)[:, None]


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits[..., 1:] - logits[..., 1:].max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_logits_are_those_of_the_definition(network: MixtureNetwork) -> None:
    ids = ids_of(READ)
    mixed, _ = network.step(ids, network.initial_state())
    alone, _ = network.network.step(ids, network.network.initial_state())
    slow = SlowMixture(TEXT, VOCABULARY, random_mixture_weights())
    longest = 0
    for t, character in enumerate(READ):
        slow.push(character)
        longest = max(longest, slow.match[1], slow.repeat[1])
        np.testing.assert_allclose(softmax(mixed[t, 0]), softmax(slow.logits(alone[t, 0])), atol=2e-5)
    assert longest > 40


def test_rows_and_chunks_do_not_change_a_result(network: MixtureNetwork) -> None:
    texts = [READ[i : i + 60] for i in range(36)]
    ids = np.concatenate([ids_of(text) for text in texts], axis=1)
    logits, state = network.step(ids, network.initial_state(len(texts)))
    for row, text in enumerate(texts[::7]):
        alone, parts = network.initial_state(), []
        for start, end in ((0, 1), (1, 30), (30, 60)):
            part, alone = network.step(ids_of(text)[start:end], alone)
            parts.append(part)
        np.testing.assert_array_equal(np.concatenate(parts)[:, 0], logits[:, 7 * row])
        np.testing.assert_array_equal(alone[0].view(np.int32), state[7 * row].view(np.int32))


def test_steps_without_logits_are_read(network: MixtureNetwork) -> None:
    whole, state = network.step(ids_of(READ), network.initial_state())
    last, same = network.step(ids_of(READ), network.initial_state(), len(READ) - 1)
    np.testing.assert_array_equal(last[0], whole[-1])
    np.testing.assert_array_equal(same.view(np.int32), state.view(np.int32))


def test_arguments_are_not_modified(network: MixtureNetwork) -> None:
    _, state = network.step(ids_of(READ), network.initial_state())
    kept = state.copy()
    network.step(ids_of("the"), state)
    np.testing.assert_array_equal(state.view(np.int32), kept.view(np.int32))


def test_generating_is_stepping_and_choosing() -> None:
    network = int8()
    _, state = network.step(ids_of(READ).repeat(3, 1), network.initial_state(3))
    ids = VOCABULARY.encode("the")
    temperature = np.array([0, 1, 0.7], np.float32)
    uniforms = np.random.default_rng(1).random((40, 3))
    chosen, logits, after = network.generate(ids, state, temperature, uniforms)
    now = ids
    for n in range(len(uniforms) + 1):
        step, state = network.step(now[None], state)
        np.testing.assert_array_equal(step[0], logits[n])
        if n < len(uniforms):
            now = network.choose(step[0], temperature, uniforms[n])
            np.testing.assert_array_equal(now, chosen[n])
    np.testing.assert_array_equal(after.view(np.int32), state.view(np.int32))


def test_long_texts_are_read_as_steps_are() -> None:
    network = int8()
    ids, ends = np.tile(VOCABULARY.encode(READ), 30), [64, 1000, 2500]
    states = network.read(ids, ends, network.initial_state(), np.zeros(1, np.int64))
    assert len(states) == len(ends)
    for end, state in zip(ends, states, strict=True):
        _, expected = network.step(ids[:end, None], network.initial_state())
        np.testing.assert_array_equal(state.view(np.int32), expected.view(np.int32))


def test_repetitions_are_found_within_the_history_only() -> None:
    network, filler = float32(), "on the mat " * (HISTORY // 11 + 1)
    for between, is_found in ((filler[:200], True), (filler, False)):
        _, state = network.step(ids_of("AgfpyAgfpy" + between + "Agfp"), network.initial_state())
        distance = state[0, -STATE_COLUMNS:].view(np.int32)[MATCH_AT + 2]
        assert bool(distance) == is_found


def test_unknown_characters_end_matches_and_contexts(network: MixtureNetwork) -> None:
    ids = ids_of("?" * 50 + "the cat ? sat" + "?" * 5)
    logits, state = network.step(ids, network.initial_state())
    assert np.isfinite(logits).all()
    kept = state[0, -STATE_COLUMNS:].view(np.int32)
    assert not kept[: MATCH_AT + 4].any()


@pytest.mark.parametrize("text", ["a" * 300, "ab" * 2, "x"])
def test_short_and_uniform_texts(text: str) -> None:
    vocabulary = Vocabulary(text)
    weights = random_weights(len(vocabulary), 3, [4])
    network = make_mixture(Network(stateful_lstm_graph(weights)), experts_for(text, vocabulary))
    logits, _ = network.step(vocabulary.encode(text * 2)[:, None], network.initial_state())
    assert np.isfinite(logits[..., 1:]).all()


def test_vocabularies_above_16_bits() -> None:
    text = "".join(chr(0x10000 + i) for i in range(70_000)) + "abc"
    vocabulary = Vocabulary(text)
    experts = experts_for(text, vocabulary)
    logits = np.zeros((20, 1, len(vocabulary)), np.float32)
    read = np.zeros((1, STATE_COLUMNS), np.float32)
    mixture.mix_logits(experts, vocabulary.encode(text[-43:-23])[:, None], read, 0, logits)
    expected = vocabulary.encode(text[-23])
    assert logits[-1, 0, 1:].argmax() + 1 == expected


# ---- the file


def file_of(text: str = TEXT) -> bytes:
    return mixture.dump(VOCABULARY.encode(text), random_mixture_weights())


def test_file_survives_a_round_trip() -> None:
    for text in (TEXT, TEXT + "§ is unknown"):
        again = mixture.load(file_of(text), size=V)
        for ours, theirs in zip(again, experts_for(text, VOCABULARY), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_kept_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "MAX_CHARACTERS", 30)
    assert file_of() == file_of(TEXT[-30:])


def damaged(**changes: Any) -> bytes:
    file = io.BytesIO()
    arrays = {"text": VOCABULARY.encode(TEXT), "weights": random_mixture_weights()} | changes
    np.savez(file, allow_pickle=False, **{name: a for name, a in arrays.items() if a is not None})
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        file_of()[:100],
        damaged(text=None),
        damaged(weights=None),
        damaged(text=np.array([1, V])),
        damaged(text=np.array([[1]])),
        damaged(text=np.zeros(0, np.int32)),
        damaged(weights=np.zeros(WEIGHTS - 1, np.float32)),
        damaged(weights=np.full(WEIGHTS, np.nan, np.float32)),
    ],
)
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(Unavailable, match="damaged"):
        mixture.load(data, size=V)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "hacked",)

    file = io.BytesIO()
    np.savez(file, text=np.array([Hostile()], object), weights=random_mixture_weights())
    with pytest.raises(Unavailable, match="damaged"):
        mixture.load(file.getvalue(), size=V)
    assert not (tmp_path / "hacked").exists()
