"""Log-probabilities in OpenAI's form."""

from collections.abc import Sequence

from nextchar.app.openai.schemas import Logprobs
from nextchar.app.openai.token_ids import token
from nextchar.models.runtime.requests import CharacterLogprobs
from nextchar.models.text.vocabulary import Vocabulary


def logprobs_of(
    entries: Sequence[CharacterLogprobs], vocabulary: Vocabulary, top: int, *, start: int
) -> Logprobs:
    """Return log-probabilities in OpenAI's form; the offsets begin with `start`.

    `top_logprobs` always contains the character itself, as in OpenAI's responses.
    """
    tops: list[dict[str, float] | None] = [
        {token(c, vocabulary): p for c, p in entry.top} | {token(entry.character, vocabulary): entry.logprob}
        for entry in entries
        if top
    ]
    return Logprobs(
        tokens=[token(entry.character, vocabulary) for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        top_logprobs=tops if top else None,
        text_offset=list(range(start, start + len(entries))),
    )


def concatenate(first: Logprobs | None, second: Logprobs) -> Logprobs:
    """Return the log-probabilities of an echoed prompt, if any, and of its completion."""
    if first is None:
        return second
    tops = None
    if first.top_logprobs is not None and second.top_logprobs is not None:
        tops = first.top_logprobs + second.top_logprobs
    return Logprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=tops,
        text_offset=first.text_offset + second.text_offset,
    )
