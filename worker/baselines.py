"""Baselines: the bits per character of simple predictors on the held-out text, after the training text.

Each reads a bounded part of a huge text, so that the report takes little time: see `baseline_characters`.
"""

import lzma
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyppmd
from numpy.typing import NDArray

from nextchar.models.report import Report
from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker.prepared_text import Ids

NGRAM_ORDERS = 6
"""n-gram models are measured with contexts of 0 to 5 characters."""

MAX_CHARACTERS = 5_000_000
"""Maximum number of characters before the held-out text in which the n-gram models count: 2 s of one core."""

PPMD_ORDERS = (6, 8, 16)
"""PPMd, variant H as in 7-Zip, is measured with these contexts, in bytes."""

_PPMD_MEMORY = 256 << 20
_COMPRESSED_CHARACTERS = 2_000_000  # from its end: xz compresses 1 MB per second and core, twice
_JUDGED_CHARACTERS = 1_000_000  # from the beginning of the held-out text
_DEFLATE_WINDOW = 32768  # bytes


def measure(train: Ids, validation: Ids, vocabulary: Vocabulary) -> Report:
    """Measure the baselines on `validation` (M,), which follows `train` (N,); both have at least one id.

    Returns:
        The report's `baselines`, `ngram_orders`, `ngram_order` and `baseline_characters`. The baseline
        `ngram` is the best of the orders, a choice that favors it, and so is `ppmd`.
    """
    encode, size = encoder_of(vocabulary), len(vocabulary)
    judged = validation[:_JUDGED_CHARACTERS]
    counted, compressed = train[-MAX_CHARACTERS:], train[-_COMPRESSED_CHARACTERS:]
    before, held_out = encode(compressed), encode(judged)
    with ThreadPoolExecutor(2) as threads:  # compressors release the interpreter lock
        both = [before + held_out, before]
        by_xz = threads.map(lambda data: len(lzma.compress(data)), both)
        by_ppmd = [threads.map(partial(_ppmd_bytes, order), both) for order in PPMD_ORDERS]
        ngram = NgramModel.fit_ids(counted, size=size, order=NGRAM_ORDERS)
        orders = ngram.bits_by_order(judged, before=counted).tolist()
        gzip = len(_deflated(held_out, before))
        xz, *ppmd = (whole - part for whole, part in (by_xz, *by_ppmd))
    return {
        "baselines": {
            "uniform": float(np.log2(max(2, size - 1))),
            "unigram": orders[0],
            "bigram": orders[1],
            "ngram": min(orders),
            "gzip": gzip * 8 / len(judged),
            "xz": xz * 8 / len(judged),
            "ppmd": min(ppmd) * 8 / len(judged),
        },
        "ngram_order": int(np.argmin(orders)) + 1,
        "ngram_orders": orders,
        "baseline_characters": {"ngram": len(counted), "compressed": len(compressed), "judged": len(judged)},
    }


def encoder_of(vocabulary: Vocabulary) -> Callable[[NDArray[np.int32]], bytes]:
    """Return a function from ids to the bytes of their text: UTF-8, or bytes for that alphabet."""
    if vocabulary.alphabet == "bytes":
        table = np.frombuffer(b"\xff" + vocabulary.characters.encode("latin-1"), np.uint8)
        return lambda ids: table[ids].tobytes()
    points = np.array([0xFFFD, *map(ord, vocabulary.characters)], "<u4")
    return lambda ids: points[ids].tobytes().decode("utf-32-le", "replace").encode()


def _ppmd_bytes(order: int, data: bytes) -> int:
    return len(pyppmd.compress(data, max_order=order, mem_size=_PPMD_MEMORY, variant="H"))


def _deflated(data: bytes, before: bytes) -> bytes:
    """Return `data` compressed with DEFLATE after `before`, without a header."""
    compressor = zlib.compressobj(level=9, wbits=-15, zdict=before[-_DEFLATE_WINDOW:])
    return compressor.compress(data) + compressor.flush()
