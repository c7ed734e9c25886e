"""Properties of the mixture on random texts: probabilities, weights of zero, orders that do not matter."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nextchar.models.kernels.mixture_arguments import (
    HISTORY_MATCH_BOOSTS,
    MATCH_BOOSTS,
    RESUMED_BOOSTS,
    WEIGHTS,
)
from nextchar.models.runtime import mixture
from nextchar.models.runtime.mixture import experts_of, mix_logits
from tests.models.runtime.mixtures import ADAPTATION, random_mixture_weights

Floats = NDArray[np.float32]

RECENT_ONLY = ADAPTATION * np.array([1, 0, 0, 0, 0], np.float32)


@dataclass
class Case:
    """A known text (N,), what is read after it (T, B), and a network's logits (T, B, V)."""

    known: NDArray[np.int32]
    ids: NDArray[np.int32]
    network: Floats
    adaptation: Floats

    def mixed(self, weights: Floats) -> Floats:
        """Return the mixture's logits (T, B, V)."""
        size = self.network.shape[2]
        experts = experts_of(self.known, weights, size=size, adaptation=self.adaptation)
        state = np.zeros((self.ids.shape[1], experts.state_columns), np.float32)
        logits = self.network.copy()
        mix_logits(experts, self.ids, state, 0, 0, logits)
        return logits


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Texts of few characters, some unknown, so that they repeat, and what is read repeats the known text."""
    size, rows = draw(st.integers(2, 6)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    known = np.tile(random.integers(0, size, draw(st.integers(1, 40))), 2).astype(np.int32)
    known[0] = 1  # at least one is known
    ids = np.stack([np.concatenate([known[-20:], random.integers(0, size, 30)]) for _ in range(rows)], 1)
    network = random.normal(0, 3, (*ids.shape, size)).astype(np.float32)
    return Case(
        known, ids.astype(np.int32), network, draw(st.sampled_from([ADAPTATION, RECENT_ONLY, mixture.FIXED]))
    )


@settings(max_examples=40)
@given(cases(), st.integers(0, 9))
def test_probabilities_are_positive_and_sum_to_1(case: Case, seed: int) -> None:
    logits = case.mixed(random_mixture_weights(seed))[..., 1:].astype(float)
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(-1), 1)


@settings(max_examples=40)
@given(cases())
def test_an_expert_of_weight_0_changes_nothing(case: Case) -> None:
    case.adaptation = mixture.FIXED
    only_network, without_network = np.zeros(WEIGHTS, np.float32), random_mixture_weights()
    only_network[:MATCH_BOOSTS:2] = 1
    without_network[:MATCH_BOOSTS:2] = 0
    np.testing.assert_array_equal(case.mixed(only_network), case.network)
    mixed = case.mixed(without_network)
    case.network = case.network[::-1, :, ::-1].copy()
    np.testing.assert_array_equal(case.mixed(without_network), mixed)


@settings(max_examples=40)
@given(cases(), st.integers(0, 9))
def test_the_order_of_rows_does_not_matter(case: Case, seed: int) -> None:
    weights = random_mixture_weights(seed)
    rows = np.random.default_rng(seed).permutation(case.ids.shape[1])
    reordered = Case(case.known, case.ids[:, rows].copy(), case.network[:, rows].copy(), case.adaptation)
    np.testing.assert_array_equal(reordered.mixed(weights), case.mixed(weights)[:, rows])


@settings(max_examples=40)
@given(cases(), st.integers(0, 9))
def test_the_order_of_ids_does_not_matter(case: Case, seed: int) -> None:
    """But for matches in the known text, which are found by a hash of ids that may collide."""
    case.adaptation = RECENT_ONLY
    weights = random_mixture_weights(seed)
    weights[MATCH_BOOSTS:HISTORY_MATCH_BOOSTS] = weights[RESUMED_BOOSTS:] = 0
    mixed, size = case.mixed(weights), case.network.shape[2]
    new = np.append(0, 1 + np.random.default_rng(seed).permutation(size - 1)).astype(np.int32)  # by old id
    renamed = Case(new[case.known], new[case.ids], np.empty_like(case.network), case.adaptation)
    renamed.network[..., new] = case.network
    np.testing.assert_allclose(renamed.mixed(weights)[..., new][..., 1:], mixed[..., 1:], atol=1e-4)
