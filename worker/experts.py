"""Makes the mixture that a trained model predicts with, and measures its experts."""

from dataclasses import dataclass

import numpy as np

from models.kernels.compile_cache import WEIGHTS_KERNELS, compile_kernels
from models.kernels.mixture_arguments import REPEAT_BOOSTS, Experts
from models.runtime import mixture
from models.runtime.session import StepNetwork
from models.text import ngram_file
from models.text.ngram import NgramModel
from worker.evaluation import bits_by_expert
from worker.mixture_weights import default_weights, learned_weights
from worker.prepared_text import Ids, Text

_WARM_UP_CHARACTERS = 2000  # read before the held-out text


@dataclass(frozen=True)
class Mixture:
    """The experts beside a network.

    Attributes:
        experts: with their weights.
        ngram: the n-grams among them.
        has_learned_weights: False if the held-out text is too short for that.
        files: the files of the model that hold them.
    """

    experts: Experts
    ngram: NgramModel
    has_learned_weights: bool
    files: dict[str, bytes]

    @classmethod
    def make(cls, network: StepNetwork, text: Text, *, is_records: bool) -> "Mixture":
        """Return the mixture of a trained network, with weights learned on `text.selection`."""
        compile_kernels(WEIGHTS_KERNELS)  # waits if another process is compiling
        ngram = ngram_file.ngram_of(text.train[-ngram_file.MAX_CHARACTERS :], text.vocabulary)
        kept = text.train[-mixture.MAX_CHARACTERS :]
        weights = default_weights(has_repeats=not is_records)
        experts = mixture.experts_of(kept, ngram, weights)
        if not text.is_undivided:
            weights = learned_weights(
                network, experts, text.selection, before=text.train, has_repeats=not is_records
            )
            experts = experts._replace(weights=weights)
        files = {
            ngram_file.FILE: ngram_file.dump(ngram),
            mixture.FILE: mixture.dump(kept, weights),
        }
        return cls(experts, ngram, not text.is_undivided, files)

    def bits(self, network: StepNetwork, ids: Ids, *, before: Ids) -> dict[str, float]:
        """Return the bits per character of ids (N,), which follow `before`, by each expert.

        `lstm` is the network, `ngram` the n-grams, `without_matches` the mixture of both.
        """
        weights = self.experts.weights.copy()
        weights[REPEAT_BOOSTS:] = 0
        without = self.experts._replace(text=np.zeros(0, np.int32), weights=weights)
        mixtures = {"mixture": self.experts, "without_matches": without}
        bits = bits_by_expert(network, mixtures, ids[:], before=before, warm_up=_WARM_UP_CHARACTERS)
        bits["ngram"] = float(self.ngram.bits_by_order(ids[:], before=before[-ngram_file.ORDER :])[-1])
        return bits
