"""The mixture of a network with contexts of its text."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.errors import Unavailable
from nextchar.models.kernels.mixture_arguments import (
    ADAPTATION,
    BRACKET_KIND,
    CURVATURES,
    HISTORY_CHARACTERS,
    HISTORY_MATCH_DISTANCE,
    KIND,
    MATCH_AT,
    MAX_ADAPTED_VOCABULARY,
    MAX_RECENT,
    PREDICTED,
    SHIFTS,
    STATE_COLUMNS,
    WORD_HASH,
)
from nextchar.models.runtime import mixture
from nextchar.models.runtime.int8_file import quantize_lstm
from nextchar.models.runtime.lstm_network import ROWS_OF_A_PART, LstmNetwork, SecondThread
from nextchar.models.runtime.mixture import (
    GeneratingMixture,
    Learned,
    MixtureNetwork,
    experts_of,
    make_mixture,
    without_adaptation,
)
from nextchar.models.runtime.mixture_learning import learn_text
from nextchar.models.runtime.session import Network
from nextchar.models.text.vocabulary import Vocabulary
from tests.models.runtime.mixtures import SlowMixture, experts_for, learned_for
from tests.models.runtime.networks import random_weights

LINES = "the cat sat on the mat\nthe dog sat on the log\nA long line that is copied word for word.\n"
TEXT = (LINES + "cat(a1, dog[b; 22]) == {{((((((((the, log)), mat]}\n") * 3
VOCABULARY = Vocabulary(TEXT)
V = len(VOCABULARY)
WEIGHTS_OF_NETWORK = random_weights(V, 5, [8])
READ = "A long line that is copied word for word.\nthe cat sat on tac tht. the cat sat on tac tht. the dog"
CHANGED = "A long line thaf is copied word for word. A long linn that is copiid word for word.\nthe dog sat"
CODE = "\ncat(a1, dog[b; 22]) == cat(the, mat[22; b], ((((((((((log, sat)), mat]}}}}}}}} == a1, 2"


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


def read_by_experts(network: MixtureNetwork, state: np.ndarray) -> np.ndarray:
    """Return what the experts have read of one row, as int32."""
    read: np.ndarray = state[0, -network.experts.state_columns :].view(np.int32)
    return read


@pytest.mark.parametrize("adapts", [True, False])
def test_logits_are_those_of_the_definition(network: MixtureNetwork, adapts: bool) -> None:
    if not adapts:
        network = make_mixture(network.network, without_adaptation(network.experts))
    ids = ids_of(READ + CHANGED + CODE)
    mixed, _ = network.step(ids, network.initial_state())
    alone, _ = network.network.step(ids, network.network.initial_state())
    learned = learned_for(TEXT, VOCABULARY)
    slow = SlowMixture(TEXT, VOCABULARY, learned if adapts else without_adaptation(learned))
    longest = 0
    for t, c in enumerate(ids[:, 0].tolist()):
        slow.push(c)
        longest = max(longest, slow.match[1], slow.repeat[1])
        np.testing.assert_allclose(softmax(mixed[t, 0]), softmax(slow.logits(alone[t, 0])), atol=2e-5)
    assert longest > 40


def test_records_are_read_from_their_beginnings() -> None:
    network = float32()
    learned = without_adaptation(learned_for(TEXT, VOCABULARY, is_records=True))
    network = make_mixture(network.network, experts_of(VOCABULARY.encode(TEXT), learned))
    slow, ids = SlowMixture(TEXT, VOCABULARY, learned), ids_of(READ + CHANGED)
    mixed, _ = network.step(ids, network.initial_state())
    alone, _ = network.network.step(ids, network.network.initial_state())
    for t, c in enumerate(ids[:, 0].tolist()):
        slow.push(c)
        np.testing.assert_allclose(softmax(mixed[t, 0]), softmax(slow.logits(alone[t, 0])), atol=2e-5)


def test_cells_of_tables_are_known_by_their_numbers_and_the_cells_above() -> None:
    lines = [f'{n},"cat, {n * 7}",,"dog",{n % 5}.5\n' for n in range(90, 130)]
    text, read = "".join(lines[:30]), "".join(lines[34:]) + '"' + ",a" * 20 + "\n1,,\n" + ",2" * 20
    vocabulary = Vocabulary(text)
    learned = without_adaptation(learned_for(text, vocabulary))
    assert learned.characters[0, BRACKET_KIND] == 1
    weights = random_weights(len(vocabulary), 5, [8])
    network = make_mixture(
        Network(stateful_lstm_graph(weights)), experts_of(vocabulary.encode(text), learned)
    )
    slow, ids = SlowMixture(text, vocabulary, learned), vocabulary.encode(read)[:, None]
    mixed, _ = network.step(ids, network.initial_state())
    alone, _ = network.network.step(ids, network.network.initial_state())
    for t, c in enumerate(ids[:, 0].tolist()):
        slow.push(c)
        np.testing.assert_allclose(softmax(mixed[t, 0]), softmax(slow.logits(alone[t, 0])), atol=2e-5)


def test_the_whole_history_counts() -> None:
    """Repetitions of what was read 2,500 characters before, and the newest 32 places of each context."""
    network = float32()
    network = make_mixture(network.network, without_adaptation(network.experts))
    random = np.random.default_rng(1)
    text = "".join(random.choice(list("the cat"), 300)) + "word" + "".join(random.choice(list("dog "), 2500))
    ids = ids_of(text + text[250:310])
    mixed, _ = network.step(ids, network.initial_state())
    alone, _ = network.network.step(ids, network.network.initial_state())
    slow = SlowMixture(TEXT, VOCABULARY, without_adaptation(learned_for(TEXT, VOCABULARY)))
    most_places = wrong = 0
    for t, c in enumerate(ids[:, 0].tolist()):
        slow.push(c)
        if t > len(text):
            most_places = max(most_places, *map(len, slow.recent()))
            difference = softmax(mixed[t, 0]) - softmax(slow.logits(alone[t, 0]))
            wrong += bool(np.abs(difference).max() > 2e-5)
    assert slow.repeat[1] > 40 and most_places == MAX_RECENT
    assert wrong <= 8, "the history's keys have 16 bits, so some of 420 contexts may look like others"


@pytest.mark.parametrize("steps", [1, 2, 70])
def test_ids_out_of_range_are_refused(steps: int) -> None:
    network = int8()
    for wrong in (-1, V):
        ids = np.ones((steps, 2), np.int32)
        ids[-1, 1] = wrong
        with pytest.raises(IndexError):
            network.step(ids, network.initial_state(2))


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


@pytest.mark.parametrize("units", [[8], [8, 6]])
def test_long_texts_are_read_as_steps_are(units: list[int]) -> None:
    """Networks of two layers are read by two threads, which may be late, so only a part is read."""
    weights = quantize_lstm(random_weights(V, 5, units))
    network = make_mixture(LstmNetwork(weights), experts_for(TEXT, VOCABULARY))
    assert isinstance(network, GeneratingMixture)
    ids, ends = np.tile(VOCABULARY.encode(READ), 30), [64, 1000, 2500]
    states: list[np.ndarray] = []
    deadline = time.monotonic() + 60
    while len(states) < len(ends) and time.monotonic() < deadline:
        states = network.read(ids, ends, network.initial_state(), np.zeros(1, np.int64))
    for end, state in zip(ends, states, strict=True):
        _, expected = network.step(ids[:end, None], network.initial_state())
        np.testing.assert_array_equal(state.view(np.int32), expected.view(np.int32))


def test_repetitions_are_found_within_the_history_only() -> None:
    network, filler = float32(), "on the mat " * (HISTORY_CHARACTERS // 11 + 1)
    for between, is_found in ((filler[:200], True), (filler, False)):
        _, state = network.step(ids_of("AgfpyAgfpy" + between + "Agfp"), network.initial_state())
        distance = read_by_experts(network, state)[HISTORY_MATCH_DISTANCE]
        assert bool(distance) == is_found


def test_unknown_characters_end_matches_and_contexts(network: MixtureNetwork) -> None:
    ids = ids_of("?" * 50 + "the cat ? sat" + "?" * 5)
    logits, state = network.step(ids, network.initial_state())
    assert np.isfinite(logits).all()
    assert not read_by_experts(network, state)[MATCH_AT:WORD_HASH].any()


def test_the_weights_follow_what_is_right() -> None:
    """A text that the known text predicts, then one of other words: the weights of counts rise, then fall."""
    network = float32()
    quiet = network.experts._replace(weights=np.full_like(network.experts.weights, 0.01))
    network = make_mixture(network.network, quiet)

    def shifts(state: np.ndarray) -> np.ndarray:
        return read_by_experts(network, state).view(np.float32)[SHIFTS:CURVATURES]

    _, state = network.step(ids_of(TEXT[:200]), network.initial_state())
    risen = shifts(state)[:12].sum()
    assert risen > 0.1
    other = np.random.default_rng(0).integers(1, V, (200, 1), np.int32)
    _, state = network.step(other, state)
    assert shifts(state)[:12].sum() < risen


def test_adapting_is_bounded() -> None:
    """However long a text is, and however sure the experts were of something else."""
    network = float32()
    random = np.random.default_rng(0)
    ids = np.concatenate([np.tile(ids_of("the cat "), (500, 1)), random.integers(0, V, (4000, 1), np.int32)])
    logits, state = network.step(ids, network.initial_state())
    shifts = read_by_experts(network, state).view(np.float32)[SHIFTS:CURVATURES]
    assert np.isfinite(logits[..., 1:]).all() and np.abs(shifts).max() < 20


def test_what_is_read_without_logits_does_not_move_weights() -> None:
    """As the warm-up of an evaluation, which the experts have seen."""
    experts = experts_for(TEXT, VOCABULARY)
    read = np.zeros((1, experts.state_columns), np.float32)
    mixture.mix_logits(experts, ids_of(READ), read, 0, len(READ), np.zeros((0, 1, V), np.float32))
    assert not read[0, PREDICTED:].any()


def test_a_large_vocabulary_has_small_states() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(MAX_ADAPTED_VOCABULARY))
    learned, _ = learn_text(Vocabulary(text).encode(text), Vocabulary(text))
    assert experts_of(Vocabulary(text).encode(text), learned).state_columns == STATE_COLUMNS


@pytest.mark.parametrize("text", ["a" * 300, "ab" * 2, "x"])
def test_short_and_uniform_texts(text: str) -> None:
    vocabulary = Vocabulary(text)
    weights = random_weights(len(vocabulary), 3, [4])
    network = make_mixture(Network(stateful_lstm_graph(weights)), experts_for(text, vocabulary))
    logits, _ = network.step(vocabulary.encode(text * 2)[:, None], network.initial_state())
    assert np.isfinite(logits[..., 1:]).all()


def test_vocabularies_above_16_bits() -> None:
    text = "".join(chr(0x10000 + i) for i in range(70_000)) + "abc" * 30
    vocabulary = Vocabulary(text)
    learned = without_adaptation(learned_for(text, vocabulary))
    experts = experts_of(vocabulary.encode(text), learned)
    logits = np.zeros((20, 1, len(vocabulary)), np.float32)
    read = np.zeros((1, STATE_COLUMNS), np.float32)
    mixture.mix_logits(experts, vocabulary.encode(text[-20:])[:, None], read, 0, 0, logits)
    assert np.isfinite(logits).all()
    assert logits[-1, 0, 1:].argmax() + 1 == vocabulary.encode("a")[0]


@pytest.mark.parametrize(("rows", "is_shared"), [(2 * ROWS_OF_A_PART - 1, False), (2 * ROWS_OF_A_PART, True)])
def test_steps_of_two_parts_and_more_are_shared(
    network: MixtureNetwork, monkeypatch: pytest.MonkeyPatch, rows: int, is_shared: bool
) -> None:
    shared: list[int] = []
    share = SecondThread.share

    def noted(self: SecondThread, *arguments: Any, rows: int) -> Any:
        if self is network._second:
            shared.append(rows)
        return share(self, *arguments, rows=rows)

    monkeypatch.setattr(SecondThread, "share", noted)
    network.step(np.ones((1, rows), np.int32), network.initial_state(rows))
    assert shared == [ROWS_OF_A_PART] * is_shared


def test_a_state_has_the_networks_columns_and_those_of_the_experts(network: MixtureNetwork) -> None:
    columns = 2 * 8 + network.experts.state_columns
    assert network.initial_state().shape == (1, columns)
    assert network.initial_state(3).shape == (3, columns) and not network.initial_state(3).any()


@pytest.mark.parametrize("adapts", [True, False])
def test_what_was_read_when_reading_ended_early_is_returned(
    monkeypatch: pytest.MonkeyPatch, adapts: bool
) -> None:
    network = int8()
    if not adapts:
        network = make_mixture(network.network, without_adaptation(network.experts))  # type: ignore[assignment]
    ids, ends, read = VOCABULARY.encode(READ), [10, 30, 64], network.network.read
    monkeypatch.setattr(network.network, "read", lambda *a, **options: read(*a, **options)[:2])
    states = network.read(ids, ends, network.initial_state(), np.zeros(1, np.int64))
    assert len(states) == 2
    for end, state in zip(ends, states, strict=False):
        _, expected = network.step(ids[:end, None], network.initial_state())
        np.testing.assert_array_equal(state.view(np.int32), expected.view(np.int32))
    assert network.read(ids, [], network.initial_state(), np.zeros(1, np.int64)) == []


# ---- the file


LEARNED: Learned = learned_for(TEXT, VOCABULARY)


def file_of(text: str = TEXT) -> bytes:
    return mixture.dump(VOCABULARY.encode(text), learned_for(TEXT, VOCABULARY))


def loaded(data: bytes) -> Any:
    return mixture.load(data, size=V, upgrade=lambda ids: learn_text(ids, VOCABULARY)[0])


def test_file_survives_a_round_trip() -> None:
    for text in (TEXT, TEXT + "§ is unknown"):
        expected = experts_of(VOCABULARY.encode(text), learned_for(TEXT, VOCABULARY))
        for ours, theirs in zip(loaded(file_of(text)), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "learned",
    [
        {"weights": np.ones(104, np.float32)},
        LEARNED._asdict() | {"weights": LEARNED.weights[:872, :40], "maps": LEARNED.maps[:12, :256]},
        LEARNED._asdict()
        | {"weights": LEARNED.weights[:4968], "characters": LEARNED.characters[:, [0, 1, 0, 2]]},
    ],
)
def test_models_of_older_versions_learn_from_their_text_when_they_are_loaded(learned: Any) -> None:
    """Theirs have the text, and weights that other kernels used."""
    file = io.BytesIO()
    np.savez(file, text=VOCABULARY.encode(TEXT), **learned)
    experts = loaded(file.getvalue())
    assert experts.adapts
    network = make_mixture(float32().network, experts)
    logits, _ = network.step(ids_of(TEXT), network.initial_state())
    targets = VOCABULARY.encode(TEXT)[1:, None]
    bits = -np.log2(np.take_along_axis(softmax(logits[:-1, 0]), targets - 1, 1))
    assert bits.mean() < 1


@pytest.mark.parametrize("size", [1, 700, (1 << 12) - 3, (1 << 18) - 100, 1 << 18, (1 << 20) - 5, 3_000_000])
def test_hash_tables_have_the_parts_that_kernels_find(size: int) -> None:
    slots, left = mixture._empty_table(int(size * 0.7))
    parts = 1 << min(max(len(slots).bit_length() - 8, 0), 12)  # as `part_of` does
    assert len(left) == parts and len(slots) % parts == 0
    assert (left == len(slots) // parts - 1).all() and left.sum() >= int(size * 0.7)


def test_kept_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "MAX_CHARACTERS", 30)
    assert file_of() == file_of(TEXT[-30:])


def damaged(**changes: Any) -> bytes:
    file = io.BytesIO()
    learned: dict[str, Any] = learned_for(TEXT, VOCABULARY)._asdict()
    arrays = {"text": VOCABULARY.encode(TEXT), **learned} | changes
    np.savez(file, allow_pickle=False, **{name: a for name, a in arrays.items() if a is not None})
    return file.getvalue()


def changed(name: str, at: Any, value: float) -> dict[str, np.ndarray]:
    array = getattr(LEARNED, name).copy()
    array[at] = value
    return {name: array}


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
        damaged(last_weights=LEARNED.last_weights[1:]),
        damaged(weights=LEARNED.weights.astype(np.int32)),
        damaged(**changed("weights", (3, 3), np.nan)),
        damaged(**changed("children", 0, V)),
        damaged(**changed("children", (0, 0), 0)),
        damaged(children=LEARNED.children[::-1]),
        damaged(**changed("characters", (1, KIND), 99)),
        damaged(**changed("characters", (1, KIND), -1)),
        damaged(adaptation=np.ones(ADAPTATION + 1, np.float32)),
        damaged(adaptation=np.full(ADAPTATION, -1, np.float32)),
    ],
)
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(Unavailable, match="damaged"):
        loaded(data)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "hacked",)

    file = io.BytesIO()
    np.savez(file, text=np.array([Hostile()], object), weights=LEARNED.weights)
    with pytest.raises(Unavailable, match="damaged"):
        loaded(file.getvalue())
    assert not (tmp_path / "hacked").exists()
