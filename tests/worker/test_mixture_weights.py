"""A mixture that learns from a text, and to use its network on held-out text."""

import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.kernels.mixture_arguments import BY_NETWORK, STATE_COLUMNS, Experts
from nextchar.models.runtime.mixture import FILE, experts_of, load, without_adaptation
from nextchar.models.runtime.mixture_learning import Seen, learn_text, learned_by
from nextchar.models.runtime.session import Network
from nextchar.worker import experts as worker_experts
from nextchar.worker.evaluation import bits_by_expert
from nextchar.worker.experts import Mixture, _logits, begin_reading, learn_network
from nextchar.worker.prepared_text import MIN_DIVIDED_CHARACTERS, Text
from tests.models.runtime.networks import random_weights

random = np.random.default_rng(0)
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]
PROSE = " ".join(random.choice(WORDS, 4000))
ENTROPY = np.log2(5) / (np.mean([len(word) for word in WORDS]) + 1)  # bits per character of random words


def text_of(text: str = PROSE) -> Text:
    return Text.split(text, validation_fraction=0.2)


def network_for(text: Text) -> Network:
    """An untrained network."""
    return Network(stateful_lstm_graph(random_weights(len(text.vocabulary), 4, [6])))


def made(text: Text, *, is_records: bool = False) -> Mixture:
    return Mixture.make(network_for(text), text, begin_reading(text, is_records=is_records))


def test_random_words_are_predicted_as_well_as_they_can_be() -> None:
    text = text_of()
    bits = made(text).bits(network_for(text), text, characters=4000)
    assert ENTROPY - 0.02 < bits["mixture"] < ENTROPY + 0.05
    assert bits["mixture"] < bits["ngram"] + 0.02 and bits["mixture"] < bits["lstm"] / 2


def test_a_network_that_knows_is_believed() -> None:
    """Random letters, of which only the network knows the next: its logits have it."""
    from nextchar.models.kernels.mixture_training import learn

    text = Text.split("".join(random.choice(list("abcdefgh"), 12_000)), validation_fraction=0.5)
    learned, seen = learn_text(text.train, text.vocabulary)
    experts, ids = experts_of(text.train, without_adaptation(learned)), text.selection[:3000].astype(np.int32)
    logits = np.zeros((len(ids), len(text.vocabulary)), np.float32)
    logits[np.arange(len(ids)), ids] = 5
    state, behind = np.zeros((1, STATE_COLUMNS), np.float32), np.zeros((0, STATE_COLUMNS), np.float32)
    bits = learn(*experts, *seen, ids, behind, state, logits, 0) / len(ids)
    assert bits < 0.2 < np.log2(8)


def test_what_is_counted_while_reading_is_what_is_counted_at_once() -> None:
    text = text_of()
    learned, _ = learn_text(text.train, text.vocabulary)
    experts = experts_of(text.train, learned)
    counting = experts_of(text.train, learned, is_counted=False)
    assert not (counting.entries >> 16 & 0x7FFF).any() and not counting.positions.any()
    from nextchar.models.kernels.mixture_training import learn

    row, no_logits = np.zeros((1, STATE_COLUMNS), np.float32), np.zeros((0, 0), np.float32)
    ids = np.append(text.train, np.zeros(2048, np.int32)).astype(np.int32)  # until all are old
    learn(*without_adaptation(counting), *Seen.never(), ids, row.copy(), row, no_logits, len(ids))
    np.testing.assert_array_equal(counting.entries, experts.entries)
    np.testing.assert_array_equal(counting.positions > 0, experts.positions > 0)


def test_unknown_characters_are_not_learned() -> None:
    text = text_of()
    learned, seen = learn_text(text.train, text.vocabulary)
    experts = experts_of(text.train, without_adaptation(learned))
    ids = text.selection[:1000].copy()
    ids[::2] = 0
    learn_network(network_for(text), experts, seen, ids, before=text.train)
    assert all(np.isfinite(array).all() for array in learned_by(experts))


def test_logits_of_the_held_out_text_follow_the_text_before() -> None:
    text = text_of()
    network, lead, ids = network_for(text), text.train[-300:], text.selection[:700]
    logits = _logits(network, lead, ids)
    whole = np.concatenate([lead, ids])[:-1, None]
    expected, _ = network.step(whole, network.initial_state())
    np.testing.assert_allclose(logits, expected[-700:, 0], atol=1e-5)


def test_short_texts_do_not_learn_to_use_the_network() -> None:
    text = Text.split(PROSE[: 4 * MIN_DIVIDED_CHARACTERS], validation_fraction=0.2)
    assert text.is_undivided and len(text.test) == len(text.selection) == len(text.validation)
    mixture, (learned, _) = made(text), learn_text(text.train, text.vocabulary)
    assert mixture.experts is not None and not mixture.has_learned_weights
    np.testing.assert_array_equal(mixture.experts.weights, learned.weights)
    bits = mixture.bits(network_for(text), text, characters=1000)
    assert bits["mixture"] < bits["lstm"]


def test_the_mixture_knows_the_text_its_weights_were_learned_on() -> None:
    text = text_of(PROSE[:8000] + "".join(random.choice(list("alphbetgmdsion "), 4000)))
    experts = made(text).experts
    assert experts is not None
    np.testing.assert_array_equal(experts.text, np.concatenate([text.train, text.selection]).astype(np.int32))


