"""From the body of a completion's request to the engine: options, prompts and the echo are prepared.

A completion between two texts: of several candidates those that the text after the cursor fits best. The
models read left to right. So candidates are generated from the text before the cursor, and each is compared
by how likely it is with the first characters of the text after it. Where a candidate already contains the
text after the cursor, it may end before that.
"""

import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar

from nextchar.app.completions.completion import RunningCompletion, result_of
from nextchar.app.completions.schemas import CompletionCreate
from nextchar.app.http.limits import LONG_PROMPTS
from nextchar.app.http.threads import Check, Pools, run_in_thread
from nextchar.app.models.engines import Engines, Loaded
from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.requests import (
    Caller,
    CharacterLogprobs,
    Completion,
    CompletionRequest,
    Event,
    Finished,
    Piece,
    Usage,
)
from nextchar.models.runtime.session import no_check
from nextchar.models.text.masks import ModelMasks
from nextchar.models.text.vocabulary import Vocabulary

T = TypeVar("T")

_SAME_FIELDS = {field.name for field in fields(CompletionRequest)} & set(CompletionCreate.model_fields) - {
    "prompt",
    "n",
    "stop",
    "suffix",
}
_INLINE_LOGPROBS = 2_000  # a response with more is serialized in a worker thread
_SHORT_ECHO_CHARACTERS = 2_000  # log-probabilities of a longer prompt wait in a queue

MAX_ECHO_LOGPROBS_CHARACTERS = 50_000
"""The longest prompt that is echoed with log-probabilities."""

MAX_LOGPROBS = 300_000
"""The most log-probabilities in one response; each takes about a hundred bytes of JSON."""

MAX_ECHOED_CHARACTERS = 2_000_000
"""The most characters echoed in one response: the prompts, `n` times."""

LONG_PROMPT_CHARACTERS = 10_000
"""A longer prompt of a model with masks is masked in the pool of long prompts: that can take seconds."""

_READ_SUFFIX_CHARACTERS = 1_000
_INLINE_CHARACTERS = 200_000  # a longer prompt is normalized in a worker thread, piece by piece
_INLINE_MASKED_CHARACTERS = 2_000  # a longer one is masked in a worker thread, line by line
_PIECE_CHARACTERS = 50_000


async def start_completion(
    engines: Engines, pools: Pools, model: str, body: CompletionCreate, *, caller: Caller, arrived_s: float
) -> RunningCompletion:
    """Start a completion on `model`.

    A long prompt is masked, and its log-probabilities are computed, in one of the `pools`. A `timeout_ms`
    counts from `arrived_s`, so that it includes loading the model.

    Raises:
        InvalidInput, NotFound, Unavailable, Busy: nothing is left behind.
    """
    check_options(body)
    async with engines.use_async(model, client_id=body.client_id) as loaded:
        prompt, unknown = await prepare(body.prompt, loaded, pools)
        if body.echo:
            # A character of the text may be several characters of the model.
            check_options(body, prompt_characters=len(prompt))
        echoed = await _echo(pools, loaded, prompt, body) if body.echo else None
        request = _request(prompt, body, loaded.vocabulary, arrived_s=arrived_s, caller=caller)
        keep = body.n if body.best_of is not None else None
        return run_completion(engines, loaded, request, unknown, echoed=echoed, keep=keep)


def run_completion(
    engines: Engines, loaded: Loaded, request: CompletionRequest, unknown: list[str], **options: Any
) -> RunningCompletion:
    """Start a completion, with candidates if there is text after the cursor; as `RunningCompletion`."""
    kind = InfillingCompletion if request.suffix.strip() else RunningCompletion
    return kind(engines, loaded, request, unknown, **options)


def check_options(body: CompletionCreate, *, prompt_characters: int | None = None) -> None:
    """Raise InvalidInput for options that contradict each other, naming both; the engine checks the rest.

    `prompt_characters` is the prompt's length in the model's characters, once that is known.
    """
    best_of = body.best_of
    if best_of is not None:
        if best_of < body.n:
            raise InvalidInput("best_of, the number of candidates, is less than n", param="best_of")
        if body.beam is not None:
            raise InvalidInput("best_of cannot be combined with beam; use one of them", param="best_of")
        if body.stream:
            raise InvalidInput(
                "best_of cannot be combined with stream: the best candidate is only known at the end",
                param="best_of",
            )
    if body.beam is None and "length_penalty" in body.model_fields_set:
        raise InvalidInput("length_penalty needs beam", param="length_penalty")
    check_size(
        [len(body.prompt) if prompt_characters is None else prompt_characters],
        n=body.n,
        generated=max(body.n, best_of or 0) * body.max_characters,
        echo=body.echo,
        logprobs=body.logprobs,
    )


def check_size(
    prompt_lengths: Sequence[int], *, n: int, generated: int, echo: bool, logprobs: int | None
) -> None:
    """Raise InvalidInput if the response to prompts of these lengths in characters could be too large."""
    echoed = n * sum(prompt_lengths) if echo else 0
    if echoed > MAX_ECHOED_CHARACTERS:
        raise InvalidInput(
            f"echo would repeat prompt n times, more than {MAX_ECHOED_CHARACTERS:,} characters", param="echo"
        )
    if logprobs is None:
        return
    if echo and max(prompt_lengths) > MAX_ECHO_LOGPROBS_CHARACTERS:
        raise InvalidInput(
            f"echo with logprobs takes a prompt of at most {MAX_ECHO_LOGPROBS_CHARACTERS:,} characters",
            param="echo",
        )
    count = (echoed + generated) * (1 + logprobs)
    if count > MAX_LOGPROBS:
        raise InvalidInput(
            f"logprobs asks for {1 + logprobs} log-probabilities per character, up to {count:,} in all; one"
            f" response has at most {MAX_LOGPROBS:,}",
            param="logprobs",
        )


