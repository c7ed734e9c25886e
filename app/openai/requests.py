"""From OpenAI's completion request to the engine's: defaults, prompts, options, ids, log-probabilities.

Echoed log-probabilities are those of a network that reads the prompt from its first character, so the first
has none. Those of the expert `network` are what /score reports for the text after its first character.
"""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from nextchar.app.completions.requests import (
    LONG_PROMPT_CHARACTERS,
    check_size,
    prepare,
    remaining_s,
    run_echo,
    suffix_of,
)
from nextchar.app.http.threads import Check, Pools, run_in_thread
from nextchar.app.models.engines import Loaded
from nextchar.app.openai.schemas import (
    Logprobs,
    OpenAIChoice,
    OpenAICompletion,
    OpenAICompletionCreate,
    OpenAIUsage,
)
from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.requests import Caller, CharacterLogprobs, CompletionRequest, Expert
from nextchar.models.text.vocabulary import Vocabulary

UNKNOWN = "\uffff"
"""Represents id 0 among characters; U+FFFF is a noncharacter, so no vocabulary has it."""

_SEED_RANGE = 2**63
_SHARED_FIELDS = {field.name for field in fields(CompletionRequest)} & set(
    OpenAICompletionCreate.model_fields
)


def characters_of(ids: Sequence[int], vocabulary: Vocabulary, *, param: str = "prompt") -> str:
    """Return the characters with these ids; id 0 becomes UNKNOWN.

    Raises:
        InvalidInput: an id is not in the vocabulary; `param` names the field that has it.
    """
    largest = int(np.max(ids, initial=0))
    if largest >= len(vocabulary):
        raise InvalidInput(
            f"{param} has the id {largest}; this model's characters have ids from 0, unknown, to"
            f" {len(vocabulary) - 1}",
            code="unknown_id",
            param=param,
        )
    characters = UNKNOWN + vocabulary.characters
    return "".join([characters[character_id] for character_id in ids])


def token(character: str, vocabulary: Vocabulary) -> str:
    """Return how a character is shown as a token."""
    return "\ufffd" if character == UNKNOWN else vocabulary.label(character)


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


@dataclass(frozen=True)
class _Markers:
    prefix: str  # before the text that precedes the cursor
    suffix: str  # before the text that follows the cursor
    middle: str | None  # before the text to be generated; None: the family has no such marker
    spaced: bool = False  # a space after the first and before the others is part of the markers


