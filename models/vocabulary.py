"""Characters to ids and back.

A character is one Unicode code point after NFC. Ids start at 1, in code point order; id 0 stands for
every character that is not in the vocabulary and is never generated.
"""

import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

UNKNOWN_ID = 0


def normalize(text: str) -> str:
    """Return `text` in Unicode normalization form C, in which all of nextchar counts characters."""
    return unicodedata.normalize("NFC", text)


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code points of `text`, shape (len(text),). Lone surrogates pass through."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class Vocabulary:
    r"""The characters a model knows.

    >>> v = Vocabulary("cab")
    >>> v.characters, len(v), v.encode("abx").tolist(), v.decode([1, 2, 0])
    ('abc', 4, [1, 2, 0], 'ab\ufffd')
    """

    def __init__(self, characters: Iterable[str]) -> None:
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
        return isinstance(other, Vocabulary) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the id of each character of NFC `text`, shape (len(text),)."""
        points = code_points(text)
        if not self._id_of_point.size:
            return np.zeros(points.size, np.int32)
        known = points < self._id_of_point.size
        return np.where(known, self._id_of_point[np.where(known, points, 0)], UNKNOWN_ID).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; id 0 becomes U+FFFD, the replacement character."""
        return "".join(self._character_of_id[i] for i in ids)

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters of `text` that are not in the vocabulary, in code point order."""
        # A document is looked at on every keystroke, so not by way of a set of its characters.
        if text.isascii():
            return sorted(set(text.encode().translate(None, self._known_ascii).decode()))
        points = code_points(text)
        strange = points[~self._is_known.take(points, mode="clip")]
        return sorted(map(chr, set(strange.tolist())))
