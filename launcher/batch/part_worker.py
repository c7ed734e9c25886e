"""What one worker process does: load the model once, then score or complete one part after the other.

No TensorFlow is imported.
"""

import os
import queue
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nextchar.app.schemas.scores import StreamQuery
from nextchar.app.services.engines import Loaded, load_model
from nextchar.app.services.line_input import InputLine, LineParser, LineSplitter
from nextchar.app.services.score_stream import StreamScorer
from nextchar.launcher.batch.inputs import Part, read_part
from nextchar.launcher.batch.records import Format, write_records
from nextchar.launcher.batch.run_folder import RunFolder
from nextchar.local import ModelFiles, prepare_kernels
from nextchar.models.errors import DomainError
from nextchar.models.runtime.requests import CompletionRequest, Event, Failed, Finished, Piece
from nextchar.models.runtime.session import no_check
from nextchar.store.calibrations import StoredCalibration

_CACHE_BYTES = 64 << 20
_PROMPTS = 64  # that are completed together
_MAX_WAITING = 4 * _PROMPTS


@dataclass(frozen=True)
class Work:
    """What is done with each part; it can be sent to other processes and hosts.

    Attributes:
        model: the model's files.
        folder: where the results go.
        format: of the results.
        query: how lines are scored, if they are.
        calibration: what scores are compared with.
        completion: how lines are completed, if they are; its prompt is replaced.
        is_json: each line is a JSON string, or an object with the string `line`.
        threads: cores of each worker.
    """

    model: ModelFiles
    folder: RunFolder
    format: Format = "jsonl"
    query: StreamQuery | None = None
    calibration: StoredCalibration | None = None
    completion: CompletionRequest | None = None
    is_json: bool = False
    threads: int = 1


@dataclass(frozen=True)
class PartResult:
    """The result of one part: sums over its lines, or why it has no results; and in which process."""

    part: Part
    counts: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    pid: int = field(default_factory=os.getpid)


class PartWorker:
    """Processes parts. Loading the model raises Unavailable if it is damaged."""

    def __init__(self, work: Work) -> None:
        prepare_kernels()
        self._work = work
        saved = work.model.saved()
        engine, scorer = load_model(
            saved, threads=work.threads, cache_bytes=_CACHE_BYTES, max_waiting=_MAX_WAITING
        )
        size = sum(entry.bytes for entry in saved.card.files.values())
        self._loaded = Loaded(saved.card.reference, engine, saved.vocabulary, size, saved, scorer)
        self._blobs = work.folder.open()

    def run(self, part: Part) -> PartResult:
        """Process a part and write its results, all at once. What makes that impossible is in the result."""
        counts: dict[str, int] = {}
        try:
            with tempfile.TemporaryDirectory(prefix="nextchar-") as scratch:
                results = Path(scratch) / "results"
                records = self._scores(part, counts) if self._work.query else self._completions(part, counts)
                write_records(records, results, format_=self._work.format)
                self._work.folder.write(self._blobs, part, results)
        except DomainError as error:
            return PartResult(part, error=error.message)
        except OSError as error:
            return PartResult(part, error=f"{part.file.name}: {error.strerror or error}")
        return PartResult(part, counts)

    def close(self) -> None:
        """Stop the model's threads."""
        self._loaded.engine.close()

    def _scores(self, part: Part, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
        work, scorer = self._work, None
        assert work.query is not None
        for at, piece in read_part(part):
            if scorer is None:
                scorer = StreamScorer(
                    self._loaded,
                    work.calibration,
                    work.query,
                    no_check,
                    is_json=work.is_json,
                    file=part.file.name,
                    offset=at,
                )
            yield from scorer.records(piece, is_last=False)
        if scorer:
            yield from scorer.records(b"", is_last=True)
            counts |= scorer.totals

    def _completions(self, part: Part, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
        splitter = None
        parser = LineParser(self._loaded.vocabulary, is_json=self._work.is_json)
        counts |= {"lines": 0, "characters": 0, "errors": 0, "not_utf8": 0, "truncated": 0}
        waiting: list[InputLine] = []
        for at, piece in read_part(part):
            splitter = splitter or LineSplitter(offset=at)
            waiting += map(parser.parse, splitter.feed(piece))
            while len(waiting) >= _PROMPTS:
                yield from self._complete(part, waiting[:_PROMPTS], counts)
                del waiting[:_PROMPTS]
        waiting += map(parser.parse, splitter.finish() if splitter else ())
        for start in range(0, len(waiting), _PROMPTS):
            yield from self._complete(part, waiting[start : start + _PROMPTS], counts)

    def _complete(
        self, part: Part, lines: Sequence[InputLine], counts: dict[str, int]
    ) -> Iterator[dict[str, Any]]:
        prompts = [line.text for line in lines if line.text is not None]
        completed = iter(complete_prompts(self._loaded, self._request(), prompts))
        to_text = self._loaded.vocabulary.to_text
        for line in lines:
            record = {"file": part.file.name, "offset": line.offset, **line.meta}
            counts["lines"] += 1
            for name in ("not_utf8", "truncated"):
                counts[name] += name in line.meta
            if line.text is not None:
                result = next(completed)
                record["text"] = to_text(line.text)
                if isinstance(result, DomainError):
                    record["error"] = {"code": result.code, "message": result.message}
                else:
                    record["completions"] = result
                    counts["characters"] += sum(len(one["text"]) for one in result)
            counts["errors"] += "error" in record
            yield record

    def _request(self) -> CompletionRequest:
        assert self._work.completion is not None
        return self._work.completion


def complete_prompts(
    loaded: Loaded, request: CompletionRequest, prompts: Sequence[str]
) -> list[list[dict[str, str]] | DomainError]:
    """Return the completions of prompts, in the model's characters, or why there are none; all run together.

    Raises InvalidInput: an option of the request is out of range.
    """
    events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
    to_text = loaded.vocabulary.to_text
    stop = tuple(map(loaded.vocabulary.to_characters, request.stop))
    texts = [[""] * request.n for _ in prompts]
    reasons = [[""] * request.n for _ in prompts]
    results: list[list[dict[str, str]] | DomainError] = [[] for _ in prompts]
    for index, prompt in enumerate(prompts):

        def note(event: Event, index: int = index) -> None:
            events.put((index, event))

        masked = loaded.scorer.mask_lines(prompt)
        loaded.engine.complete(replace(request, prompt=masked, stop=stop, stream=False), note)
    left = len(prompts)
    while left:
        index, event = events.get()
        if isinstance(event, Piece):
            texts[index][event.index] += event.text
        elif isinstance(event, Finished):
            reasons[index][event.index] = event.reason
        else:
            left -= 1
            if not isinstance(event, Failed):
                found = zip(texts[index], reasons[index], strict=True)
                results[index] = [{"text": to_text(text), "finish_reason": reason} for text, reason in found]
            elif isinstance(event.error, DomainError):
                results[index] = event.error
            else:
                raise event.error
    return results
