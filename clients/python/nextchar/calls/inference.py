"""Inference: scores, calibrations and evaluations; completions, suggestions, the next character, events."""

import hashlib
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, Literal, Unpack, cast

from nextchar.connection import EVENT_STREAM, LONG_TIMEOUT_S, Connection, omit_none, path_of
from nextchar.errors import NextcharError, ServerUnreachable
from nextchar.lines import check_lines
from nextchar.options import (
    CalibrationOptions,
    CompletionOptions,
    EvaluationOptions,
    NextOptions,
    ScoreOptions,
    SuggestOptions,
)
from nextchar.types import (
    Acceptance,
    Calibration,
    Completion,
    CountSource,
    Distribution,
    Evaluation,
    Events,
    KeptText,
    LineCounts,
    Score,
    StreamEvent,
    Suggestions,
)


class ScoreCalls(Connection):
    """Anomaly scores of a text or a list of lines; calibrations and evaluations."""

    async def score(self, model: str, text: str | Sequence[str], **options: Unpack[ScoreOptions]) -> Score:
        """Return the surprisal, in bits, of a text or of up to 10,000 lines, and which lines are anomalous.

        `score_lines` takes lines without end. Positions and bits are those of the characters after NFC.

        Args:
            model: `name` or `name@version`.
            text: a `str`, scored as a whole, or a list of lines, each scored by itself.
            options: the fields of `ScoreOptions`.

        >>> scores = client.score("web", ["GET /", "GET /'--"], false_alarms=0.01)  # doctest: +SKIP
        >>> [line["anomalous"] for line in scores["lines"]]  # doctest: +SKIP
        [False, True]
        """
        if hasattr(text, "__next__"):  # an iterator may have no end
            raise NextcharError(
                "score takes a str or a list of lines; use score_lines for any other iterable"
            )
        body = {"detail": "character"} | omit_none(**options)
        body |= {"text": text} if isinstance(text, str) else {"lines": list(text)}
        path = path_of("models", model, "score")
        return await self._fetch(Score, "POST", path, json=body, timeout_s=LONG_TIMEOUT_S)

    async def forget_stream(self, model: str, stream_id: str) -> None:
        """Delete what a model remembers of a stream of lines."""
        await self._fetch(dict, "DELETE", path_of("models", model, "streams", stream_id), can_retry=True)

    async def calibrate(
        self, model: str, lines: Iterable[str] | None = None, **options: Unpack[CalibrationOptions]
    ) -> Calibration:
        """Compare a model's scores with those of normal lines from now on.

        Args:
            model: `name` or `name@version`.
            lines: normal lines; or by `options` those of a corpus, or the newest that log agents have sent.
            options: the fields of `CalibrationOptions`.

        >>> client.calibrate("web", normal_lines, false_alarms=0.001)["lines"]  # doctest: +SKIP
        5000
        """
        check_lines(lines)
        body = omit_none(lines=None if lines is None else list(lines), **options)
        path = path_of("models", model, "calibrate")
        return await self._fetch(Calibration, "POST", path, json=body, timeout_s=LONG_TIMEOUT_S)

    async def calibrations(self, model: str) -> list[Calibration]:
        """Return a model's calibrations by name."""
        found = await self._get(dict[str, Any], path_of("models", model, "calibrations"))
        return cast(list[Calibration], found["data"])

    async def delete_calibration(self, model: str, name: str) -> None:
        """Delete a calibration; the one made with the model cannot be deleted."""
        await self._fetch(dict, "DELETE", path_of("models", model, "calibrations", name), can_retry=True)

    async def evaluate(
        self,
        model: str,
        lines: Sequence[str],
        anomalous: Sequence[bool],
        **options: Unpack[EvaluationOptions],
    ) -> Evaluation:
        """Return how well a model separates anomalous lines from normal ones, compared with simple baselines.

        `anomalous` is the truth about each line.

        >>> client.evaluate("web", lines, labels, worst=5)["model_score"]["auroc"]  # doctest: +SKIP
        0.987
        """
        check_lines(lines)
        body = {"lines": list(lines), "anomalous": list(map(bool, anomalous)), **omit_none(**options)}
        path = path_of("models", model, "evaluate")
        return await self._fetch(Evaluation, "POST", path, json=body, timeout_s=LONG_TIMEOUT_S)


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

    async def put_line_counts(
        self,
        model: str,
        lines: Mapping[str, float] | Iterable[Mapping[str, Any]],
        *,
        source: str = "default",
        half_life_days: float | None = 30.0,
        add_lines: bool = True,
    ) -> CountSource:
        """Add counts to the lines that a model suggests, without training; return what the source has added.

        Args:
            model: a name, for all its versions.
            lines: the count of each; or objects with `text`, `count` and `at`, in Unix seconds.
            source: what has counted them. They replace what the same source has added before.
            half_life_days: after which half of a count is left; None: all of it stays.
            add_lines: whether lines that the corpus lacks are suggested as well.

        >>> client.put_line_counts("cities", {"Berlin": 120}, source="orders")["lines"]  # doctest: +SKIP
        1
        """
        if isinstance(lines, Mapping):
            lines = [{"text": text, "count": count} for text, count in lines.items()]
        body = {"source": source, "half_life_days": half_life_days, "add_lines": add_lines, "lines": [*lines]}
        path = path_of("models", model, "counts")
        return await self._fetch(
            CountSource, "PUT", path, json=body, can_retry=True, timeout_s=LONG_TIMEOUT_S
        )

    async def line_counts(
        self, model: str, *, source: str | None = None, limit: int | None = None
    ) -> LineCounts:
        """Return the counts that one source has added to a model's lines, or all; the `limit` largest."""
        return await self._get(
            LineCounts, path_of("models", model, "counts"), **omit_none(source=source, limit=limit)
        )

    async def delete_line_counts(self, model: str, *, source: str | None = None) -> int:
        """Delete the counts that one source has added to a model's lines, or all; return how many."""
        params, path = omit_none(source=source), path_of("models", model, "counts")
        deleted = await self._fetch(dict[str, Any], "DELETE", path, params=params, can_retry=True)
        return cast(int, deleted["deleted"])

    def _document_header(self, document: str | None) -> dict[str, str]:
        return {"X-Document": self.default_document if document is None else document}