def test_a_mixture_adapts_to_text_unlike_what_its_weights_were_learned_on() -> None:
    """The held-out text repeats the training text, and ends with something else."""
    noise = "".join(random.choice(list("alphbetgmdsion "), 4000))
    text = text_of(PROSE[:14_000] + PROSE[:2000] + noise[:2000])
    network, mixture = network_for(text), made(text)
    assert mixture.experts is not None and mixture.experts.adapts
    bits = mixture.bits(network, text, characters=2000)
    assert bits["mixture"] < bits["without_adaptation"] - 0.03
    again = load(mixture.files[FILE], size=network.V, upgrade=lambda _: pytest.fail("it is of this version"))
    for ours, theirs in zip(again, mixture.experts, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_experts_the_network_predicts_alone() -> None:
    text, alone = text_of(), Mixture()
    network = network_for(text)
    assert alone.with_network(network) is network and not alone.files
    bits = alone.bits(network, text, characters=500)
    mixed = made(text).bits(network, text, characters=500)
    assert bits == {name: mixed[name] for name in ("lstm", "ngram")}


def test_records_do_not_count_what_was_before_their_line() -> None:
    text = text_of(PROSE.replace(" ", "\n"))
    mixture, network = made(text, is_records=True), network_for(text)
    assert mixture.has_learned_weights and mixture.experts is not None and not mixture.experts.adapts
    assert "without_adaptation" not in mixture.bits(network, text, characters=500)
    line = text.vocabulary.encode("\nalpha")
    for before in ("", "gamma\nbeta", "\n\n"):
        ids = np.concatenate([text.vocabulary.encode(before), line])
        _, state = mixture.with_network(network).step(
            ids[:, None], mixture.with_network(network).initial_state()
        )
        read = state[0, -mixture.experts.state_columns :].view(np.int32)
        if not before:
            expected = read
        np.testing.assert_array_equal(read, expected)


def test_text_of_one_character() -> None:
    text = text_of("a" * 10_000)
    bits = made(text).bits(network_for(text), text, characters=1000)
    assert all(np.isfinite(b) and b < 0.2 for b in bits.values())


def test_parts_of_the_held_out_text() -> None:
    text = text_of()
    np.testing.assert_array_equal(np.concatenate([text.selection, text.test]), text.validation)
    assert len(text.test) == -(-len(text.validation) // 2)
    before = np.concatenate([text.train, text.selection])
    for characters in (10, len(text.selection), len(text.selection) + 10, 10**9):
        np.testing.assert_array_equal(text.before_test(characters), before[-characters:])


def test_experts_are_judged_side_by_side_as_alone() -> None:
    text = text_of(PROSE[:8000])
    network, mixture = network_for(text), made(text)
    assert mixture.experts is not None
    ids, before = text.test[:300].astype(np.int32), text.before_test(500)
    two = {"a": mixture.experts, "b": without_adaptation(mixture.experts)}
    both = bits_by_expert(network, two, ids, before=before, rows=2, warm_up=500)
    alone = bits_by_expert(network, {"b": two["b"]}, ids, before=before, rows=2, warm_up=500)
    assert both["b"] == alone["b"] != both["a"]


def test_longer_training_learns_from_more_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_experts, "LEARNED_CHARACTERS", 1000)
    text = text_of()
    decisions = [
        begin_reading(text, is_records=False, budget_s=budget_s).result()[1].last_weights[0]
        for budget_s in (0, 1, 2)
    ]
    assert decisions[0] < decisions[1] / 4 < decisions[2] / 7


@pytest.mark.parametrize("best", [0.2, 0.8])
def test_of_a_short_text_learning_begins_with_the_best_weight_of_the_network(
    best: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of()
    assert len(text.selection) <= worker_experts._MAX_COMPARED
    learned, _ = learn_text(text.train, text.vocabulary)
    experts = experts_of(text.train, learned)
    others = experts.weights.copy()

    def bits_of(_: Network, candidates: dict[str, Experts], *__: object, **___: object) -> dict[str, float]:
        return {"lstm": -1.0} | {share: abs(float(share) - best) for share in candidates}

    monkeypatch.setattr(worker_experts, "bits_by_expert", bits_of)
    worker_experts._choose_first_weight(network_for(text), experts, text.selection, text.train)
    assert experts.weights[:, BY_NETWORK] == pytest.approx(best)
    rest = np.arange(experts.weights.shape[1]) != BY_NETWORK
    assert experts.weights[:, rest] == pytest.approx(others[:, rest] * (1 - best) / 0.8)


def test_an_untrained_network_is_believed_least() -> None:
    text = text_of()
    learned, _ = learn_text(text.train, text.vocabulary)
    experts = experts_of(text.train, without_adaptation(learned))
    worker_experts._choose_first_weight(network_for(text), experts, text.selection, text.train)
    assert (experts.weights == learned.weights).all() and learned.weights[0, BY_NETWORK] == 0.203125


def test_learned_weights_have_five_bits_so_that_files_are_small() -> None:
    text = text_of()
    learned, _ = learn_text(text.train, text.vocabulary)
    mantissas = np.frexp(learned.weights)[0] * 32
    assert (mantissas == np.round(mantissas)).all() and len(np.unique(learned.weights)) > 100
