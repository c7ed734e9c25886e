"""The n-gram model that reads lines beside the network, and is kept with it as one file.

A network that was trained for a minute, or on little, finds less than counting does; one that was trained
well finds more, and still not everything. So both read each line, and the calibration says how much each
weighs (`models.anomaly.calibration`). It counts the end of the
training text only, so that its file and its memory are bounded.
"""

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.errors import Unavailable
from models.runtime.scoring import LineSurprisal
from models.text.ngram import Ids, NgramModel
from models.text.vocabulary import Vocabulary

FILE = "ngram.npz"
"""Its name in a saved model. Models from before there was one, and imported ones, may lack it."""

ORDER = 5
MOST_CHARACTERS = 1_000_000
"""Of the training text, from its end. A log takes some hundred kilobytes, prose two megabytes."""


def ngram_of(ids: Ids, vocabulary: Vocabulary) -> NgramModel:
    """Return the model that counts the end of a training text of ids (N,)."""
    counted = NgramModel.fit_ids(np.asarray(ids[-MOST_CHARACTERS:]), size=len(vocabulary), order=ORDER)
    return counted.for_vocabulary(vocabulary)


def dump(model: NgramModel) -> bytes:
    """Return the contents of FILE: of each order the n-grams, as differences, and their counts."""
    arrays: dict[str, NDArray[np.int64]] = {}
    for n, (grams, counts) in enumerate(model.counted(), 1):
        arrays[f"grams_{n}"] = np.diff(grams, prepend=0)
        arrays[f"counts_{n}"] = counts
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **{name: _narrow(a) for name, a in arrays.items()})
    return file.getvalue()


def load(data: bytes, vocabulary: Vocabulary) -> NgramModel:
    """Return the model of a FILE. Raises Unavailable: it is damaged (code `model_damaged`)."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            orders = range(1, 1 + len(arrays.files) // 2)
            counted = [
                (arrays[f"grams_{n}"].astype(np.int64).cumsum(), arrays[f"counts_{n}"].astype(np.int64))
                for n in orders
            ]
        return NgramModel.of_counts(counted, vocabulary)
    except (ValueError, KeyError, IndexError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Unavailable(f"{FILE} is damaged ({type(error).__name__})", code="model_damaged") from None


def with_ngram(
    readings: Sequence[LineSurprisal], lines: Sequence[str], model: NgramModel
) -> list[LineSurprisal]:
    """Return readings of lines with what the n-gram model thought of them, each after a newline."""
    read = [line + "\n" if one.has_end else line for one, line in zip(readings, lines, strict=True)]
    bits = model.surprisals(read)
    return [replace(one, ngram_bits=b.astype(np.float32)) for one, b in zip(readings, bits, strict=True)]


def _narrow(values: NDArray[np.int64]) -> NDArray[np.signedinteger]:
    is_small = not values.size or values.max() <= np.iinfo(np.int32).max
    return values.astype(np.int32) if is_small else values
