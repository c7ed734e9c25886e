"""Starting from an existing model: its weights, read back from its graph, fitted to a larger vocabulary.

The graph holds the embedding with any normalization folded in, and that is what is started from: before the
first step the network computes what the old one does, whatever the new corpus. The optimizer starts anew.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.architectures.onnx_graph import stateful_lstm_weights
from models.architectures.spec import Weights
from models.errors import NotFound, Unavailable
from models.runtime.engine import FLOAT32_FILE
from models.text.vocabulary import Vocabulary
from store.models import Models


@dataclass(frozen=True)
class Start:
    """What a job starts from: the weights of a saved model, and the characters they are for."""

    vocabulary: Vocabulary
    weights: Weights

    @classmethod
    def load(cls, models: Models, reference: str) -> "Start":
        """Read the model `name@version`.

        Raises:
            NotFound: it has been deleted since the job was queued (code `start_from_deleted`).
            Unavailable: a file is damaged, or is no graph of ours (code `model_damaged`).
        """
        try:
            saved = models.get(reference)
        except NotFound:
            raise NotFound(
                f"model {reference}, from which this job was to start, has been deleted since it was queued;"
                " train without start_from, or start from another model",
                code="start_from_deleted",
            ) from None
        try:
            weights = dict(stateful_lstm_weights(saved.file(FLOAT32_FILE)))
        except (ValueError, KeyError) as error:
            raise _unusable(reference, str(error)) from None
        if len(weights["embedding"]) != len(saved.vocabulary):
            raise _unusable(reference, f"its graph has {len(weights['embedding'])} ids and its card others")
        return cls(saved.vocabulary, weights)

    def grown(self, vocabulary: Vocabulary) -> Weights:
        """Return the weights for `vocabulary`, which has all the old characters and perhaps more.

        A new character's embedding, and its column of the output, are the means of the old ones. All new
        ones together begin as likely as one of the least likely old ones, so they hardly disturb those.
        """
        # (V,) where each new id was before; id 0 stays, and -1 stands for a new character
        before = self.vocabulary.encode(vocabulary.characters)
        before = np.concatenate([[0], np.where(before > 0, before, -1)])
        is_new = before < 0
        old = self.weights
        bias = old["dense/bias"]
        rare = bias[1:].min() - np.log(max(1, is_new.sum()))
        grown = dict(old)
        grown["embedding"] = _with_new(old["embedding"], before, old["embedding"][1:].mean(0))
        grown["dense/kernel"] = _with_new(old["dense/kernel"].T, before, old["dense/kernel"][:, 1:].mean(1)).T
        grown["dense/bias"] = np.where(is_new, rare, bias[before]).astype(np.float32)
        return grown


def _unusable(reference: str, why: str) -> Unavailable:
    return Unavailable(f"model {reference} cannot be started from: {why}", code="model_damaged")


def _with_new(
    rows: NDArray[np.float32], before: NDArray[np.integer], new: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return `rows[before]`, with the row `new` where that is negative."""
    return np.where(before[:, None] < 0, new, rows[before])
