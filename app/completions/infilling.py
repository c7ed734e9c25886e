"""A completion between two texts: of several candidates those that the text after the cursor fits best.

The models read left to right. So candidates are generated from the text before the cursor, and each is
compared by how likely it is with the first characters of the text after it. Where a candidate already
contains the text after the cursor, it may end before that.
"""

import itertools
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from functools import partial

from nextchar.app.completions.completion import RunningCompletion, result_of
from nextchar.app.models.engines import Engines, Loaded
from nextchar.models.runtime.requests import (
    Completion,
    CompletionRequest,
    Event,
    Finished,
    Piece,
    Usage,
)
from nextchar.models.text.vocabulary import Vocabulary

CANDIDATES = 8
"""How many completions are generated at least, where they can differ."""

SUFFIX_CHARACTERS = 16
"""Characters after the cursor by which candidates are compared."""

_SAME_CHARACTERS = 3
"""A candidate may end where this much of it is the beginning of the text after the cursor."""

_WORDS_CHARACTERS = 32
"""A candidate may end with a word within this many characters."""

_READ_CHARACTERS = 1_000
_EXCLUDED_BY_BEAM = ("no_repeat", "logit_bias", "presence_penalty", "frequency_penalty")


def run_completion(
    engines: Engines,
    loaded: Loaded,
    request: CompletionRequest,
    unknown: list[str],
    *,
    echoed: Piece | None = None,
    keep: int | None = None,
) -> RunningCompletion:
    """Start a completion, with candidates if there is text after the cursor; as `RunningCompletion`."""
    if request.suffix.strip():
        return InfillingCompletion(engines, loaded, request, unknown, echoed=echoed, keep=keep)
    return RunningCompletion(engines, loaded, request, unknown, echoed=echoed, keep=keep)


def suffix_of(text: str, vocabulary: Vocabulary) -> str:
    """Return what counts of a text after the cursor, in the model's characters: to the first unknown one."""
    characters = vocabulary.to_characters(text[:_READ_CHARACTERS])
    unknown = {*vocabulary.unknown(characters)}
    return "".join(itertools.takewhile(lambda character: character not in unknown, characters))


class InfillingCompletion(RunningCompletion):
    """A completion with a `suffix`; its text comes when all candidates are finished."""

    def __init__(
        self,
        engines: Engines,
        loaded: Loaded,
        request: CompletionRequest,
        unknown: list[str],
        *,
        echoed: Piece | None = None,
        keep: int | None = None,
    ) -> None:
        """Start it; see `RunningCompletion`."""
        super().__init__(engines, loaded, with_candidates(request), unknown)
        self._request, self._prefix, self._wanted = request, echoed, keep or request.n

    async def completions(self) -> tuple[list[Completion], Usage]:
        """Wait until all candidates are finished and compared; return the best, best first."""
        candidates, usage = await super().completions()
        best = await self._ranked(candidates)
        if self._prefix:
            best = [_after(self._prefix, one) for one in best]
        best = best[: self._wanted]
        return best, replace(usage, completion_characters=sum(one.characters for one in best))

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events of the best candidates, once these are known."""
        completions, usage = await self.completions()
        for index, one in enumerate(completions):
            yield Piece(index, one.text, one.logprobs)
            yield Finished(index, one.reason, one.bits, one.characters)
        yield usage

    async def _ranked(self, candidates: Sequence[Completion]) -> list[Completion]:
        """Return the candidates, cut where that is better, in their order; the same texts last."""
        cut = {one.text: one for candidate in candidates for one in _cuts(candidate, self._request.suffix)}
        compared = [*cut.values()]
        judged = self._request.suffix[:SUFFIX_CHARACTERS]
        texts = [text for one in compared for text in (one.text + judged, one.text) if text]
        weigh = partial(
            self._loaded.engine.weigh,
            self._request.prompt,
            texts,
            longest=self._request.max_characters + SUFFIX_CHARACTERS,
            client=self._request.client,
            user=self._request.user,
        )
        bits = dict(zip(texts, await result_of(weigh), strict=True)) | {"": 0.0}
        compared.sort(key=lambda one: bits[one.text + judged])
        ranked = [replace(one, bits=bits[one.text]) for one in compared]
        return ranked + [ranked[0]] * (self._wanted - len(ranked))


def with_candidates(request: CompletionRequest) -> CompletionRequest:
    """Return the request of the candidates: several that differ, as far as the options allow it.

    At temperature 0 that is a beam search. With options that it cannot have, there is one candidate.
    """
    n = max(request.n, CANDIDATES)
    if request.temperature > 0 and request.beam is None:
        return replace(request, n=n, stream=False)
    excluded = [request.until == "confidence", request.logprobs is not None]
    excluded += [bool(getattr(request, name)) for name in _EXCLUDED_BY_BEAM]
    if request.beam is None and not any(excluded):
        # The likeliest character is the same whatever the filters.
        return replace(request, n=n, beam=n, stream=False, top_k=None, top_p=None, min_p=None, seed=None)
    return replace(request, n=max(request.n, request.beam or 0), stream=False)


def _cuts(candidate: Completion, suffix: str) -> Iterator[Completion]:
    """Yield a candidate, and its beginnings: to where it goes on like the suffix, and to ends of words."""
    yield candidate
    text, start = candidate.text, suffix[:_SAME_CHARACTERS]

    def is_place(i: int) -> bool:
        repeats = len(start) == _SAME_CHARACTERS and text.startswith(start, i)
        return (
            repeats
            or suffix.startswith(text[i:])
            or (0 < i <= _WORDS_CHARACTERS and text[i - 1].isalnum() != text[i].isalnum())
        )

    for i in filter(is_place, range(len(text))):
        yield Completion(text[:i], "stop", candidate.bits, i, candidate.logprobs[:i])


def _after(echoed: Piece, one: Completion) -> Completion:
    return replace(one, text=echoed.text + one.text, logprobs=echoed.logprobs + one.logprobs)
