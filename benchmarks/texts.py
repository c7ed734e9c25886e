"""Splits a text into training and held-out parts as the worker does, without TensorFlow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextchar.models.text.vocabulary import Vocabulary, normalize

HELD_OUT = 0.1  # of the text, at its end


@dataclass(frozen=True)
class SplitText:
    """Both parts as ids of the training part's vocabulary, (N,) int32."""

    vocabulary: Vocabulary
    train: NDArray[np.int32]
    held_out: NDArray[np.int32]

    @classmethod
    def read(cls, path: Path) -> "SplitText":
        """Read a UTF-8 file. Raises OSError, UnicodeDecodeError."""
        text = normalize(path.read_bytes().decode())
        count = max(1, round(len(text) * HELD_OUT))
        vocabulary = Vocabulary(text[:-count])
        return cls(vocabulary, vocabulary.encode(text[:-count]), vocabulary.encode(text[-count:]))
