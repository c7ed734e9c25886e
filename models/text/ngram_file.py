"""The n-grams of a saved model that anomaly scores are made with: their file.

Only the end of the training text is counted, which bounds file and memory.
"""

import io

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.text.array_file import read_arrays
from nextchar.models.text.ngram import Ids, NgramModel
from nextchar.models.text.vocabulary import Vocabulary

FILE = "ngram.npz"
"""The name of its file in a saved model. Older and imported models may have none."""

ORDER = 5
MAX_CHARACTERS = 1_000_000
"""Maximum number of characters, at the end of the training text. The file has some hundred kilobytes for a
log, two
megabytes for prose."""

_MAX_BYTES = 256 << 20  # of the arrays; five orders of MAX_CHARACTERS n-grams have at most 80 MB


def ngram_of(ids: Ids, vocabulary: Vocabulary) -> NgramModel:
    """Return the n-gram model of the end of a training text of ids (N,)."""
    counted = np.asarray(ids[-MAX_CHARACTERS:])
    return NgramModel.fit_ids(counted, size=len(vocabulary), order=ORDER, vocabulary=vocabulary)


def dump(model: NgramModel) -> bytes:
    """Return the contents of FILE: the n-grams of each order, delta-encoded, and their counts."""
    arrays: dict[str, NDArray[np.int64]] = {}
    for n, (grams, counts) in enumerate(model.counted(), 1):
        arrays[f"grams_{n}"] = np.diff(grams, prepend=0)
        arrays[f"counts_{n}"] = counts
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **{name: _narrow(a) for name, a in arrays.items()})
    return file.getvalue()


def load(data: bytes, vocabulary: Vocabulary) -> NgramModel:
    """Return the n-gram model in the contents of FILE. Raises Unavailable if damaged (`model_damaged`)."""
    try:
        arrays = read_arrays(data, max_bytes=_MAX_BYTES)
        if not all(array.dtype.kind in "iu" and array.ndim == 1 for array in arrays.values()):
            raise ValueError("an array has no integers")  # noqa: TRY301
        counted = [
            (arrays[f"grams_{n}"].astype(np.int64).cumsum(), arrays[f"counts_{n}"].astype(np.int64))
            for n in range(1, 1 + len(arrays) // 2)
        ]
        return NgramModel.of_counts(counted, vocabulary)
    except (ValueError, KeyError) as error:
        raise Unavailable(f"{FILE} is damaged ({type(error).__name__})", code="model_damaged") from None


def _narrow(values: NDArray[np.int64]) -> NDArray[np.signedinteger]:
    is_small = not values.size or values.max() <= np.iinfo(np.int32).max
    return values.astype(np.int32) if is_small else values
