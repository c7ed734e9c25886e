"""Text to characters to ids, and back.

A character is one Unicode code point after NFC. For text that is not worth decoding there is the alphabet
`bytes`: then a character is one byte of the UTF-8, held as U+0000 to U+00FF, and nothing is normalized. All
that works on characters works on both; only what comes from people and goes to them is converted here.

Ids start at 1, in code point order; id 0 stands for every character that is not in the vocabulary and is
never generated.
"""

import codecs
import unicodedata
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

UNKNOWN_ID = 0

Alphabet = Literal["characters", "bytes"]


def normalize(text: str) -> str:
    """Return `text` in Unicode normalization form C, in which all of nextchar counts characters."""
    return unicodedata.normalize("NFC", text)


class Normalizer:
    """NFC of a text that comes in pieces; the end of a piece is held back until it is settled.

    >>> n = Normalizer()
    >>> n.feed("ae"), n.feed("\u0301e"), n.finish()
    ('a', 'é', 'e')
    """

    def __init__(self) -> None:
        self._held: list[str] = []
        self.held = 0
        """Characters held back: since the last one that composes with nothing before it."""

    def feed(self, text: str) -> str:
        """Take more; return what is settled, normalized."""
        cut = _last_start(text)
        if cut is None:
            self._held.append(text)
            self.held += len(text)
            return ""
        settled = "".join([*self._held, text[:cut]])
        self._held, self.held = [text[cut:]], len(text) - cut
        return normalize(settled)

    def finish(self) -> str:
        """Return the rest, normalized."""
        rest, self._held, self.held = "".join(self._held), [], 0
        return normalize(rest)


def _last_start(text: str) -> int | None:
    """Return the last index at which NFC of both sides is NFC of the whole, whatever comes before."""
    for index in range(len(text) - 1, -1, -1):
        if starts_anew(text[index]):
            return index
    return None


def starts_anew(character: str) -> bool:
    """Return whether normalization never joins or reorders `character` with what precedes it.

    Marks may be joined, and so may the vowels and final consonants of Hangul; nothing else is.
    """
    point = ord(character)
    if point < 0x300:
        return True
    return not 0x1100 <= point <= 0x11FF and unicodedata.category(character)[0] != "M"


def is_word_character(character: str) -> bool:
    """Letters and digits of any script, the underscore, and apostrophes inside of words."""
    return character.isalnum() or character in "_'\u2019"


def code_points(text: str) -> NDArray[np.unsignedinteger]:
    """Return the code points of `text`, shape (len(text),). Lone surrogates pass through."""
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


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
        self._id_of_point = np.zeros(int(points.max()) + 1 if points.size else 0, np.int32)
        self._id_of_point[points] = np.arange(1, points.size + 1)
        self._is_known = np.append(self._id_of_point > 0, False)  # by code point; the last is for all above
        self._known_ascii = bytes(np.flatnonzero(self._is_known[:128]).tolist())
        self._character_of_id = "\ufffd" + self.characters

    def __len__(self) -> int:
        """V: the number of ids, with id 0."""
        return len(self._character_of_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, Alphabet]:
        return self.characters, self.alphabet

    def to_characters(self, text: str) -> str:
        """Return a person's `text` as characters: in NFC, or one for each byte of its UTF-8."""
        if self.alphabet == "bytes":
            return text.encode("utf-8", "surrogatepass").decode("latin-1")
        return normalize(text)

    def to_text(self, characters: str) -> str:
        """Return characters as text for people; what is not UTF-8 among bytes becomes U+FFFD."""
        return self.text_decoder().feed(characters, final=True)

    def text_decoder(self) -> "TextDecoder":
        """Return a `to_text` for characters that come in pieces."""
        return TextDecoder(self.alphabet)

    def label(self, character: str) -> str:
        r"""Return what to call one character by itself: a byte above 127 is no text, and is called \xNN."""
        if self.alphabet == "bytes" and character > "\x7f":
            return f"\\x{ord(character):02x}"
        return character

    def is_word_character(self, character: str) -> bool:
        """Return whether words are made of it: of bytes, all are that are part of a longer character."""
        return (self.alphabet == "bytes" and character > "\x7f") or is_word_character(character)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the id of each of the characters `text`, shape (len(text),)."""
        points = code_points(text)
        if not self._id_of_point.size:
            return np.zeros(points.size, np.int32)
        known = points < self._id_of_point.size
        return np.where(known, self._id_of_point[np.where(known, points, 0)], UNKNOWN_ID).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the characters of `ids`; id 0 becomes U+FFFD, the replacement character."""
        return "".join(self._character_of_id[i] for i in ids)

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters of `text` that are not in the vocabulary, in code point order."""
        # A document is looked at on every keystroke, so not by way of a set of its characters.
        if text.isascii():
            return sorted(set(text.encode().translate(None, self._known_ascii).decode()))
        points = code_points(text)
        strange = points[~self._is_known.take(points, mode="clip")]
        return sorted(map(chr, set(strange.tolist())))


class TextDecoder:
    """Characters that come in pieces -> text, with no half of a character in it."""

    def __init__(self, alphabet: Alphabet) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if alphabet == "bytes" else None

    def feed(self, characters: str, *, final: bool = False) -> str:
        """Take more; return the text that is whole by now. With `final` the rest comes, broken or not."""
        if self._utf8 is None:
            return characters
        # An unknown byte was never one of U+0000 to U+00FF; as 0xFF it becomes U+FFFD again.
        return self._utf8.decode(characters.replace("\ufffd", "\xff").encode("latin-1"), final)
