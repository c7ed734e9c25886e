"""Completions, whole or streamed, the distribution of the next character, and suggestions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, Unpack, cast

from nextchar.connection import EVENT_STREAM, Connection, omit_none, path_of
from nextchar.errors import ServerUnreachable
from nextchar.options import CompletionOptions, NextOptions, SuggestOptions
from nextchar.types import Completion, Distribution, StreamEvent, Suggestions


class CompletionCalls(Connection):
    """Completions, whole or streamed, the distribution of the next character, and suggestions."""

    async def complete(
        self, model: str, prompt: str, *, document: str | None = None, **options: Unpack[CompletionOptions]
    ) -> Completion:
        """Complete a prompt.

        `document` is an id of the text, or of the user who writes it, which others cannot guess: its prompts
        go to one process of the service, which shares what it caches of them with no other id. By default
        each client has a random one; give each user one where a client serves several.

        >>> found = client.complete("nietzsche", "morality equals ", until="line", seed=1)  # doctest: +SKIP
        >>> found["completions"][0]["text"]  # doctest: +SKIP
        'the same thing as the spirit,'
        """
        body, headers = {"prompt": prompt, **omit_none(**options)}, self._document_header(document)
        path = path_of("models", model, "complete")
        return await self._fetch(Completion, "POST", path, json=body, headers=headers)

    async def stream(
        self, model: str, prompt: str, *, document: str | None = None, **options: Unpack[CompletionOptions]
    ) -> AsyncGenerator[StreamEvent, None]:
        """Complete a prompt and yield the text as it comes: `piece` events, `finished`, then `done`.

        `document` is as for `complete`.

        >>> for event in client.stream("nietzsche", "morality equals "):  # doctest: +SKIP
        ...     if event["event"] == "piece":
        ...         print(event["data"]["text"], end="", flush=True)
        """
        path = path_of("models", model, "complete")
        body = {"prompt": prompt, **omit_none(**options), "stream": True}
        headers = EVENT_STREAM | self._document_header(document)
        opened = await self._open("POST", path, json=body, headers=headers)
        async with aclosing(opened) as response:
            async for kind, data in self._events(response):
                yield {"event": cast(Literal["piece", "finished", "done"], kind), "data": data}
                if kind == "done":
                    return
        raise ServerUnreachable(f"{self.server} closed the connection during a completion; retry")

    async def next(
        self, model: str, prompt: str, *, document: str | None = None, **options: Unpack[NextOptions]
    ) -> Distribution:
        """Return the distribution of the next character. `document` is as for `complete`.

        >>> client.next("nietzsche", "phil", top=1)["candidates"]  # doctest: +SKIP
        [{'character': 'o', 'probability': 0.93}]
        """
        body, headers = {"prompt": prompt, **omit_none(**options)}, self._document_header(document)
        path = path_of("models", model, "next")
        return await self._fetch(Distribution, "POST", path, json=body, headers=headers)

    async def suggest(
        self, model: str, prefix: str, *, document: str | None = None, **options: Unpack[SuggestOptions]
    ) -> Suggestions:
        """Return different completions of a field, best first; of models of records, lines of their corpus.

        `document` is as for `complete`.

        >>> [one["text"] for one in client.suggest("cities", "berln")["suggestions"]]  # doctest: +SKIP
        ['Berlin']
        """
        body, headers = {"prefix": prefix, **omit_none(**options)}, self._document_header(document)
        path = path_of("models", model, "suggest")
        return await self._fetch(Suggestions, "POST", path, json=body, headers=headers)

    def _document_header(self, document: str | None) -> dict[str, str]:
        return {"X-Document": self.default_document if document is None else document}