_FAMILIES = (
    _Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    _Markers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite, Mellum
    _Markers("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    _Markers("<PRE>", "<SUF>", "<MID>", spaced=True),  # Code Llama
    _Markers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    _Markers("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    _Markers("[PREFIX]", "[SUFFIX]", None),  # Codestral
)


def unwrap(prompt: str) -> str:
    r"""Return the text before the cursor of a fill-in-the-middle prompt; any other prompt unchanged.

    Editors send these to code models, each family of which has its own three markers, in its own order. A
    character model completes the text before the cursor and ignores the text after it.

    >>> unwrap("<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>x")
    'def f(x'
    >>> unwrap("[SUFFIX]):\n[PREFIX]def f("), unwrap("no <fim_prefix> of any kind")
    ('def f(', 'no <fim_prefix> of any kind')
    """
    for markers in _FAMILIES:
        if markers.prefix in prompt and markers.suffix in prompt:
            text = _before_cursor(prompt, markers)
            if text is not None:
                return text
    return prompt


def _before_cursor(prompt: str, markers: _Markers) -> str | None:
    """Return the text after the prefix and middle markers; None if a marker is missing or repeated."""
    names = [name for name in (markers.prefix, markers.suffix, markers.middle) if name]
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", prompt)
    if sorted(parts[1::2]) != sorted(names):
        return None
    text = dict(zip(parts[1::2], parts[2::2], strict=True))
    prefix, middle = text[markers.prefix], text[markers.middle] if markers.middle else ""
    if markers.spaced:
        prefix = prefix.removeprefix(" ").removesuffix(" ")
        middle = middle.removeprefix(" ")
    return prefix + middle


@dataclass(frozen=True)
class ResolvedPrompt:
    """One prompt in the model's characters; choices begin with `echo` and `echo_logprobs`, if requested."""

    characters: str
    unknown: list[str]
    echo: str = ""
    echo_logprobs: Logprobs | None = None


@dataclass(frozen=True)
class ResolvedRequest:
    """A request with its defaults filled in, and the model that completes it."""

    body: OpenAICompletionCreate
    loaded: Loaded
    caller: Caller
    arrived_s: float
    prompts: Sequence[ResolvedPrompt]
    n: int
    max_tokens: int
    id: str
    created: int

    def response(self, choices: list[OpenAIChoice], usage: OpenAIUsage | None) -> OpenAICompletion:
        """Return the response, or a chunk of it."""
        model = self.loaded.reference
        return OpenAICompletion(
            id=self.id,
            created=self.created,
            model=model,
            system_fingerprint=model,
            choices=choices,
            usage=usage,
        )

    def without_prompts(self) -> "ResolvedRequest":
        """Return what a stream needs once its prompts are started: they may be as large as the body."""
        return replace(self, body=self.body.model_copy(update={"prompt": None}), prompts=())

    def engine_request(self, prompt: ResolvedPrompt) -> CompletionRequest:
        """Return the engine's request for one prompt."""
        body = self.body
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        same: dict[str, Any] = {name: getattr(body, name) for name in _SHARED_FIELDS}
        converted = {
            "prompt": prompt.characters,
            "max_characters": self.max_tokens,
            "n": max(self.n, body.best_of or 0),
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "seed": None if body.seed is None else body.seed % _SEED_RANGE,
            "stop": tuple(map(self.loaded.vocabulary.to_characters, stop)),
            "suffix": suffix_of(body.suffix or "", self.loaded.vocabulary),
            "stream": bool(body.stream),
            "caller": self.caller,
            "timeout_s": remaining_s(body.timeout_ms, self.arrived_s),
            "logit_bias": _logit_bias(body.logit_bias or {}),
            "presence_penalty": body.presence_penalty or 0.0,
            "frequency_penalty": body.frequency_penalty or 0.0,
        }
        return CompletionRequest(**same | converted)


async def resolve(
    body: OpenAICompletionCreate, loaded: Loaded, pools: Pools, *, caller: Caller, arrived_s: float
) -> ResolvedRequest:
    """Return the request with its defaults, and its prompts as characters.

    `body.user` tells users of the same caller apart.

    Raises:
        InvalidInput: the response could become too large, or a prompt has an id that the model does not have.
        Busy: too many long prompts wait to be masked or for their echoed log-probabilities.
    """
    n = 1 if body.n is None else body.n
    max_tokens = 16 if body.max_tokens is None else body.max_tokens
    prompts = _prompts(body)
    check = partial(
        check_size,
        n=n,
        generated=len(prompts) * max(n, body.best_of or 0) * max_tokens,
        echo=bool(body.echo),
        logprobs=body.logprobs,
    )
    check([*map(len, prompts)])
    if body.echo and body.logprobs is not None:
        # A character of the text may be several characters of the model.
        to_characters = loaded.vocabulary.to_characters
        check([len(to_characters(prompt) if isinstance(prompt, str) else prompt) for prompt in prompts])
    return ResolvedRequest(
        body=body,
        loaded=loaded,
        caller=caller._replace(user=f"{caller.user}\n{body.user}") if body.user else caller,
        arrived_s=arrived_s,
        prompts=[await _resolve_prompt(prompt, body, loaded, pools) for prompt in prompts],
        n=n,
        max_tokens=max_tokens,
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
    )


def has_long_prompt(body: OpenAICompletionCreate) -> bool:
    """Return whether masking a prompt of the request can take long."""
    return any(isinstance(p, str) and len(p) > LONG_PROMPT_CHARACTERS for p in _prompts(body))


def _prompts(body: OpenAICompletionCreate) -> Sequence[str | list[int]]:
    prompt = body.prompt or ""
    if isinstance(prompt, str):
        return [prompt]
    ids = [entry for entry in prompt if isinstance(entry, int)]
    return [ids] if ids else [entry for entry in prompt if not isinstance(entry, int)]


async def _resolve_prompt(
    prompt: str | list[int], body: OpenAICompletionCreate, loaded: Loaded, pools: Pools
) -> ResolvedPrompt:
    vocabulary = loaded.vocabulary
    if isinstance(prompt, str):
        characters, unknown = await prepare(unwrap(prompt), loaded, pools)
    else:
        characters, unknown = await run_in_thread(characters_of, prompt, vocabulary), []
    if not body.echo:
        return ResolvedPrompt(characters, unknown)
    echo = _text(characters, vocabulary)
    if body.logprobs is None:
        return ResolvedPrompt(characters, unknown, echo)
    describe = partial(_describe, characters, body.logprobs, loaded, body.expert)
    logprobs = await run_echo(pools, len(characters), describe)
    return ResolvedPrompt(characters, unknown, echo, logprobs)


def _text(characters: str, vocabulary: Vocabulary) -> str:
    return vocabulary.to_text(characters.replace(UNKNOWN, "\ufffd"))


def _describe(characters: str, top: int, loaded: Loaded, expert: Expert, check: Check) -> Logprobs:
    """Return the log-probabilities of a prompt's characters; the first has none."""
    if not characters:
        return Logprobs(tokens=[], token_logprobs=[], top_logprobs=[] if top else None, text_offset=[])
    first, rest = characters[0], characters[1:]
    described = loaded.engine.text_logprobs(rest, top=top, context=first, expert=expert, check=check)
    logprobs = logprobs_of(described, loaded.vocabulary, top, start=1)
    return Logprobs(
        tokens=[token(first, loaded.vocabulary), *logprobs.tokens],
        token_logprobs=[None, *logprobs.token_logprobs],
        top_logprobs=None if logprobs.top_logprobs is None else [None, *logprobs.top_logprobs],
        text_offset=[0, *logprobs.text_offset],
    )


def _logit_bias(body: dict[str, float]) -> tuple[tuple[int, float], ...]:
    biases = []
    for character_id, bias in body.items():
        if not (character_id.isascii() and character_id.isdecimal()):
            raise InvalidInput(
                f"logit_bias has the key {character_id[:40]!r}; keys are character ids, as /tokenize returns",
                param="logit_bias",
            )
        if not -100 <= bias <= 100:
            raise InvalidInput("a bias in logit_bias must be from -100 to 100", param="logit_bias")
        biases.append((int(character_id[:12]), bias))
    return tuple(biases)
