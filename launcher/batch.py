"""`nextchar batch`: the lines of files with one model, in processes of this machine or on a Ray cluster.

    run.json                                   what the run does, with which model, to which files
    scored/<file>-<hash>-<start>-<end>.jsonl   the scores of one part, until all of its file are there
    parts/<file>-<hash>-<start>-<end>.jsonl    the results of one part, written as a whole; or .parquet
    done.json                                  when all parts are there

A part has the lines that begin in a range of bytes of a file, or all of a compressed file. `run.json` fixes
the ranges: so running again does only what is missing, and a part that is done twice replaces itself.

Workers score the parts in any order. Which lines are flagged depends on those before (the flag rule): once
all parts of a file are scored, one worker judges its lines in their order and writes the results.
"""

import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import pickle
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from nextchar.local import MODEL_FILE_NAME, STORE_PREFIX, Model, prepare_kernels, read_model
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer, is_unusual
from nextchar.models.anomaly.flag_rule import Evidence
from nextchar.models.anomaly.line_scores import LineScore, StoredCalibration, StreamOptions
from nextchar.models.anomaly.scorer import LineReading
from nextchar.models.anomaly.stream_scorer import StreamScorer, json_line
from nextchar.models.die_with_parent import bind_to_parent
from nextchar.models.errors import Conflict, DomainError, InvalidInput, Unavailable
from nextchar.models.kernels.compile_cache import SERVING, compile_in_child_process
from nextchar.models.machine import available_cores
from nextchar.models.runtime.requests import CompletionRequest, check_request
from nextchar.models.text.lines import (
    MAX_LINE_BYTES,
    InputLine,
    LineParser,
    LineSplitter,
    RawLine,
    lines_between,
)
from nextchar.models.validation_errors import first_problem
from nextchar.store.calibrations import Calibrations
from nextchar.store.gunzip import decompress
from nextchar.store.input_files import InputFile, find_files, read_from
from nextchar.store.open_blobs import open_blobs
from nextchar.store.settings import StoreSettings

_MAX_COMPLETIONS, _MAX_CHARACTERS = 64, 100_000  # of a line
_PROMPTS = 64  # that are completed together
_ROWS = 10_000  # of a row group of Parquet
_COLUMNS = """file:string offset:int64 id:string text:string lines:int32 characters:int32
    bits_per_character:double peak_bits:double total_bits:double score:double p_value:double anomalous:bool
    repeated:bool alert_id:string reason:string spans:spans completions:completions truncated:bool
    is_utf8:bool error:string"""
"""Of Parquet; null if a record has no such field."""

_ERRORS = ("error", "not_utf8", "truncated")  # in a record

_work: "Work"  # of this process of a pool


@dataclass(frozen=True)
class Part:
    """The lines of `file` that begin at `start` or later and before `end`, in bytes as stored."""

    file: InputFile
    start: int
    end: int

    @property
    def offsets(self) -> range:
        """Where its lines begin; offsets are those in the decompressed file."""
        return range(self.start, sys.maxsize if self.file.name.endswith(".gz") else self.end)

    def lines(self, *, before: int = 0, is_open: bool = False) -> Iterator[list[RawLine]]:
        """Yield its lines as they are read, with those in some bytes `before`; if `is_open`, all after it."""
        if self.file.name.endswith(".gz"):
            return lines_between(decompress(read_from(self.file, 0)), 0, sys.maxsize)
        start = max(0, self.start - before)
        end = sys.maxsize if is_open else self.end
        return lines_between(read_from(self.file, max(0, start - 1)), start, end)


