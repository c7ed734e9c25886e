"""Makes what a trained model predicts with, a mixture or the network alone, and measures the experts."""

from dataclasses import dataclass, field

import numpy as np

from nextchar.models.kernels.compile_cache import WEIGHTS_KERNELS, compile_kernels
from nextchar.models.kernels.mixture_arguments import (
    ALL_BOOSTS_PRECISION,
    BOOST_PRECISION,
    MATCH_BOOSTS,
    Experts,
)
from nextchar.models.runtime import mixture
from nextchar.models.runtime.session import Check, SharedNetwork, StepNetwork, no_check
from nextchar.worker.evaluation import bits_by_expert
from nextchar.worker.mixture_weights import default_adaptation, default_weights, learned_weights
from nextchar.worker.prepared_text import Text

_WARM_UP_CHARACTERS = 2000  # read before each row of the held-out text
_MIN_ROW_CHARACTERS = 4096  # a mixture adapts to its row
_MAX_ROWS = 64


@dataclass(frozen=True)
class Mixture:
    """The experts other than the network.

    Attributes:
        experts: with their weights; they know all text before `Text.test`. None: the network predicts alone.
        has_learned_weights: False if the held-out text is too short for that.
        files: the file of the model that holds them.
    """

    experts: Experts | None = None
    has_learned_weights: bool = False
    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def make(
        cls, network: StepNetwork, text: Text, *, is_records: bool, check: Check = no_check
    ) -> "Mixture":
        """Return the mixture of a trained network, with weights learned on `text.selection`.

        The experts whose weights are learned know the training text alone. Those of the mixture also know the
        text that the weights were learned on, which is more and newer text. `check` as in `learned_weights`.
        """
        compile_kernels(WEIGHTS_KERNELS)  # waits if another process is compiling
        size = network.V
        weights = default_weights(has_history_matches=not is_records)
        adaptation = default_adaptation(size, is_records=is_records)
        if not text.is_undivided:
            weights = learned_weights(
                network,
                mixture.experts_of(
                    text.train[-mixture.MAX_CHARACTERS :], weights, size=size, adaptation=adaptation
                ),
                text.selection,
                before=text.train,
                has_history_matches=not is_records,
                check=check,
            )
        kept = text.before_test(mixture.MAX_CHARACTERS)
        experts = mixture.experts_of(kept, weights, size=size, adaptation=adaptation)
        return cls(experts, not text.is_undivided, {mixture.FILE: mixture.dump(kept, weights, adaptation)})

    def with_network(self, network: SharedNetwork) -> StepNetwork:
        """Return the mixture with a network, or the network alone."""
        return mixture.make_mixture(network, self.experts) if self.experts else network

    def bits(
        self, network: StepNetwork, text: Text, *, characters: int, by_expert: bool = True
    ) -> dict[str, float]:
        """Return the bits per character of the first `characters` of `text.test`, by each expert.

        `mixture` is the mixture, `lstm` the network, `ngram` the n-grams, `without_matches` the mixture of
        both, `without_adaptation` the mixture that does not adapt to what it reads. Without experts there are
        only `lstm` and `ngram`; `without_adaptation` is left out if the mixture never adapts. Not
        `by_expert` there are only `mixture` and `lstm`.
        """
        mixtures: dict[str, Experts] = {"mixture": self.experts} if self.experts else {}
        if self.experts and by_expert:
            weights = self.experts.weights.copy()
            weights[MATCH_BOOSTS:] = 0
            adaptation = self.experts.adaptation.copy()
            if self.experts.adapts:
                adaptation[[BOOST_PRECISION, ALL_BOOSTS_PRECISION]] = np.inf  # no matches are learned
            without = self.experts._replace(weights=weights, adaptation=adaptation)
            mixtures["without_matches"] = without
            if adaptation.any():
                mixtures["without_adaptation"] = self.experts._replace(adaptation=mixture.FIXED)
        ids, before = text.test[:characters], text.before_test(_WARM_UP_CHARACTERS)
        rows = rows_to_judge(len(ids))
        bits = bits_by_expert(network, mixtures, ids, before=before, rows=rows, warm_up=_WARM_UP_CHARACTERS)
        if by_expert:
            ngrams = mixture.ngrams_of(text.before_test(mixture.MAX_CHARACTERS), size=network.V)
            bits["ngram"] = float(ngrams.bits_by_order(ids, before=before)[-1])
        return bits


def rows_to_judge(characters: int) -> int:
    """Return how many parallel rows of held-out text the figures of the report are measured in."""
    return min(_MAX_ROWS, max(1, characters // _MIN_ROW_CHARACTERS))
