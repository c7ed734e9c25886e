"""Counts held-out records that also occur in the training text: a model and the baselines may know them."""

import numpy as np

from nextchar.models.report import HeldOutLines
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker.prepared_text import Ids

_TRAINING_CHARACTERS = 5_000_000  # from the end of the training text
_HELD_OUT_CHARACTERS = 1_000_000  # from the beginning of the held-out text


def measure(train: Ids, validation: Ids, vocabulary: Vocabulary) -> HeldOutLines:
    """Return how many held-out lines there are and the fraction of them that are in the training text.

    Both are texts of records, (N,) and (M,) ids of whole lines. Of large texts a part is compared.
    """
    held_out = _lines(validation[:_HELD_OUT_CHARACTERS], vocabulary)
    known = set(_lines(train[-_TRAINING_CHARACTERS:], vocabulary))
    repeated = sum(line in known for line in held_out)
    return {"compared": len(held_out), "repeated_share": repeated / len(held_out)}


def _lines(ids: Ids, vocabulary: Vocabulary) -> list[str]:
    text = vocabulary.decode(np.asarray(ids))
    return text.removesuffix("\n").split("\n")
