"""From OpenAI's completion request to the engine's: defaults, prompts, options.

Echoed log-probabilities are those of a network that reads the prompt from its first character, so the first
has none. Those of the expert `lstm` are what /score reports for the text after its first character.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from nextchar.app.completions.requests import (
    LONG_PROMPT_CHARACTERS,
    check_size,
    prepare,
    remaining_s,
    run_echo,
)
from nextchar.app.http.threads import Check, LimitedWork, run_in_thread
from nextchar.app.models.engines import Loaded
from nextchar.app.openai.fim import unwrap
from nextchar.app.openai.logprobs import logprobs_of
from nextchar.app.openai.schemas import (
    Logprobs,
    OpenAIChoice,
    OpenAICompletion,
    OpenAICompletionCreate,
    OpenAIUsage,
)
from nextchar.app.openai.token_ids import UNKNOWN, characters_of, token
from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.requests import CompletionRequest, Expert
from nextchar.models.text.vocabulary import Vocabulary

_SEED_RANGE = 2**63
_SAME_FIELDS = {"top_k", "top_p", "min_p", "until", "logprobs", "precision", "expert"}


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
    client: str
    user: str
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
        return CompletionRequest(
            prompt=prompt.characters,
            max_characters=self.max_tokens,
            n=max(self.n, body.best_of or 0),
            temperature=1.0 if body.temperature is None else body.temperature,
            seed=None if body.seed is None else body.seed % _SEED_RANGE,
            stop=tuple(map(self.loaded.vocabulary.to_characters, stop)),
            stream=bool(body.stream),
            client=self.client,
            user=self.user,
            timeout_s=remaining_s(body.timeout_ms, self.arrived_s),
            logit_bias=_logit_bias(body.logit_bias or {}),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            **body.model_dump(include=_SAME_FIELDS),
        )


async def resolve(
    body: OpenAICompletionCreate,
    loaded: Loaded,
    long_prompts: LimitedWork,
    *,
    client: str,
    user: str = "",
    arrived_s: float,
) -> ResolvedRequest:
    """Return the request with its defaults, and its prompts as characters.

    `client` and `user` are those of `CompletionRequest`; `body.user` tells users of the same `user` apart.

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
        client=client,
        user=f"{user}\n{body.user}" if body.user else user,
        arrived_s=arrived_s,
        prompts=[await _resolve_prompt(prompt, body, loaded, long_prompts) for prompt in prompts],
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
    prompt: str | list[int], body: OpenAICompletionCreate, loaded: Loaded, long_prompts: LimitedWork
) -> ResolvedPrompt:
    vocabulary = loaded.vocabulary
    if isinstance(prompt, str):
        characters, unknown = await prepare(unwrap(prompt), loaded, long_prompts)
    else:
        characters, unknown = await run_in_thread(characters_of, prompt, vocabulary), []
    if not body.echo:
        return ResolvedPrompt(characters, unknown)
    echo = _text(characters, vocabulary)
    if body.logprobs is None:
        return ResolvedPrompt(characters, unknown, echo)
    describe = partial(_describe, characters, body.logprobs, loaded, body.expert)
    logprobs = await run_echo(long_prompts, len(characters), describe)
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