def remaining_s(timeout_ms: int | None, arrived_s: float) -> float | None:
    """Return how many seconds are left to a request that arrived at `arrived_s`, on `time.perf_counter`."""
    return None if timeout_ms is None else max(0.0, arrived_s + timeout_ms / 1000 - time.perf_counter())


async def _echo(pools: Pools, loaded: Loaded, prompt: str, body: CompletionCreate) -> Piece:
    logprobs = body.logprobs
    if logprobs is None:
        return Piece(0, prompt)

    def describe(check: Check) -> list[CharacterLogprobs]:
        return loaded.engine.text_logprobs(prompt, top=logprobs, expert=body.expert, check=check)

    return Piece(0, prompt, tuple(await run_echo(pools, len(prompt), describe)))


async def run_echo(pools: Pools, characters: int, work: Callable[[Check], T]) -> T:
    """Return the result of `work` on a prompt of this length; a long one is queued. Raises Busy."""
    if characters <= _SHORT_ECHO_CHARACTERS:
        return await run_in_thread(work, lambda: None)
    return await pools.queue(LONG_PROMPTS).run(work)


async def serialize(
    to_json: Callable[[], str],
    completions: Iterable[Completion],
    *,
    logprobs: int | None,
    echoed_characters: int = 0,
) -> str:
    """Return `to_json()`, which is called in a worker thread if there are many log-probabilities."""
    if logprobs is None:
        return to_json()
    characters = echoed_characters + sum(len(completion.logprobs) for completion in completions)
    is_small = characters * (1 + logprobs) <= _INLINE_LOGPROBS
    return to_json() if is_small else await run_in_thread(to_json)


def _request(
    prompt: str, body: CompletionCreate, vocabulary: Vocabulary, *, arrived_s: float, caller: Caller
) -> CompletionRequest:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return CompletionRequest(
        prompt=prompt,
        n=body.n if body.best_of is None else body.best_of,
        stop=tuple(map(vocabulary.to_characters, stop)),
        suffix=suffix_of(body.suffix, vocabulary),
        timeout_s=remaining_s(body.timeout_ms, arrived_s),
        caller=caller,
        **{name: getattr(body, name) for name in _SAME_FIELDS},
    )


def suffix_of(text: str, vocabulary: Vocabulary) -> str:
    """Return what counts of a text after the cursor, in the model's characters: to the first unknown one."""
    characters = vocabulary.to_characters(text[:_READ_SUFFIX_CHARACTERS])
    unknown = {*vocabulary.unknown(characters)}
    return "".join(itertools.takewhile(lambda character: character not in unknown, characters))


async def prepare(text: str, loaded: Loaded, pools: Pools) -> tuple[str, list[str]]:
    """Return `text` as the vocabulary's characters, masked, and the labels of those that are unknown.

    Raises Busy: too many long prompts wait to be masked.
    """
    vocabulary, masks = loaded.vocabulary, loaded.masks if loaded.has_masks else None
    if len(text) <= (_INLINE_MASKED_CHARACTERS if masks else _INLINE_CHARACTERS):
        text, unknown = _prepare(text, vocabulary, masks)
    elif masks and len(text) > LONG_PROMPT_CHARACTERS:
        work = partial(_prepare_in_pieces, text, vocabulary, masks)
        text, unknown = await pools.queue(LONG_PROMPTS).run(work)
    else:
        text, unknown = await run_in_thread(_prepare_in_pieces, text, vocabulary, masks, no_check)
    return text, list(map(vocabulary.label, unknown))


def _prepare(text: str, vocabulary: Vocabulary, masks: ModelMasks | None) -> tuple[str, list[str]]:
    text = vocabulary.to_characters(text)
    if masks:
        text = masks.mask_lines(text)
    return text, vocabulary.unknown(text)


def _prepare_in_pieces(
    text: str, vocabulary: Vocabulary, masks: ModelMasks | None, check: Check
) -> tuple[str, list[str]]:
    """Do the same in small pieces, because each call holds the GIL and thereby blocks the event loop."""
    pieces: list[str] = []
    start = 0
    while start < len(text):
        check()
        end = _safe_cut(text, start + _PIECE_CHARACTERS)
        pieces.append(vocabulary.to_characters(text[start:end]))
        start = end
    text = "".join(pieces)
    if masks:
        text = masks.mask_lines(text, check=check)
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


CANDIDATES = 8
"""How many completions are generated at least, where they can differ."""

SUFFIX_CHARACTERS = 16
"""Characters after the cursor by which candidates are compared."""

_SAME_CHARACTERS = 3
"""A candidate may end where this much of it is the beginning of the text after the cursor."""

_WORDS_CHARACTERS = 32
"""A candidate may end with a word within this many characters."""

_EXCLUDED_BY_BEAM = ("no_repeat", "logit_bias", "presence_penalty", "frequency_penalty")


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
            caller=self._request.caller,
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