_MAX_EVENTS = 1_000  # in one request


class AcceptanceCalls(Connection):
    """Events of suggestions: tell what became of them, get how many were accepted, what is kept of them."""

    async def add_events(self, events: Iterable[Mapping[str, Any]]) -> Events:
        """Tell what became of suggestions. The events are stored when this returns; each counts once.

        Args:
            events: each with `type` (`shown`, `accepted`, `typed`, `dismissed` or `kept`), `suggestion_id`,
                `model`, and what else docs/how-to/measure-acceptance.md names. One without `id` gets one.

        >>> shown = {"type": "shown", "suggestion_id": "sug_1.0", "model": "cities@3"}
        >>> client.add_events([shown])["accepted"]  # doctest: +SKIP
        1
        """
        counts = Events(accepted=0, duplicates=0, rejected=0)
        remaining = iter(events)
        while batch := [{"id": str(uuid.uuid4()), **event} for event in islice(remaining, _MAX_EVENTS)]:
            added = await self._fetch(Events, "POST", "/v1/events", json={"events": batch}, can_retry=True)
            for name in ("accepted", "duplicates", "rejected"):
                counts[name] += added[name]
        return counts

    async def acceptance(self, model: str, *, days: int | None = None) -> Acceptance:
        """Return how many suggestions were shown, accepted and kept.

        Args:
            model: a name, for all its versions; or `name@version`.
            days: how many days to add up, with today, in UTC; by default 30.

        >>> client.acceptance("cities", days=7)["total"]["acceptance_rate"]  # doctest: +SKIP
        0.25
        """
        return await self._get(Acceptance, path_of("models", model, "acceptance"), **omit_none(days=days))

    def kept_texts(self, model: str, *, client_id: str | None = None) -> AsyncGenerator[KeptText, None]:
        """Yield the texts that are kept of a model's name to learn from, the oldest first.

        `client_id`: only those of one client.
        """
        return self._pages(path_of("models", model, "kept_texts"), **_source(client_id))

    async def delete_kept_texts(self, model: str, *, client_id: str | None = None) -> int:
        """Delete the kept texts of one client, or all, and the corpora made of any; return how many texts."""
        path, params = path_of("models", model, "kept_texts"), _source(client_id)
        deleted = await self._fetch(dict[str, Any], "DELETE", path, params=params, can_retry=True)
        return cast(int, deleted["deleted"])


def _source(client_id: str | None) -> dict[str, str]:
    return {} if client_id is None else {"source": hashlib.sha256(client_id.encode()).hexdigest()[:16]}
