"""The distinct lines of a corpus of records, with their counts: a file of a saved model, made to be mapped.

Lines are sorted by their folded form, in which case, accents and compatibility forms are the same: NFKD,
without marks, case-folded. The folded characters have numbers from 1 on, in code point order; 0 ends a line.
So the lines with a prefix are a range, which is found by binary search, and so are the places where a word
begins with it.

    8 bytes    MAGIC
    8 bytes    the length of the header, little-endian
    header     JSON: the version, and of each array its type, length and offset
    arrays     each at a multiple of 64 bytes

Nothing of the file is copied when it is loaded: its arrays are views.
"""

import json
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.text.vocabulary import CODE_POINTS

FILE = "lines.index"
"""The name of its file in a saved model. Only models of records have one."""

FORMAT_VERSION = 1
BLOCK = 64
"""Entries of which the largest count is stored, so that most of a range need not be read."""

MAX_LINES = 2_000_000
"""The most distinct lines; a corpus with more gets no index."""

MAX_CHARACTERS = 200_000_000
"""The most characters of all distinct lines."""

_MAGIC = b"NCLINES\x00"
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 1 << 16
_MAX_COUNT = (1 << 31) - 1
_TYPES = {
    "alphabet": "u4",
    "texts": "u1",
    "text_ends": "u4",
    "starts": "u4",
    "counts": "u4",
    "maxima": "u4",
    "words": "u4",
    "word_maxima": "u4",
    "withheld": "u8",
    "weight": "f8",
    "patterns": "u1",
}
_STROKES = str.maketrans("øłđħŧıŋØŁĐĦŦ", "oldhtinOLDHT")  # letters that NFKD does not decompose


def fold(text: str) -> str:
    """Return a text without the differences that a search ignores: case, accents, compatibility forms.

    >>> fold("São Paulo"), fold("Łódź"), fold("STRASSE"), fold("straße"), fold("ﬁ")
    ('sao paulo', 'lodz', 'strasse', 'strasse', 'fi')
    """
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.translate(_STROKES)).casefold()
    # Case folding may compose again, as of some Greek letters.
    decomposed = unicodedata.normalize("NFKD", decomposed)
    return "".join(c for c in decomposed if not unicodedata.combining(c))


