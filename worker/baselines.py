"""What simple predictors need for the same held-out text: the figures a network has to beat.

All are in bits a character, and all have read the training text that comes before. Each looks at a bounded
part of a huge text, so that the report of a short job stays short; `Baselines.characters` says how much.
Knows no network.
"""

import lzma
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.text.ngram import NgramModel
from models.text.vocabulary import Vocabulary
from worker.prepared_text import Ids

NGRAM_ORDERS = 6
"""The n-gram model is tried with contexts of 0 to 5 characters."""

_NGRAM_CHARACTERS = 5_000_000  # of the end of the training text: 2 s of one core
_COMPRESSED_CHARACTERS = 2_000_000  # of its end: xz packs 1 MB a second and core, and packs them twice
_JUDGED_CHARACTERS = 1_000_000  # of the beginning of the held-out text
_DEFLATE_WINDOW = 32768  # bytes that gzip looks back


@dataclass(frozen=True)
class Baselines:
    """Bits a character by predictor, and how they came about.

    Attributes:
        bits: `uniform` knows the alphabet, `unigram`, `bigram` and `ngram` count, `gzip` and `xz` compress.
        ngram_orders: bits of the n-gram model of order 1, 2, ...; `ngram` is the least of them, so that
            the choice of the order favours the baseline.
        characters: how many characters each kind has read before, and how many it was judged by.
    """

    bits: dict[str, float]
    ngram_orders: list[float]
    characters: dict[str, int] = field(default_factory=dict)

    @property
    def ngram_order(self) -> int:
        """The order that needs the fewest bits."""
        return int(np.argmin(self.ngram_orders)) + 1


def measure(
    train: Ids,
    validation: Ids,
    *,
    size: int,
    encode: Callable[[NDArray[np.int32]], bytes],
) -> Baselines:
    """Return what the baselines need for `validation`, which follows `train`.

    Args:
        train: (N,) ids, at least one.
        validation: (M,) ids, at least one.
        size: V, with id 0.
        encode: the bytes of the text of ids, as it would lie in a file; see `encoder_of`.
    """
    judged = validation[:_JUDGED_CHARACTERS]
    counted, packed = train[-_NGRAM_CHARACTERS:], train[-_COMPRESSED_CHARACTERS:]
    before, held_out = encode(packed), encode(judged)
    with ThreadPoolExecutor(2) as threads:  # lzma lets go of the interpreter while it packs
        whole = threads.submit(lambda: len(lzma.compress(before + held_out)))
        part = threads.submit(lambda: len(lzma.compress(before)))
        ngram = NgramModel.fit_ids(counted, size=size, order=NGRAM_ORDERS)
        orders = ngram.bits_by_order(judged, before=counted).tolist()
        gzip = len(_deflated(held_out, before))
        xz = whole.result() - part.result()
    bits = {
        "uniform": float(np.log2(max(2, size - 1))),
        "unigram": orders[0],
        "bigram": orders[1],
        "ngram": min(orders),
        "gzip": gzip * 8 / len(judged),
        "xz": xz * 8 / len(judged),
    }
    characters = {"ngram": len(counted), "compressed": len(packed), "judged": len(judged)}
    return Baselines(bits, orders, characters)


def encoder_of(vocabulary: Vocabulary) -> Callable[[NDArray[np.int32]], bytes]:
    """Return a function from ids to their text's bytes: UTF-8, or the bytes themselves."""
    if vocabulary.alphabet == "bytes":
        table = np.frombuffer(b"\xff" + vocabulary.characters.encode("latin-1"), np.uint8)
        return lambda ids: table[ids].tobytes()
    points = np.array([0xFFFD, *map(ord, vocabulary.characters)], "<u4")
    return lambda ids: points[ids].tobytes().decode("utf-32-le", "replace").encode()


def _deflated(data: bytes, before: bytes) -> bytes:
    """Return `data` as gzip's algorithm packs it when it has just read `before`; without gzip's header."""
    packer = zlib.compressobj(level=9, wbits=-15, zdict=before[-_DEFLATE_WINDOW:])
    return packer.compress(data) + packer.flush()
