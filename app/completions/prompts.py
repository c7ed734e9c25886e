"""A prompt's text as a model reads it, without blocking the event loop."""

from functools import partial

from nextchar.app.http.threads import Check, LimitedWork, run_in_thread
from nextchar.app.models.engines import Loaded
from nextchar.models.runtime.session import no_check
from nextchar.models.text.masks import ModelMasks
from nextchar.models.text.vocabulary import Vocabulary

LONG_PROMPT_CHARACTERS = 10_000
"""A longer prompt of a model with masks is masked in the pool of long prompts: that can take seconds."""

_INLINE_CHARACTERS = 200_000  # a longer prompt is normalized in a worker thread, piece by piece
_INLINE_MASKED_CHARACTERS = 2_000  # a longer one is masked in a worker thread, line by line
_PIECE_CHARACTERS = 50_000


class LongPrompts(LimitedWork):
    """Masking long prompts, and log-probabilities of echoed ones."""

    def __init__(self) -> None:
        super().__init__("long prompts", running=2, waiting=64, retry_after_s=5)


async def prepare(text: str, loaded: Loaded, long_prompts: LimitedWork) -> tuple[str, list[str]]:
    """Return `text` as the vocabulary's characters, masked, and the labels of those that are unknown.

    Raises Busy: too many long prompts wait to be masked.
    """
    vocabulary, masks = loaded.vocabulary, loaded.masks
    if len(text) <= (_INLINE_MASKED_CHARACTERS if masks else _INLINE_CHARACTERS):
        text, unknown = _prepare(text, vocabulary, masks)
    elif masks and len(text) > LONG_PROMPT_CHARACTERS:
        text, unknown = await long_prompts.run(partial(_prepare_in_pieces, text, vocabulary, masks))
    else:
        text, unknown = await run_in_thread(_prepare_in_pieces, text, vocabulary, masks, no_check)
    return text, list(map(vocabulary.label, unknown))


def _prepare(text: str, vocabulary: Vocabulary, masks: ModelMasks) -> tuple[str, list[str]]:
    text = masks.mask_lines(vocabulary.to_characters(text))
    return text, vocabulary.unknown(text)


def _prepare_in_pieces(
    text: str, vocabulary: Vocabulary, masks: ModelMasks, check: Check
) -> tuple[str, list[str]]:
    """Do the same in small pieces, because each call holds the GIL and thereby blocks the event loop."""
    pieces: list[str] = []
    start = 0
    while start < len(text):
        check()
        end = _safe_cut(text, start + _PIECE_CHARACTERS)
        pieces.append(vocabulary.to_characters(text[start:end]))
        start = end
    text = masks.mask_lines("".join(pieces), check=check)
    unknown: set[str] = set()
    for start in range(0, len(text), _PIECE_CHARACTERS):
        unknown.update(vocabulary.unknown(text[start : start + _PIECE_CHARACTERS]))
    return text, sorted(unknown)


def _safe_cut(text: str, start: int) -> int:
    """Return the first index from `start` on at which `text` can be cut without changing its NFC.

    That is before an ASCII character, which combines with nothing before it; the end if there is none.
    """
    while start < len(text) and text[start] > "\x7f":
        start += 1
    return min(start, len(text))
