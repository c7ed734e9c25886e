"""Weights of a mixture, learned on held-out text."""

import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.kernels.mixture_arguments import (
    BY_CONTEXT,
    CONTEXTS,
    FEATURES,
    HISTORY_MATCH_BOOSTS,
    MATCH_BOOSTS,
    MATCH_ID,
    RESUMED_BOOSTS,
    WEIGHTS,
    Experts,
)
from nextchar.models.runtime.mixture import FILE, FIXED, experts_of, load, ngrams_of
from nextchar.models.runtime.session import Network
from nextchar.worker.evaluation import bits_by_expert, bits_per_character
from nextchar.worker.experts import Mixture
from nextchar.worker.mixture_weights import (
    _features,
    _logits,
    _past,
    default_adaptation,
    default_weights,
    learned_weights,
)
from nextchar.worker.prepared_text import MIN_DIVIDED_CHARACTERS, Text
from tests.models.runtime.networks import random_weights

random = np.random.default_rng(0)
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]
PROSE = " ".join(random.choice(WORDS, 4000))


def text_of(text: str = PROSE) -> Text:
    return Text.split(text, validation_fraction=0.2)


def network_for(text: Text) -> Network:
    """An untrained network."""
    return Network(stateful_lstm_graph(random_weights(len(text.vocabulary), 4, [6])))


def experts_for(text: Text) -> Experts:
    size = len(text.vocabulary)
    return experts_of(text.train[:], default_weights(), size=size, adaptation=default_adaptation(size))


def test_learned_weights_predict_better_than_the_defaults_and_each_expert() -> None:
    text = text_of()
    bits = {}
    for name in ("default", "learned"):
        network, experts = network_for(text), experts_for(text)._replace(adaptation=FIXED)
        if name == "learned":
            weights = learned_weights(network, experts, text.selection, before=text.train)
            experts = experts._replace(weights=weights)
        bits |= {
            "lstm": bits_per_character(network, text.test[:], before=text.before_test(100)),
            name: bits_by_expert(network, {"": experts}, text.test[:], before=text.before_test(100))[""],
        }
    bits["ngram"] = ngrams_of(text.train[:], size=network.V).bits_by_order(text.test[:])[-1]
    assert bits["learned"] < bits["default"] - 0.1
    assert bits["learned"] < bits["ngram"] + 0.04  # the best predictor of random words
    assert bits["learned"] < bits["lstm"] / 2  # of an untrained network


def test_gradients_are_those_of_the_loss() -> None:
    from nextchar.models.kernels.mixture_training import add_gradients

    text = text_of(PROSE[:3000] * 2)
    experts, ids = experts_for(text), text.selection[:300]
    logits = _logits(network_for(text), text.train[-50:], ids)
    features, past = _features(experts, text.train[-50:], ids), _past(text.train[-50:], ids)
    assert features.shape == (300, FEATURES)
    assert features[:, MATCH_ID::2].any(0).all()  # all three kinds of matches
    weights = random.uniform(0.1, 1, WEIGHTS)

    def loss(weights: np.ndarray, gradients: np.ndarray) -> float:
        now = weights.astype(np.float32)
        arguments = (*experts[:3], now, experts.adaptation, features, past, np.arange(300), logits, ids)
        return float(add_gradients(*arguments, gradients))

    gradients = np.zeros(WEIGHTS)
    loss(weights, gradients)
    checked = np.flatnonzero(np.abs(gradients) > 0.5)
    assert len(checked) > 10
    for parts in (
        range(CONTEXTS * 2),
        range(MATCH_BOOSTS, HISTORY_MATCH_BOOSTS),
        range(HISTORY_MATCH_BOOSTS, RESUMED_BOOSTS),
    ):
        assert set(parts) & set(checked.tolist())
    for i in checked:
        step = np.zeros(WEIGHTS)
        step[i] = 0.01
        numeric = loss(weights + step, np.zeros(WEIGHTS)) - loss(weights - step, np.zeros(WEIGHTS))
        assert gradients[i] == pytest.approx(numeric / 0.02, rel=0.02, abs=0.05)


def test_unknown_targets_do_not_count() -> None:
    text = text_of()
    experts, network = experts_for(text), network_for(text)
    ids = text.selection[:1000].copy()
    ids[::2] = 0
    weights = learned_weights(network, experts, ids, before=text.train)
    assert np.isfinite(weights).all()


