"""Text to characters to ids, and back.

A character is one Unicode code point after NFC normalization. With the alphabet `bytes` it is one byte of the
UTF-8 encoding, held as U+0000 to U+00FF, without normalization. Both are strings of characters everywhere
else; only input and output text are converted here.

Ids start at 1, in code point order; id 0 is any character outside the vocabulary and is never generated.
"""

import codecs
import math
import mmap
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

UNKNOWN_ID = 0
UNKNOWN_EXTRA_BITS = 2.0

Alphabet = Literal["characters", "bytes"]


def normalize(text: str) -> str:
    """Return `text` in Unicode normalization form C (NFC)."""
    return unicodedata.normalize("NFC", text)


class Normalizer:
    """Incremental NFC; the end of each piece is held back while later characters may still compose with it.

    >>> n = Normalizer()
    >>> n.feed("ae"), n.feed("\u0301e"), n.finish()
    ('a', 'é', 'e')
    """

    def __init__(self) -> None:
        self._held: list[str] = []
        self.held = 0
        """Number of characters held back, from the last safe boundary on."""

    def feed(self, text: str) -> str:
        """Add text; return the normalized text up to the last safe boundary."""
        boundary = last_normalization_boundary(text)
        if boundary is None:
            self._held.append(text)
            self.held += len(text)
            return ""
        complete = "".join([*self._held, text[:boundary]])
        self._held, self.held = [text[boundary:]], len(text) - boundary
        return normalize(complete)

    def finish(self) -> str:
        """Return the rest, normalized."""
        rest, self._held, self.held = "".join(self._held), [], 0
        return normalize(rest)


def last_normalization_boundary(text: str) -> int | None:
    """Return the last index at which the text can be split and both parts normalized independently."""
    for index in range(len(text) - 1, -1, -1):
        if is_normalization_boundary(text[index]):
            return index
    return None


def is_normalization_boundary(character: str) -> bool:
    """Return whether NFC never composes or reorders `character` with the characters before it.

    It may do so with marks, and with the vowels and final consonants of Hangul.
    """
    point = ord(character)
    if point < 0x300:
        return True
    return not 0x1100 <= point <= 0x11FF and unicodedata.category(character)[0] != "M"


def is_word_character(character: str) -> bool:
    """Return whether it is a letter or digit of any script, an underscore or an apostrophe."""
    return character.isalnum() or character in "_'\u2019"


def code_points(text: str) -> NDArray[np.unsignedinteger]:
    """Return the code points of `text`, (len(text),), lone surrogates included."""
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def unknown_bits(vocabulary_size: int) -> float:
    """Return the surprisal, in bits, charged for a character outside a vocabulary of V ids.

    log2(V - 1), a uniform guess among the known characters, plus UNKNOWN_EXTRA_BITS. Predictions are over the
    known characters alone, so it has no probability, although id 0 is a target in training.
    """
    return math.log2(max(2, vocabulary_size - 1)) + UNKNOWN_EXTRA_BITS


