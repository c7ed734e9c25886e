"""Warm start: a network that begins with the weights of a saved model, with a larger vocabulary if needed.

The weights are read from the model's graph, whose embedding has any normalization folded in. So before the
first step the network computes the same as the saved model. The optimizer's state starts at zero.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.onnx_graph import stateful_lstm_weights
from nextchar.models.architectures.spec import Weights
from nextchar.models.errors import NotFound, Unavailable
from nextchar.models.runtime.model_networks import FLOAT32_FILE
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.store.models import Models


@dataclass(frozen=True)
class WarmStart:
    """The weights of a saved model, and their vocabulary."""

    vocabulary: Vocabulary
    weights: Weights

    @classmethod
    def load(cls, models: Models, reference: str) -> "WarmStart":
        """Read the model `name@version`.

        Raises:
            NotFound: it was deleted or renamed after the job was queued (code `start_from_deleted`).
            Unavailable: a file is damaged, or its graph is not of a StatefulLSTM (code `model_damaged`).
        """
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


def _unusable(reference: str, reason: str) -> Unavailable:
    return Unavailable(f"training cannot start from model {reference}: {reason}", code="model_damaged")


def _take_rows(
    rows: NDArray[np.float32], indices: NDArray[np.integer], *, new: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return `rows[indices]`, with the row `new` where an index is negative."""
    return np.where(indices[:, None] < 0, new, rows[indices])