def test_learning_calls_check_before_each_step() -> None:
    text = text_of(PROSE[:6000])
    checks: list[None] = []
    learned_weights(
        network_for(text),
        experts_for(text),
        text.selection,
        before=text.train,
        check=lambda: checks.append(None),
    )
    assert len(checks) >= 400


def test_logits_of_the_held_out_text_follow_the_text_before() -> None:
    text = text_of()
    network, lead, ids = network_for(text), text.train[-300:], text.selection[:700]
    logits = _logits(network, lead, ids)
    whole = np.concatenate([lead, ids])[:-1, None]
    expected, _ = network.step(whole, network.initial_state())
    np.testing.assert_allclose(logits, expected[-700:, 0], atol=1e-5)


def test_short_texts_keep_the_default_weights() -> None:
    text = Text.split(PROSE[: 4 * MIN_DIVIDED_CHARACTERS], validation_fraction=0.2)
    assert text.is_undivided and len(text.test) == len(text.selection) == len(text.validation)
    made = Mixture.make(network_for(text), text, is_records=False)
    assert not made.has_learned_weights
    np.testing.assert_array_equal(made.experts.weights, default_weights())
    bits = made.bits(network_for(text), text, characters=1000)
    assert bits["mixture"] < bits["lstm"]


def test_the_mixture_knows_the_text_its_weights_were_learned_on() -> None:
    text = text_of(PROSE[:8000] + "".join(random.choice(list("alphbetgmdsion "), 4000)))
    made = Mixture.make(network_for(text), text, is_records=False)
    np.testing.assert_array_equal(
        made.experts.text, np.concatenate([text.train, text.selection]).astype(np.int32)
    )


def test_a_mixture_adapts_to_text_unlike_what_its_weights_were_learned_on() -> None:
    """The held-out text repeats the training text, where matches are right, and ends with something else."""
    noise = "".join(random.choice(list("alphbetgmdsion "), 4000))
    text = text_of(PROSE[:14_000] + PROSE[:2000] + noise[:2000])
    network = network_for(text)
    made = Mixture.make(network, text, is_records=False)
    assert made.experts is not None and made.experts.adapts
    bits = made.bits(network, text, characters=2000)
    assert bits["mixture"] < bits["without_adaptation"] - 0.1
    again = load(made.files[FILE], size=network.V)
    np.testing.assert_array_equal(again.adaptation, made.experts.adaptation)


def test_without_experts_the_network_predicts_alone() -> None:
    text, alone = text_of(), Mixture()
    network = network_for(text)
    assert alone.with_network(network) is network and not alone.files
    bits = alone.bits(network, text, characters=500)
    mixed = Mixture.make(network, text, is_records=False).bits(network, text, characters=500)
    assert bits == {name: mixed[name] for name in ("lstm", "ngram")}


def test_records_have_no_repetitions() -> None:
    text = text_of(PROSE.replace(" ", "\n"))
    made = Mixture.make(network_for(text), text, is_records=True)
    assert made.has_learned_weights
    assert not made.experts.weights[HISTORY_MATCH_BOOSTS:RESUMED_BOOSTS].any()
    assert made.experts.weights[RESUMED_BOOSTS + 1 :].all()
    assert made.experts.weights[:MATCH_BOOSTS].all()
    assert not made.experts.adaptation.any()
    assert "without_adaptation" not in made.bits(network_for(text), text, characters=500)
    assert BY_CONTEXT == 0


def test_text_of_one_character() -> None:
    text = text_of("a" * 10_000)
    made = Mixture.make(network_for(text), text, is_records=False)
    bits = made.bits(network_for(text), text, characters=1000)
    assert all(np.isfinite(b) and b < 0.2 for b in bits.values())


def test_parts_of_the_held_out_text() -> None:
    text = text_of()
    np.testing.assert_array_equal(np.concatenate([text.selection, text.test]), text.validation)
    assert len(text.test) == -(-len(text.validation) // 2)
    before = np.concatenate([text.train, text.selection])
    for characters in (10, len(text.selection), len(text.selection) + 10, 10**9):
        np.testing.assert_array_equal(text.before_test(characters), before[-characters:])