class Vocabulary:
    r"""The characters a model knows.

    >>> v = Vocabulary("cab")
    >>> v.characters, len(v), v.encode("abx").tolist(), v.decode([1, 2, 0])
    ('abc', 4, [1, 2, 0], 'ab\ufffd')
    >>> b = Vocabulary("\xa9\xc3", "bytes")
    >>> b.encode(b.to_characters("é")).tolist(), b.to_text("\xc3\xa9\xc3"), b.label("\xa9")
    ([2, 1], 'é\ufffd', '\\xa9')
    """

    def __init__(self, characters: Iterable[str], alphabet: Alphabet = "characters") -> None:
        self.alphabet = alphabet
        self.characters = "".join(sorted(set(characters)))
        points = code_points(self.characters)
        # By code point; the last is of all that are larger.
        self._id_of_point = np.zeros(int(points.max()) + 2 if points.size else 1, np.int32)
        self._id_of_point[points] = np.arange(1, points.size + 1)
        self._is_known = self._id_of_point != UNKNOWN_ID
        self._known_ascii = bytes(np.flatnonzero(self._is_known[:128]).tolist())
        self._character_of_id = "\ufffd" + self.characters

    def __len__(self) -> int:
        """V: the number of ids, including id 0."""
        return len(self._character_of_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, Alphabet]:
        return self.characters, self.alphabet

    def to_characters(self, text: str) -> str:
        """Return `text` as characters: in NFC, or one per byte of its UTF-8."""
        if self.alphabet == "bytes":
            return text.encode("utf-8", "surrogatepass").decode("latin-1")
        return normalize(text)

    def to_text(self, characters: str) -> str:
        """Return characters as text; bytes that are not valid UTF-8 become U+FFFD."""
        return self.text_decoder().feed(characters, final=True)

    def text_decoder(self) -> "TextDecoder":
        """Return an incremental `to_text`."""
        return TextDecoder(self.alphabet)

    def label(self, character: str) -> str:
        r"""Return a printable form of one character: itself, or \xNN for a byte above 127."""
        if self.alphabet == "bytes" and character > "\x7f":
            return f"\\x{ord(character):02x}"
        return character

    def is_word_character(self, character: str) -> bool:
        """Return whether it is part of a word; every byte above 127 is, as part of a longer character."""
        return (self.alphabet == "bytes" and character > "\x7f") or is_word_character(character)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the id of each character of `text`, (len(text),)."""
        return self._id_of_point.take(code_points(text), mode="clip")

    def encode_as(self, dtype: np.dtype[Any], text: str) -> NDArray[Any]:
        """Return the ids of `encode` in a type in which all V of them fit."""
        return self._id_of_point.astype(dtype).take(code_points(text), mode="clip")

    def decode(self, ids: Iterable[int]) -> str:
        """Return the characters of `ids`; id 0 becomes U+FFFD."""
        return "".join(self._character_of_id[i] for i in ids)

    def replace_unknown(self, text: str) -> str:
        """Return `decode(encode(text))`: the text with U+FFFD for each unknown character."""
        unknown = self.unknown(text)
        return text.translate(dict.fromkeys(map(ord, unknown), self._character_of_id[0])) if unknown else text

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters of `text` that are not in the vocabulary, in code point order."""
        # Called with a whole document at every keystroke, so a set of its characters would be too slow.
        if text.isascii():
            return sorted(set(text.encode().translate(None, self._known_ascii).decode()))
        points = code_points(text)
        unknown = points[~self._is_known.take(points, mode="clip")]
        return sorted(map(chr, set(unknown.tolist())))


class TextDecoder:
    """Incremental conversion of characters to text that never splits a code point."""

    def __init__(self, alphabet: Alphabet) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if alphabet == "bytes" else None

    def feed(self, characters: str, *, final: bool = False) -> str:
        """Add characters; return the text that is complete. `final` flushes the rest, valid or not."""
        if self._utf8 is None:
            return characters
        # An unknown byte is U+FFFD; as 0xFF, which is never valid UTF-8, it is decoded to U+FFFD again.
        return self._utf8.decode(characters.replace("\ufffd", "\xff").encode("latin-1"), final)


CODE_POINTS = 0x110000


class CharacterCounts:
    """Counts characters.

    Attributes:
        by_code_point: (0x110000,) int64, how often each code point occurred.
        total: the number of characters.

    >>> counts = CharacterCounts()
    >>> counts.add("aba")
    >>> int(counts.by_code_point[ord("a")]), counts.distinct, counts.total
    (2, 2, 3)
    """

    def __init__(self) -> None:
        # Of each upload in progress. Unlike np.zeros, it takes memory only for the pages that are counted in.
        self.by_code_point = np.frombuffer(mmap.mmap(-1, CODE_POINTS * 8), np.int64)
        self.total = 0

    def add(self, text: str) -> None:
        """Count the characters of the next piece, in time and memory for those that it has."""
        np.add.at(self.by_code_point, code_points(text), 1)
        self.total += len(text)

    @property
    def distinct(self) -> int:
        """The number of distinct characters."""
        return int(np.count_nonzero(self.by_code_point))
