import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.runtime.decoding import log_softmax
from nextchar.models.runtime.mixture import experts_of, mix_logits
from nextchar.models.runtime.session import Network
from nextchar.models.text.vocabulary import Vocabulary, unknown_bits
from nextchar.worker import evaluation
from nextchar.worker.evaluation import bits_by_expert, bits_per_character, sample
from tests.models.runtime.mixtures import learned_for

V, E, H = 6, 3, 4


def _network() -> Network:
    rng = np.random.default_rng(1)
    shapes = {
        "embedding": (V, E),
        "lstm_0/kernel": (E, 4 * H),
        "lstm_0/recurrent": (H, 4 * H),
        "lstm_0/bias": (4 * H,),
        "dense/kernel": (H, V),
        "dense/bias": (V,),
    }
    return Network(stateful_lstm_graph({n: rng.normal(size=s).astype("f") for n, s in shapes.items()}))


def _naive(network: Network, before: np.ndarray, ids: np.ndarray) -> float:
    """One character at a time, from the first of `before` on."""
    state, bits = network.initial_state(1), 0.0
    logits = None
    for position, i in enumerate(np.concatenate([before, ids])):
        if position >= len(before):
            assert logits is not None
            known = logits[-1, 0, 1:].astype(float)
            bits -= known[i - 1] / np.log(2) - np.log2(np.exp(known).sum())
        logits, state = network.step(np.array([[i]], np.int32), state)
    return bits / len(ids)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_rows_side_by_side_give_the_bits_of_one_pass(rows: int) -> None:
    rng = np.random.default_rng(2)
    before, ids = rng.integers(1, V, 500).astype(np.int32), rng.integers(1, V, 333).astype(np.int32)
    network = _network()
    ours = bits_per_character(network, ids, before=before, rows=rows, warm_up=500)
    assert ours == pytest.approx(_naive(network, before, ids), abs=1e-4)


@pytest.mark.parametrize("warm_up", [1, 7, 70])
@pytest.mark.parametrize(("count", "rows"), [(200, 1), (200, 3), (9, 4), (65, 1)])
def test_each_row_is_read_after_the_characters_before_it(count: int, rows: int, warm_up: int) -> None:
    text = np.random.default_rng(3).integers(1, V, 80 + count).astype(np.int32)
    network, ids = _network(), text[80:]
    length = -(-count // rows)
    starts = range(80, len(text), length)
    naive = [
        _naive(network, text[at - warm_up : at], text[at : at + length]) * len(text[at : at + length])
        for at in starts
    ]
    found = bits_per_character(network, ids, before=text[:80], rows=rows, warm_up=warm_up)
    assert found == pytest.approx(sum(naive) / count, abs=1e-5)


@pytest.mark.parametrize(("steps", "slices"), [(3, 3), (1, 1), (1, 0.5)])
def test_large_alphabets_are_judged_in_smaller_slices(
    monkeypatch: pytest.MonkeyPatch, steps: int, slices: float
) -> None:
    text = np.random.default_rng(2).integers(1, V, 400).astype(np.int32)
    whole = bits_per_character(_network(), text[200:], before=text[:200], rows=4)
    monkeypatch.setattr(evaluation, "SLICE_LOGITS", int(slices * 4 * V))
    longest = 0

    class Watched(Network):
        def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
            nonlocal longest
            longest = max(longest, len(ids))
            return super().step(ids, state, first)

    network = _network()
    network.__class__ = Watched
    assert bits_per_character(network, text[200:], before=text[:200], rows=4) == pytest.approx(
        whole, abs=1e-6
    )
    assert longest == steps


def test_a_held_out_text_shorter_than_the_rows_is_read_completely() -> None:
    network = _network()
    before, ids = np.tile(np.array([1, 2], np.int32), 50), np.array([3, 4, 5], np.int32)
    ours = bits_per_character(network, ids, before=before, rows=64)
    assert ours == pytest.approx(_naive(network, before, ids), abs=1e-3)


def test_an_unknown_character_costs_a_finite_amount() -> None:
    bits = bits_per_character(_network(), np.array([0, 1], np.int32), before=np.array([1], np.int32))
    assert 0 < bits < 20


def test_a_sample_is_repeatable_and_of_known_characters() -> None:
    network, vocabulary = _network(), Vocabulary("abcde")
    texts = [sample(network, vocabulary, prompt="abc", characters=50, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 50
    assert set(texts[0]) <= set("abcde")


def test_samples_follow_the_distribution_after_the_prompt() -> None:
    network, vocabulary, prompt = _network(), Vocabulary("abcde"), "abcab"
    logits, _ = network.step(vocabulary.encode(prompt)[:, None], network.initial_state(1))
    p = np.exp(logits[-1, 0, 1:].astype(float))
    first = [sample(network, vocabulary, prompt=prompt, characters=1, seed=seed) for seed in range(400)]
    shares = [first.count(character) / 400 for character in "abcde"]
    np.testing.assert_allclose(shares, p / p.sum(), atol=0.09)
    two = sample(network, vocabulary, prompt=prompt, characters=2, seed=1)
    assert sample(network, vocabulary, prompt=prompt, characters=1, seed=1) == two[0]


def test_an_unknown_character_costs_what_it_costs_in_a_score() -> None:
    network = _network()
    known, unknown = (
        bits_per_character(network, np.array([an_id], np.int32), before=np.array([1], np.int32))
        for an_id in (1, 0)
    )
    assert unknown == pytest.approx(unknown_bits(network.V)) != known


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("warm_up", [1, 2, 63, 65, 150])
def test_a_mixture_adapts_to_the_characters_of_each_row_and_not_to_its_warm_up(
    rows: int, warm_up: int
) -> None:
    text = np.tile(np.random.default_rng(3).integers(1, V, 40), 9).astype(np.int32)
    network, before, ids = _network(), text[:160], text[160:]
    vocabulary = Vocabulary("abcde")
    experts = experts_of(before, learned_for(vocabulary.decode(before.tolist()), vocabulary))
    length, nats = -(-len(ids) // rows), 0.0
    for at in range(160, len(text), length):
        read = text[at - warm_up : min(at + length, len(text))]
        inputs, own = read[:-1, None], np.zeros((1, experts.state_columns), np.float32)
        logits, _ = network.step(inputs, network.initial_state(), warm_up - 1)
        mix_logits(experts, inputs[: warm_up - 1], own, 0, warm_up - 1, logits[:0])
        mix_logits(experts, inputs[warm_up - 1 :], own, 0, 0, logits)
        nats -= np.take_along_axis(log_softmax(logits[:, 0]), read[warm_up:, None] - 1, 1).sum()
    found = bits_by_expert(network, {"mixed": experts}, ids, before=before, rows=rows, warm_up=warm_up)
    assert found["mixed"] == pytest.approx(nats / np.log(2) / len(ids), abs=1e-4)
    alone = bits_per_character(network, ids, before=before, rows=rows, warm_up=warm_up)
    assert found["lstm"] == pytest.approx(alone, abs=1e-6) != found["mixed"]
