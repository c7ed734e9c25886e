"""A prompt's text as characters of a vocabulary, without blocking the event loop."""

import anyio

from models.text.vocabulary import Vocabulary

_INLINE_CHARACTERS = 200_000  # a longer prompt is normalized in a worker thread, piece by piece
_PIECE_CHARACTERS = 50_000


async def prepare(text: str, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """Return `text` as the vocabulary's characters, and the labels of those that are unknown."""
    if len(text) <= _INLINE_CHARACTERS:
        text = vocabulary.to_characters(text)
        unknown = vocabulary.unknown(text)
    else:
        text, unknown = await anyio.to_thread.run_sync(_prepare_in_pieces, text, vocabulary)
    return text, list(map(vocabulary.label, unknown))


def _prepare_in_pieces(text: str, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """Do the same in small pieces, because each call holds the GIL and thereby blocks the event loop."""
    pieces: list[str] = []
    unknown: set[str] = set()
    start = 0
    while start < len(text):
        end = _safe_cut(text, start + _PIECE_CHARACTERS)
        pieces.append(vocabulary.to_characters(text[start:end]))
        unknown.update(vocabulary.unknown(pieces[-1]))
        start = end
    return "".join(pieces), sorted(unknown)


def _safe_cut(text: str, start: int) -> int:
    """Return the first index from `start` on at which `text` can be cut without changing its NFC.

    That is before an ASCII character, which combines with nothing before it; the end if there is none.
    """
    while start < len(text) and text[start] > "\x7f":
        start += 1
    return min(start, len(text))
