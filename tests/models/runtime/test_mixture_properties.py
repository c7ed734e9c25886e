"""Properties of the mixture on random texts: probabilities, and orders that do not matter."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nextchar.models.runtime.mixture import experts_of, mix_logits, without_adaptation
from nextchar.models.text.vocabulary import Vocabulary
from tests.models.runtime.mixtures import learned_for

Floats = NDArray[np.float32]
LETTERS = "a \nb1"


@dataclass
class Case:
    """A known text (N,), what is read after it (T, B), and a network's logits (T, B, V)."""

    known: NDArray[np.int32]
    ids: NDArray[np.int32]
    network: Floats
    adapts: bool
    is_records: bool

    def mixed(self, seed: int) -> Floats:
        """Return the mixture's logits (T, B, V)."""
        vocabulary = Vocabulary(LETTERS[: self.network.shape[2] - 1])
        text = vocabulary.decode(self.known.tolist())
        learned = learned_for(text, vocabulary, seed=seed, is_records=self.is_records)
        learned = learned if self.adapts else without_adaptation(learned)
        experts = experts_of(self.known, learned)
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
    return Case(known, ids.astype(np.int32), network, draw(st.booleans()), draw(st.booleans()))


@settings(max_examples=40)
@given(cases(), st.integers(0, 9))
def test_probabilities_are_positive_and_sum_to_1(case: Case, seed: int) -> None:
    logits = case.mixed(seed)[..., 1:].astype(float)
    if logits.shape[-1] > 1:  # else there is nothing to decide
        np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-5)
    assert (logits > -100).all()


@settings(max_examples=40)
@given(cases(), st.integers(0, 9))
def test_the_order_of_rows_does_not_matter(case: Case, seed: int) -> None:
    rows = np.random.default_rng(seed).permutation(case.ids.shape[1])
    reordered = Case(
        case.known, case.ids[:, rows].copy(), case.network[:, rows].copy(), case.adapts, case.is_records
    )
    np.testing.assert_array_equal(reordered.mixed(seed), case.mixed(seed)[:, rows])
