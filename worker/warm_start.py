"""Warm start: a network that begins with the weights of a saved model, with a larger vocabulary if needed.

The weights are read from the model's graph, whose embedding has any normalization folded in. So before the
first step the network computes the same as the saved model. The optimizer's state starts at zero.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import architecture
from nextchar.models.architectures.onnx_graph import stateful_lstm_weights
from nextchar.models.architectures.spec import Weights
from nextchar.models.base import BaseModel, base_references, find_base, is_base
from nextchar.models.errors import NotFound, Unavailable
from nextchar.models.runtime.model_networks import FLOAT32_FILE
from nextchar.models.runtime.session import Network
from nextchar.models.text.masks import PLACEHOLDERS
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.store.models import Models
from nextchar.worker.evaluation import bits_per_character
from nextchar.worker.prepared_text import Text
from nextchar.worker.report import encoder_of, ppmd_bytes


@dataclass(frozen=True)
class WarmStart:
    """The weights of a saved model, and their vocabulary."""

    vocabulary: Vocabulary
    weights: Weights

    @classmethod
    def load(cls, models: Models, reference: str) -> "WarmStart":
        """Read the model `name@version`, or a base model.

        Raises:
            NotFound: it was deleted or renamed after the job was queued (code `start_from_deleted`), or the
                package has no such base model (`base_not_found`).
            Unavailable: a file is damaged, or its graph is not of a StatefulLSTM (code `model_damaged`).
        """
        if is_base(reference):
            return cls.of_base(find_base(reference))
        try:
            saved = models.get(reference)
        except NotFound:
            raise NotFound(
                f"model {reference}, which this job starts from, was deleted or renamed after the job was"
                " queued; train without start_from, or start from another model",
                code="start_from_deleted",
            ) from None
        try:
            weights = dict(stateful_lstm_weights(saved.file(FLOAT32_FILE)))
        except (ValueError, KeyError) as error:
            raise _unusable(reference, str(error)) from None
        if len(weights["embedding"]) != len(saved.vocabulary):
            raise _unusable(
                reference, f"its graph has {len(weights['embedding'])} ids and its card another number"
            )
        return cls(saved.vocabulary, weights)

    @classmethod
    def of_base(cls, base: BaseModel) -> "WarmStart":
        """Return the weights and the vocabulary of a base model."""
        return cls(Vocabulary(base.characters), base.weights)

    @property
    def required(self) -> str:
        """The characters that the network has in any case: without masks it needs no placeholders."""
        return "".join(one for one in self.vocabulary.characters if one not in PLACEHOLDERS)

    def expand(self, vocabulary: Vocabulary) -> Weights:
        """Return the weights for `vocabulary`, which has all old characters and may have more.

        The embedding and the output column of a new character are the means of the old ones. All new
        characters together start with the probability of the least likely old one, so the old predictions
        hardly change.
        """
        # (V,) the old id of each new id; id 0 stays, -1 is a new character
        old_ids = self.vocabulary.encode(vocabulary.characters)
        old_ids = np.concatenate([[0], np.where(old_ids > 0, old_ids, -1)])
        is_new = old_ids < 0
        embedding, kernel, bias = (self.weights[k] for k in ("embedding", "dense/kernel", "dense/bias"))
        new_bias = bias[1:].min() - np.log(max(1, is_new.sum()))
        return self.weights | {
            "embedding": _take_rows(embedding, old_ids, new=embedding[1:].mean(0)),
            "dense/kernel": _take_rows(kernel.T, old_ids, new=kernel[:, 1:].mean(1)).T,
            "dense/bias": np.where(is_new, new_bias, bias[old_ids]).astype(np.float32),
        }


@dataclass(frozen=True)
class BaseChoice:
    """A base model for a text.

    Attributes:
        reference: its name and version.
        start: its weights.
        bits: its bits per character on a sample of the text, which it has not learned from.
        ppmd_bits: those of PPMd, which has read the text before the sample.
    """

    reference: str
    start: WarmStart
    bits: float
    ppmd_bits: float

    @property
    def sentence(self) -> str:
        """A message for the job."""
        return (
            f"training starts from {self.reference}: before it learns from the text it has {self.bits:.2f}"
            f" bits per character on a sample, and PPMd after the text before that {self.ppmd_bits:.2f}; to"
            ' start from random weights, pass "base": false'
        )


_SAMPLE_CHARACTERS = 4096  # from the end of the training text; at most half of it
_WARM_UP, _ROWS = 128, 16
_PPMD_ORDER = 4
_MAX_PPMD_RATIO = 1.6  # of the base model's bits; where it was 1.56, PHP, the base model saved 19 %
_MAX_UNIGRAM_RATIO = 0.8  # likewise: of random characters PPMd has more bits than their entropy


def choose_base(text: Text, *, threads: int) -> BaseChoice | None:
    """Return the base model that predicts a text best; None if all predict it badly."""
    length = min(_SAMPLE_CHARACTERS, len(text.train) // 2)
    before, sample = text.train[:-length], text.train[-length:]
    encode = encoder_of(text.vocabulary)
    known, whole = (ppmd_bytes(_PPMD_ORDER, encode(ids)) for ids in (before, text.train[:]))
    ppmd_bits = (whole - known) * 8 / length
    choices = []
    for reference in base_references():
        base = find_base(reference)
        start = WarmStart.of_base(base)
        graph = architecture(base.network.architecture).graph(base.network, start.expand(text.vocabulary))
        network = Network(graph, threads=threads)
        bits = bits_per_character(network, sample, before=before, rows=_ROWS, warm_up=_WARM_UP)
        choices.append(BaseChoice(reference, start, bits, ppmd_bits))
    best = min(choices, key=lambda choice: choice.bits, default=None)
    frequencies = text.frequencies()
    unigram_bits = -float(np.sum(frequencies * np.log2(np.where(frequencies > 0, frequencies, 1))))
    max_bits = min(_MAX_PPMD_RATIO * ppmd_bits, _MAX_UNIGRAM_RATIO * unigram_bits)
    return best if best and best.bits < max_bits else None


def _unusable(reference: str, reason: str) -> Unavailable:
    return Unavailable(f"training cannot start from model {reference}: {reason}", code="model_damaged")


def _take_rows(
    rows: NDArray[np.float32], indices: NDArray[np.integer], *, new: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return `rows[indices]`, with the row `new` where an index is negative."""
    return np.where(indices[:, None] < 0, new, rows[indices])