@dataclass(frozen=True)
class Scored:
    """All parts of one file, in their order, whose lines are scored and will be judged."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Result:
    """What became of parts.

    Attributes:
        file: its name. counts: `parts` that have results now, and sums over their lines. error: why they have
        none. change: why more lines are rare than the false-alarm rate explains, in one sentence.
    """

    file: str
    counts: Counter[str]
    error: str = ""
    change: str = ""


Task = Part | Scored
Process = Callable[[Sequence[Task]], Iterator[Result]]  # of workers: results come as they are done


@dataclass(frozen=True)
class Work:
    """What is done with each part: its lines are scored or completed. Pickled, it has the model's files."""

    model: Model
    output: str  # URL of a folder
    query: StreamOptions | None
    calibration: StoredCalibration | None
    request: CompletionRequest | None
    format: str  # jsonl or parquet
    is_json: bool  # each line is a JSON string, or an object with the string `line`
    engine: str  # ray or local
    actors: int
    threads: int  # of each actor
    address: str | None  # of a Ray cluster; None: in RAY_ADDRESS, or one of its own

    def path_of(self, part: Part, folder: str = "parts") -> str:
        """Return the path of a part's results in the output."""
        name, suffix = part.file.name, self.format if folder == "parts" else "jsonl"
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition("/")[2])[-60:].lstrip(".") or "file"
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        return f"{folder}/{stem}-{digest}-{part.start:015d}-{part.end:015d}.{suffix}"

    def process(self, task: Task) -> Result:
        """Process a part, or judge all of a file; each part's results are written all at once."""
        parts = task.parts if isinstance(task, Scored) else (task,)
        name = parts[0].file.name
        try:
            return self._judge(parts) if isinstance(task, Scored) else self._read(task)
        except (DomainError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            return Result(name, Counter(), f"{name} cannot be processed: {reason}")

    def _read(self, part: Part) -> Result:
        """Write the completions of a part; or its scores, which `_judge` reads."""
        counts = Counter(parts=1) if self.request else Counter[str]()
        records = self._completions(part, counts) if self.request else self._scores(part)
        self._write(part, records, "parts" if self.request else "scored")
        return Result(part.file.name, counts)

    def _write(self, part: Part, records: Iterator[dict[str, Any]], folder: str) -> None:
        with tempfile.NamedTemporaryFile(prefix="nextchar-") as file:
            _write(records, file, self.format if folder == "parts" else "jsonl")
            file.flush()
            open_blobs(self.output).write(self.path_of(part, folder), Path(file.name))

    def _scores(self, part: Part) -> Iterator[dict[str, Any]]:
        loaded, file, query = self.model.loaded, part.file.name, self.query or StreamOptions()
        # An event is of the part in which it begins. Where that is, the lines before the part show.
        has_events = loaded.scorer.opener is not None
        offsets = part.offsets if has_events else None
        scorer = _PartScorer(loaded, self.calibration, query, is_json=self.is_json, file=file, part=offsets)
        for lines in part.lines(before=has_events * MAX_LINE_BYTES, is_open=has_events):
            yield from scorer.records(lines, is_last=False)
            if scorer.held and scorer.held[0].offset >= part.offsets.stop:
                break
        yield from scorer.records([])
        yield {"totals": {name: scorer.totals[name] for name in ("lines", "characters", "not_utf8")}}

    def _judge(self, parts: Sequence[Part]) -> Result:
        """Judge the lines of a file one after the other, and write its results."""
        file, blobs, counts = parts[0].file.name, open_blobs(self.output), Counter(parts=len(parts))
        scorer = StreamScorer(self.model.loaded, self.calibration, self.query or StreamOptions()).scorer
        for part in parts:
            scored = LineSplitter(max_bytes=sys.maxsize)
            lines = chain.from_iterable(map(scored.feed, blobs.stream(self.path_of(part, "scored"))))
            records = (json.loads(line.data) for line in lines)
            self._write(part, self._judged(records, scorer, counts), "parts")
        blobs.delete(*(self.path_of(part, "scored") for part in parts))
        return Result(file, counts, change=f"{file}: {scorer.change.sentence}" if scorer.change else "")

    def _judged(
        self, scored: Iterator[dict[str, Any]], scorer: CalibratedScorer, counts: Counter[str]
    ) -> Iterator[dict[str, Any]]:
        """Yield the records of lines that `_PartScorer` has scored, by the flag rule."""
        only_flagged = self.query is not None and self.query.only == "anomalous"
        for one in scored:
            if "totals" in one:
                counts.update(one["totals"])
            record: dict[str, Any] | None = one.get("record")
            if scorer.rule and record and "evidence" in one:
                verdict = scorer.rule.judge(Evidence.load(one["evidence"]))
                record |= verdict.changes(self.model.loaded.saved.card.name)
                counts["repeated"] += not verdict.is_flagged
                is_hidden = only_flagged and not verdict.is_flagged and record.keys().isdisjoint(_ERRORS)
                record = None if is_hidden else record
            elif scorer.rule and "is_unusual" in one:
                scorer.rule.count(is_unusual=one["is_unusual"], is_flagged=one["is_flagged"])
            if record:
                counts["anomalous"] += bool(record.get("anomalous"))
                yield record

    def _completions(self, part: Part, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        assert self.request is not None
        vocabulary = self.model.loaded.vocabulary
        lines = map(LineParser(vocabulary, is_json=self.is_json).parse, chain.from_iterable(part.lines()))
        while some := list(islice(lines, _PROMPTS)):
            prompts = [line.text for line in some if line.text is not None]
            completed = iter(self.model.complete_all(prompts, self.request))
            for line in some:
                record = {"file": part.file.name, "offset": line.offset, **line.meta}
                counts.update(lines=1, not_utf8="not_utf8" in record)
                if line.text is not None:
                    found = [{"text": text, "finish_reason": reason} for text, reason in next(completed)]
                    counts.update(characters=sum(len(one["text"]) for one in found))
                    record |= {"text": vocabulary.to_text(line.text), "completions": found}
                yield record


class _PartScorer(StreamScorer):
    """Scores lines that are judged when those before them are scored: yields what this needs."""

    _evidence: Iterator[Evidence] = iter(())  # of the rare lines of this batch

    def _judge(self, scores: Sequence[LineScore], lines: Sequence[LineReading | None]) -> list[LineScore]:
        pairs = zip(scores, lines, strict=True)
        self._evidence = iter(
            [self.scorer.evidence(score, line) for score, line in pairs if line and score.anomalous]
        )
        return list(scores)

    def _record(self, line: InputLine, score: LineScore | None) -> dict[str, Any]:
        found: dict[str, Any] = {"record": super()._record(line, score)}
        if score:
            found |= {"is_unusual": is_unusual(score), "is_flagged": bool(score.anomalous)}
        if score and score.anomalous:
            evidence = next(self._evidence)
            found |= {"evidence": evidence.dump()} if self.scorer.judges_together else {}
        return found


def _write(records: Iterator[dict[str, Any]], file: IO[bytes], format_: str) -> None:
    if format_ == "jsonl":
        file.writelines(map(json_line, records))
        return
    import pyarrow
    from pyarrow import parquet

    text, index, alias = pyarrow.string(), pyarrow.int32(), pyarrow.type_for_alias
    spans = {"start": index, "end": index, "bits": pyarrow.float32(), "expected": text}
    structs = {"spans": spans, "completions": {"text": text, "finish_reason": text}}
    lists = {name: pyarrow.list_(pyarrow.struct(fields)) for name, fields in structs.items()}
    columns = (column.split(":") for column in _COLUMNS.split())
    schema = pyarrow.schema([(name, lists.get(kind) or alias(kind)) for name, kind in columns])
    with parquet.ParquetWriter(file, schema) as writer:
        while rows := [_row(record) for record in islice(records, _ROWS)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def _row(record: dict[str, Any]) -> dict[str, Any]:
    row = record | {"is_utf8": "not_utf8" not in record, "error": record.get("error", {}).get("message")}
    row["id"] = None if record.get("id") is None else str(record["id"])
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}


def _stream_query(query: dict[str, Any]) -> StreamOptions:
    try:
        return StreamOptions(**query)
    except ValidationError as error:
        param, sentence = first_problem(error.errors())
        raise InvalidInput(sentence, param=param) from None


def _completion_request(request: dict[str, Any]) -> CompletionRequest:
    completion = CompletionRequest(prompt="", **request)
    check_request(completion)
    if completion.n > _MAX_COMPLETIONS or completion.max_characters > _MAX_CHARACTERS:
        raise InvalidInput(f"n is at most {_MAX_COMPLETIONS}, max_characters {_MAX_CHARACTERS:,}")
    return completion


def begin(
    inputs: Sequence[str],
    source: str,
    output: str,
    *,
    part_bytes: int,
    query: dict[str, Any] | None = None,
    request: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[int, int, int, Generator[Result]]:
    """Begin a run, or continue the one in the output.

    Return the number of its parts, of those with results, and of the results that follow, and these. `query`
    has options of StreamOptions, or `request` of CompletionRequest; `options` are fields of Work. Closing the
    results stops the workers. Raises ModuleNotFoundError: Ray or pyarrow is not installed; DomainError:
    something else is not as it must be, or the output has another run. Nothing is written then.
    """
    # Ray would otherwise report usage to its makers, and warn about how it treats GPUs.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if options["engine"] == "ray":
        importlib.import_module("ray.data")
    if options["format"] == "parquet":
        importlib.import_module("pyarrow")
    files = find_files(inputs)
    is_folder = (Path(source) / MODEL_FILE_NAME).is_file()
    saved = read_model(source if is_folder or "/" in source else STORE_PREFIX + source)
    scoring = completion = stored = None
    if query is not None:
        scoring = _stream_query(query)
        storage = open_blobs("memory://" if is_folder else StoreSettings.load().blobs_url)
        if stored := Calibrations(storage).find(saved, scoring.calibration):
            stored.calibration.thresholds(scoring.false_alarms or stored.calibration.default_rate())
        elif scoring.only == "anomalous" or scoring.false_alarms:
            raise InvalidInput(
                f"{saved.card.reference} has no calibration, so no line can be called anomalous"
            )
        about = scoring.model_dump(mode="json") | {"calibrated_at": stored.created_at if stored else None}
    else:
        completion = _completion_request(request or {})
        about = asdict(completion)
    prepare_kernels()
    compile_in_child_process(*SERVING)  # once, instead of in each worker
    url = output.rstrip("/") if "://" in output else Path(output).expanduser().resolve().as_uri()
    options["actors"] = options["actors"] or max(1, available_cores() // options["threads"])
    with Model(saved, threads=options["threads"]) as model:
        work = Work(model, url, scoring, stored, completion, **options)
    run = {
        "format_version": 1,
        "operation": "score" if scoring else "complete",
        "model": saved.card.reference,
        "model_id": saved.card.id,
        "options": about,
        "format": work.format,
        "json_lines": work.is_json,
        "part_bytes": part_bytes,
        "files": [asdict(file) for file in files],
    }
    content = json.dumps(run, indent=1).encode()
    try:
        blobs = open_blobs(url)
        if not blobs.create("run.json", content):
            run, before = json.loads(content), json.loads(blobs.read("run.json"))
            part_bytes = run["part_bytes"] = before["part_bytes"]
            if changed := [key.replace("_", " ") for key in run if run[key] != before.get(key)]:
                raise Conflict(f"it has the results of another run, whose {' and '.join(changed)} differ")
        written, scored = set(blobs.paths("parts")), set(blobs.paths("scored"))
    except (ValueError, DomainError) as error:
        raise InvalidInput(f"{output} cannot be used: {error}; choose another output") from None
    files_of_run = [
        tuple(Part(file, start, min(start + size, file.bytes)) for start in range(0, file.bytes, size or 1))
        for file in files
        for size in [file.bytes if file.name.endswith(".gz") else part_bytes]
    ]
    missing = [parts for parts in files_of_run if any(work.path_of(part) not in written for part in parts)]
    count = sum(map(len, files_of_run))
    if completion:
        to_read, to_judge = [p for parts in missing for p in parts if work.path_of(p) not in written], []
        done = count - len(to_read)
    else:
        to_read = [p for parts in missing for p in parts if work.path_of(p, "scored") not in scored]
        to_judge, done = missing, count - sum(map(len, missing))
    return count, done, len(to_read) + len(to_judge), _run(work, to_read, to_judge, count)


def _run(
    work: Work, to_read: Sequence[Part], to_judge: Sequence[tuple[Part, ...]], parts: int
) -> Generator[Result]:
    failed: set[str] = set()
    workers = _on_ray if work.engine == "ray" else _in_processes
    if to_read or to_judge:
        # Ray prints what it has lost.
        with redirect_stdout(sys.stderr), workers(work, max(len(to_read), len(to_judge))) as process:
            for result in process(to_read):
                failed |= {result.file} if result.error else set()
                yield result
            for result in process([Scored(p) for p in to_judge if p[0].file.name not in failed]):
                failed |= {result.file} if result.error else set()
                yield result
    if not failed:
        open_blobs(work.output).write("done.json", json.dumps({"parts": parts}).encode())


@contextmanager
def _in_processes(work: Work, tasks: int) -> Iterator[Process]:
    with (
        tempfile.TemporaryDirectory(prefix="nextchar-") as scratch,  # killed workers delete nothing
        ProcessPoolExecutor(
            min(work.actors, tasks),
            multiprocessing.get_context("spawn"),
            initializer=_begin_process,
            initargs=(pickle.dumps(work), os.getpid(), scratch),
        ) as pool,
    ):
        try:
            yield lambda tasks: (
                done.result() for done in as_completed([pool.submit(_process, t) for t in tasks])
            )
        except BrokenProcessPool:
            raise Unavailable("a worker was killed (out of memory?); run the same command again") from None
        finally:
            for process in multiprocessing.active_children():
                process.kill()  # instead of waiting for its part


def _begin_process(work: bytes, parent: int, scratch: str) -> None:
    bind_to_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    tempfile.tempdir = scratch
    global _work  # noqa: PLW0603 -- the pool calls functions
    _work = pickle.loads(work)  # noqa: S301 -- of the parent


def _process(task: Task) -> Result:
    return _work.process(task)


class RayWorker:
    """A worker as Ray Data calls it: a row has a task, and then its result."""

    def __init__(self, work: Any) -> None:
        self._work: Work = importlib.import_module("ray").get(work[0])

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Process the task of a row."""
        return {"result": self._work.process(row["item"])}


@contextmanager
def _on_ray(work: Work, _: int) -> Iterator[Process]:
    import ray

    def process(tasks: Sequence[Task]) -> Iterator[Result]:
        if not tasks:
            return
        results = ray.data.from_items(list(tasks), override_num_blocks=len(tasks)).map(
            RayWorker,
            fn_constructor_args=([stored],),  # a reference by itself is replaced by what it refers to
            num_cpus=work.threads,
            compute=ray.data.ActorPoolStrategy(size=min(work.actors, len(tasks), fitting)),
        )
        for row in results.iter_rows():
            yield row["result"]

    own: dict[str, Any] = {"num_cpus": work.actors * work.threads, "include_dashboard": False}
    is_own = not (work.address or os.environ.get("RAY_ADDRESS"))
    try:
        ray.init(work.address, log_to_driver=False, logging_level="error", **(own if is_own else {}))
        if not (fitting := int(ray.cluster_resources().get("CPU", 0) // work.threads)):
            raise InvalidInput("no machine has as many cores; reduce --threads")  # noqa: TRY301
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        stored = ray.put(work)
        yield process
    except Exception as error:  # noqa: BLE001 -- Ray raises exceptions of many classes
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, DomainError):
            raise cause from None
        raise Unavailable(
            f"Ray failed: {' '.join(str(error).split())[-500:]}; run the same command again"
        ) from None
    finally:
        ray.shutdown()
