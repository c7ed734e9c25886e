"""From the engine's events and completions to OpenAI's choices, chunks and usage."""

from collections.abc import Sequence
from typing import Any

from nextchar.app.openai.logprobs import concatenate, logprobs_of
from nextchar.app.openai.requests import ResolvedPrompt, ResolvedRequest
from nextchar.app.openai.schemas import CachedTokens, OpenAIChoice, OpenAIUsage
from nextchar.models.runtime.requests import Completion, Finished, FinishReason, Piece, Usage


def choice_of(
    resolved: ResolvedRequest, prompt: ResolvedPrompt, index: int, completion: Completion
) -> OpenAIChoice:
    """Return a finished completion as the choice `index`."""
    vocabulary, top = resolved.loaded.vocabulary, resolved.body.logprobs
    logprobs = None
    if top is not None:
        logprobs = logprobs_of(completion.logprobs, vocabulary, top, start=len(prompt.characters))
        logprobs = concatenate(prompt.echo_logprobs, logprobs)
    return OpenAIChoice(
        index=index,
        text=prompt.echo + vocabulary.to_text(completion.text),
        finish_reason=_finish_reason(completion.reason),
        logprobs=logprobs,
    )


class Chunks:
    """Turns a stream's events into chunks; counts the characters of each choice. It keeps no prompts."""

    def __init__(self, resolved: ResolvedRequest) -> None:
        self.resolved = resolved.without_prompts()
        self.prompt_lengths = [len(prompt.characters) for prompt in resolved.prompts]
        self._echoes = [(prompt.echo, prompt.echo_logprobs) for prompt in resolved.prompts]
        self._offsets = [length for length in self.prompt_lengths for _ in range(resolved.n)]
        self._decoders = [resolved.loaded.vocabulary.text_decoder() for _ in self._offsets]

    def first(self) -> list[OpenAIChoice]:
        """Return the chunks that need no generation: the echoed prompts; with max_tokens=0, the ends."""
        n = self.resolved.n
        reason = None if self.resolved.max_tokens else _finish_reason("length")
        return [
            OpenAIChoice(index=i * n + j, text=echo, finish_reason=reason, logprobs=logprobs)
            for i, (echo, logprobs) in enumerate(self._echoes)
            for j in range(n)
            if echo or reason
        ]

    def of(self, prompt_index: int, event: Piece | Finished) -> list[OpenAIChoice]:
        """Return the chunk of an event of a prompt; none if it has neither text nor log-probabilities."""
        index = prompt_index * self.resolved.n + event.index
        if isinstance(event, Finished):
            rest = self._decoders[index].feed("", final=True)
            return [OpenAIChoice(index=index, text=rest, finish_reason=_finish_reason(event.reason))]
        text, logprobs, top = self._decoders[index].feed(event.text), None, self.resolved.body.logprobs
        if top is not None:
            vocabulary, start = self.resolved.loaded.vocabulary, self._offsets[index]
            logprobs = logprobs_of(event.logprobs, vocabulary, top, start=start)
            self._offsets[index] += len(event.logprobs)
        return [OpenAIChoice(index=index, text=text, logprobs=logprobs)] if text or logprobs else []


def usage_of(usages: Sequence[Usage]) -> OpenAIUsage:
    """Return the sum of what each prompt used."""
    prompt_tokens = sum(usage.prompt_characters for usage in usages)
    completion_tokens = sum(usage.completion_characters for usage in usages)
    cached_tokens = sum(usage.cached_characters for usage in usages)
    return OpenAIUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=cached_tokens),
    )


def _finish_reason(reason: FinishReason) -> Any:
    """Return `length` for a completion that was cut off by a limit, `stop` for one that ended by itself."""
    return "length" if reason in ("length", "timeout", "cancelled") else "stop"