@dataclass(frozen=True)
class Lines:
    """The arrays of the file. N lines, M folded characters with the ends of lines, W words.

    Attributes:
        alphabet: (A,) the code points of the folded characters, ascending; the n-th has the number n + 1.
        folded: (M,) uint8 or uint16, the numbers of the folded lines, each followed by 0.
        starts: (N,) where each begins in `folded`.
        texts: UTF-8 of the lines that are not the same as their folded form.
        text_ends: (N,) where each line's text ends in `texts`; empty if it is its folded form.
        counts: (N,) how often each line occurs.
        maxima: (ceil(N / BLOCK),) the largest count of each BLOCK lines.
        words: (W,) where words begin in `folded`, but the first of a line, sorted by what follows.
        word_maxima: (ceil(W / BLOCK),) the largest count of the lines of each BLOCK words.
        withheld: (H,) hashes of folded lines that may not be suggested, ascending.
        weight: (1,) of the network in the ranking, from 0 to 1.
        patterns: JSON of RE2 expressions, which no suggested text may match.
    """

    alphabet: NDArray[np.uint32]
    folded: NDArray[Any]
    starts: NDArray[np.uint32]
    texts: NDArray[np.uint8]
    text_ends: NDArray[np.uint32]
    counts: NDArray[np.uint32]
    maxima: NDArray[np.uint32]
    words: NDArray[np.uint32]
    word_maxima: NDArray[np.uint32]
    withheld: NDArray[np.uint64]
    weight: NDArray[np.float64]
    patterns: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, line: int) -> str:
        """Return a line as it stands in the corpus."""
        return self.own_text(line) or self.folded_text(line)

    def own_text(self, line: int) -> str:
        """Return a line as it stands in the corpus; "" if it is its folded form."""
        start, end = (int(self.text_ends[line - 1]) if line else 0), int(self.text_ends[line])
        return self.texts[start:end].tobytes().decode("utf-8", "replace") if start < end else ""

    def folded_text(self, line: int) -> str:
        """Return the folded form of a line."""
        start = int(self.starts[line])
        end = int(self.starts[line + 1]) if line + 1 < len(self) else len(self.folded)
        return self.decode(start, end - 1 - start)

    def decode(self, place: int, length: int) -> str:
        """Return the folded characters of a line at a place in `folded`."""
        return "".join(map(self._characters.__getitem__, self.folded[place : place + length].tolist()))

    @cached_property
    def _characters(self) -> list[str]:
        """The folded characters by their numbers."""
        return ["", *map(chr, self.alphabet.tolist())]

    def encode(self, folded: str) -> NDArray[np.int32]:
        """Return the numbers of folded characters, (len(folded),); -1 for one that no line has."""
        points = np.array(list(map(ord, folded)), np.uint32)
        at = np.minimum(self.alphabet.searchsorted(points), max(0, len(self.alphabet) - 1))
        is_known = self.alphabet[at] == points if len(self.alphabet) else np.zeros(len(points), bool)
        return np.where(is_known, at + 1, -1).astype(np.int32)

    def is_withheld(self, text: str) -> bool:
        """Return whether a line was seen too seldom to be suggested."""
        wanted = _hash(fold(text))
        at = int(self.withheld.searchsorted(wanted))
        return at < len(self.withheld) and self.withheld[at] == wanted

    def excluded_patterns(self) -> list[str]:
        """Return the RE2 expressions of `patterns`. Raises ValueError: they are none."""
        patterns = json.loads(self.patterns.tobytes())
        if not (isinstance(patterns, list) and all(isinstance(one, str) for one in patterns)):
            raise ValueError("a pattern is not a text")
        return patterns

    def with_weight(self, weight: float) -> Self:
        """Return the same lines with another weight of the network."""
        return replace(self, weight=np.array([weight], np.float64))

    def with_counts(self, counts: NDArray[np.int64]) -> Self:
        """Return the same lines with other counts, (N,)."""
        kept = np.clip(counts, 0, _MAX_COUNT).astype(np.int64)
        word_counts = kept[self.starts.searchsorted(self.words, "right") - 1]
        return replace(
            self,
            counts=kept.astype(np.uint32),
            maxima=_block_maxima(kept),
            word_maxima=_block_maxima(word_counts),
        )

    def find(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Return the line of each text, (len(texts),), or one that folds to the same; -1: there is none.

        Of those that fold to the same, that of largest count.
        """
        texts = list(texts)
        found = np.full(len(texts), -1, np.int64)
        for i, (text, (lo, hi)) in enumerate(zip(texts, self._ranges(map(_key, texts)), strict=True)):
            if lo < hi:
                found[i] = max(range(lo, hi), key=lambda line: (self.text(line) == text, self.counts[line]))
        return found

    def with_lines(self, texts: Iterable[str]) -> Self:
        """Return the lines and those of the texts that they lack, which get the count 0.

        The words are sorted again, which takes a second for a million lines.
        """
        keys = {text: key for text in texts if (key := _key(text))}
        wide = self._with_characters("".join(set().union(*keys.values())))
        new: dict[
            str, tuple[str, int]
        ] = {}  # by folded form: the first text, and the line before which it is
        for (text, key), (lo, hi) in zip(keys.items(), wide._ranges(keys.values()), strict=True):
            if lo == hi:
                new.setdefault(key, (text, lo))
        if not new:
            return self
        ordered = sorted(new)
        at = [new[key][1] for key in ordered]
        folded = [np.append(wide.encode(key), 0) for key in ordered]
        own = [b"" if new[key][0] == key else new[key][0].encode("utf-8", "surrogatepass") for key in ordered]
        all_folded, ends = _inserted(wide.folded, np.append(wide.starts[1:], len(wide.folded)), at, folded)
        texts_, text_ends = _inserted(
            self.texts, self.text_ends, at, [np.frombuffer(d, np.uint8) for d in own]
        )
        wider = replace(
            wide,
            folded=all_folded,
            starts=np.append(0, ends[:-1]).astype(np.uint32),
            texts=texts_,
            text_ends=text_ends,
            words=_sorted_words(all_folded, wide.alphabet),
        )
        return wider.with_counts(np.insert(self.counts.astype(np.int64), at, 0))

    def _with_characters(self, folded: str) -> Self:
        """Return the same lines with an alphabet that has these characters, too."""
        alphabet, _ = _numbered("".join(map(chr, self.alphabet.tolist())) + folded)
        if len(alphabet) == len(self.alphabet):
            return self
        numbers = np.append(0, np.minimum(alphabet.searchsorted(self.alphabet) + 1, (1 << 16) - 1))
        kind = np.uint8 if len(alphabet) < 1 << 8 else np.uint16
        return replace(self, alphabet=alphabet, folded=numbers.astype(kind)[self.folded])

    def _ranges(self, keys: Iterable[str]) -> Iterator[tuple[int, int]]:
        """Yield the range of lines that fold to each key; (i, i): none, and it is before line i."""
        width = self.folded.dtype.itemsize
        data = self.folded.astype(
            self.folded.dtype.newbyteorder(">")
        ).tobytes()  # bytes compare as numbers do
        bounds = (np.append(self.starts, len(self.folded)).astype(np.int64) * width).tolist()

        def line(i: int) -> bytes:
            return data[bounds[i] : bounds[i + 1]]

        for key in keys:
            numbers = self.encode(key)
            if not key or (numbers < 0).any():
                yield 0, 0
                continue
            wanted = np.append(numbers, 0).astype(f">u{width}").tobytes()
            lo = hi = bisect_left(range(len(self)), wanted, key=line)
            while hi < len(self) and line(hi) == wanted:
                hi += 1
            yield lo, hi

    @classmethod
    def make(
        cls, counts: Mapping[str, int], *, withheld: Iterable[str] = (), patterns: Sequence[str] = ()
    ) -> Self | None:
        """Return the index of distinct lines with their counts; None if there are none, and none is withheld.

        Lines that are the same but for case and accents as one that is `withheld` are left out.
        """
        hidden = {fold(line) for line in withheld}
        # Lists of texts instead of tuples: a million of these would be traversed by the garbage collector.
        folded_lines = {line: key for line in counts if (key := _key(line)) and key not in hidden}
        ordered = sorted(folded_lines, key=folded_lines.__getitem__)
        if not ordered and not any(hidden):
            return None
        alphabet, folded = _numbered("".join(folded_lines[line] + "\x00" for line in ordered))
        ends = np.flatnonzero(folded == 0)
        own = [
            b"" if line == folded_lines[line] else line.encode("utf-8", "surrogatepass") for line in ordered
        ]
        none = np.empty(0, np.uint32)
        lines = cls(
            alphabet=alphabet,
            folded=folded,
            starts=np.append(0, ends[:-1] + 1)[: len(ends)].astype(np.uint32),
            texts=np.frombuffer(b"".join(own), np.uint8),
            text_ends=np.cumsum([len(data) for data in own]).astype(np.uint32),
            counts=none,
            maxima=none,
            words=_sorted_words(folded, alphabet),
            word_maxima=none,
            withheld=np.array(sorted({_hash(key) for key in hidden if key}), np.uint64),
            weight=np.ones(1, np.float64),
            patterns=np.frombuffer(json.dumps(list(patterns)).encode(), np.uint8),
        )
        return lines.with_counts(np.fromiter((counts[line] for line in ordered), np.int64))

    def dump(self) -> bytes:
        """Return the contents of FILE."""
        arrays: dict[str, NDArray[Any]] = {one.name: getattr(self, one.name) for one in fields(self)}
        header: dict[str, Any] = {"version": FORMAT_VERSION, "arrays": {}}
        offset = 0
        for name, array in arrays.items():
            header["arrays"][name] = [array.dtype.str[1:], len(array), offset]
            offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        text = json.dumps(header).encode()
        text += b" " * (-(len(_MAGIC) + 8 + len(text)) % _ALIGNMENT)
        parts = [_MAGIC, len(text).to_bytes(8, "little"), text]
        for array in arrays.values():
            parts += [
                array.astype(array.dtype.newbyteorder("<")).tobytes(),
                bytes(-array.nbytes % _ALIGNMENT),
            ]
        return b"".join(parts)

    @classmethod
    def load(cls, data: bytes | memoryview) -> Self:
        """Return views of the contents of FILE.

        Raises:
            Unavailable: they are damaged (code `model_damaged`), or of a format that this program does not
                know (`model_format_unknown`).
        """
        try:
            lines = cls(**_arrays(memoryview(data)))
            lines._check()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Unavailable(f"{FILE} is damaged ({type(error).__name__})", code="model_damaged") from None
        return lines

    def _check(self) -> None:
        """Raise ValueError if a search could read outside of the arrays."""
        n, m = len(self.starts), len(self.folded)
        sizes = {"text_ends": n, "counts": n, "maxima": -(-n // BLOCK), "weight": 1}
        sizes["word_maxima"] = -(-len(self.words) // BLOCK)
        if not 0 <= n <= MAX_LINES or any(len(getattr(self, name)) != size for name, size in sizes.items()):
            raise ValueError("arrays of different lengths")
        conditions = [
            not len(self.alphabet) or int(self.alphabet.max()) < CODE_POINTS,
            0 <= self.weight[0] <= 1,
            n > 0 or m == len(self.words) == len(self.texts) == 0 < len(self.withheld),
        ]
        # Each line ends with 0, before which every search stops.
        ends = np.append(self.starts[1:], m).astype(np.int64)[:n] - 1
        conditions += (
            [
                self.starts[0] == 0 and bool((self.starts[1:] > self.starts[:-1]).all()),
                int(ends[-1]) >= int(self.starts[-1]) and bool((self.folded[ends] == 0).all()),
                np.count_nonzero(self.folded) == m - n and int(self.folded.max()) <= len(self.alphabet),
                not len(self.words) or int(self.words.max()) < m,
                bool((self.text_ends[1:] >= self.text_ends[:-1]).all()),
                int(self.text_ends[-1]) == len(self.texts),
            ]
            if n
            else []
        )
        if not all(conditions):
            raise ValueError("an entry is out of range")
        self.excluded_patterns()


def _arrays(data: memoryview) -> dict[str, NDArray[Any]]:
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("not an index of lines")
    begin = len(_MAGIC) + 8
    size = int.from_bytes(data[len(_MAGIC) : begin], "little")
    if size > _MAX_HEADER_BYTES:
        raise ValueError("the header is too long")
    header = json.loads(bytes(data[begin : begin + size]))
    if header["version"] != FORMAT_VERSION:
        raise Unavailable(
            f"{FILE} has format {header['version']!r}, and this program knows {FORMAT_VERSION}; update"
            " nextchar",
            code="model_format_unknown",
        )
    arrays = {}
    for name, (kind, length, offset) in header["arrays"].items():
        if kind != _TYPES.get(name, kind) or kind not in ("u1", "u2", "u4", "u8", "f8"):
            raise ValueError(f"{name} has another type")
        if name == "folded" and kind not in ("u1", "u2"):
            raise ValueError("folded has another type")
        if not (isinstance(length, int) and isinstance(offset, int) and length >= 0 and offset >= 0):
            raise ValueError("a length is not a number")
        if offset % _ALIGNMENT or length > len(data):
            raise ValueError("an array begins at another place")
        arrays[name] = np.frombuffer(data, np.dtype("<" + kind), length, begin + size + offset)
    return arrays


def _key(line: str) -> str:
    """Return what a line is sorted by; "" for a line with U+0000, which ends lines here."""
    return "" if "\x00" in line else fold(line)


def _numbered(text: str) -> tuple[NDArray[np.uint32], NDArray[Any]]:
    """Return the distinct code points of a text but 0, ascending, and the number of each character."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    seen = np.zeros(CODE_POINTS, bool)
    seen[points] = True
    seen[0] = False
    alphabet = np.flatnonzero(seen).astype(np.uint32)
    numbers = np.zeros(CODE_POINTS, np.uint8 if len(alphabet) < 1 << 8 else np.uint16)
    # More than 65,535 characters share the last number: their lines are found together.
    numbers[alphabet] = np.minimum(np.arange(1, len(alphabet) + 1), (1 << 16) - 1).astype(numbers.dtype)
    return alphabet, numbers[points]


def _sorted_words(folded: NDArray[Any], alphabet: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return where words begin, but the first of each line, sorted by what follows."""
    from pydivsufsort import divsufsort

    if not len(folded):
        return np.empty(0, np.uint32)
    is_word = np.array([False, *(chr(point).isalnum() for point in alphabet.tolist())])[folded]
    begins = np.zeros(len(folded), bool)
    begins[1:] = is_word[1:] & ~is_word[:-1] & (folded[:-1] != 0)
    width = folded.dtype.itemsize
    data = folded.astype(folded.dtype.newbyteorder(">")).tobytes()  # bytes compare as numbers do
    suffixes = divsufsort(data)
    if width > 1:
        suffixes = suffixes[suffixes % width == 0] // width
    words: NDArray[np.uint32] = suffixes[begins[suffixes]].astype(np.uint32)
    return words


def _inserted(
    values: NDArray[Any], ends: NDArray[Any], at: Sequence[int], new: Sequence[NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    """Return pieces with others before the pieces `at`, ascending, and the end of each.

    `values` are all pieces one after the other, which end at `ends`.

    >>> _inserted(np.array([1, 1, 2]), np.array([2, 3]), [1], [np.array([7, 8])])[0].tolist()
    [1, 1, 7, 8, 2]
    """
    begins = np.append(0, ends)
    lengths = [len(piece) for piece in new]
    every = np.insert(values, np.repeat(begins[at], lengths), np.concatenate(new).astype(values.dtype))
    return every, np.cumsum(np.insert(np.diff(begins), at, lengths)).astype(np.uint32)


def _block_maxima(counts: NDArray[np.int64]) -> NDArray[np.uint32]:
    if not len(counts):
        return np.empty(0, np.uint32)
    return np.maximum.reduceat(counts, np.arange(0, len(counts), BLOCK)).astype(np.uint32)


def _hash(folded: str) -> np.uint64:
    from hashlib import blake2b

    digest = blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
