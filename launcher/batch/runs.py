"""Scoring or completing the lines of files with one model: `nextchar batch`."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nextchar.app.schemas.scores import StreamQuery
from nextchar.launcher.batch.engines import import_ray, run_in_processes, run_on_ray
from nextchar.launcher.batch.inputs import Part, find_files
from nextchar.launcher.batch.part_worker import PartResult, Work
from nextchar.launcher.batch.records import Format, check_format
from nextchar.launcher.batch.run_folder import RunFolder
from nextchar.local import MODEL_FILE_NAME, STORE_PREFIX, ModelFiles, prepare_kernels, read_model
from nextchar.models.errors import DomainError, InvalidInput
from nextchar.models.kernels.compile_cache import SERVING, compile_in_child_process
from nextchar.models.machine import available_cores
from nextchar.models.runtime.request_validation import check_request
from nextchar.models.runtime.requests import CompletionRequest
from nextchar.models.saved_model import SavedModel
from nextchar.store.calibrations import Calibrations, StoredCalibration
from nextchar.store.open_blobs import open_blobs
from nextchar.store.settings import StoreSettings

__all__ = ["DomainError", "RunOptions", "Totals", "complete", "score"]

PART_BYTES = 8 << 20
"""The default size of a part: some seconds of work, so that little is lost with a worker."""


@dataclass(frozen=True)
class RunOptions:
    """What both kinds of runs need.

    Attributes:
        inputs: paths, URLs or patterns of the files.
        model: a folder, the name of a model in the storage of the settings, or `store:` and such a name.
        output: a folder or URL.
        engine: Ray, or processes of this machine.
        workers: engines that run at a time; None: one per core of this machine.
        address: of a Ray cluster; None: RAY_ADDRESS, or a new one on this machine.
        part_bytes: of a file that is not compressed.
        format: of the results.
        is_json: each line is a JSON string, or an object with the string `line`.
        threads: cores of each worker.
    """

    inputs: Sequence[str]
    model: str
    output: str
    engine: Literal["ray", "local"] = "ray"
    workers: int | None = None
    address: str | None = None
    part_bytes: int = PART_BYTES
    format: Format = "jsonl"
    is_json: bool = False
    threads: int = 1


@dataclass
class Totals:
    """What a run has done: parts by result, and sums over the parts that it did now."""

    parts: int = 0
    parts_before: int = 0  # that an earlier run of the same command has done
    bytes: int = 0
    bytes_before: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)  # of the parts that have no results


OnProgress = Callable[[Totals, PartResult | None], None]
"""Called with the totals so far, when the parts are known and as each of them ends."""


def score(options: RunOptions, show: OnProgress, *, calibration: str | None = None, **query: Any) -> Totals:
    """Score lines as `POST /v1/models/{model}/score` does for a stream; `query` has fields of StreamQuery.

    Repeats of flagged lines are flagged too: so the result of a line does not depend on where parts begin.

    Raises:
        DomainError: an option, the model, the files, the output or the cluster is not as it must be.
    """
    saved = _model(options.model)
    stored = _calibration(options.model, saved, calibration)
    wanted = StreamQuery(calibration=calibration, repeats="flag", **query)
    if stored:
        stored.calibration.thresholds(wanted.false_alarms or stored.calibration.default_rate())
    elif wanted.only == "anomalous" or wanted.false_alarms:
        raise InvalidInput(
            f"{saved.card.reference} has no calibration, so no line can be called anomalous; score with"
            " --only all and without --false-alarms, or take a model that was trained on more lines",
            code="no_calibration",
        )
    about = wanted.model_dump(mode="json") | {"calibrated_at": stored.created_at if stored else None}
    return _run(options, saved, "score", about, show, query=wanted, calibration=stored)


def complete(options: RunOptions, show: OnProgress, request: dict[str, Any]) -> Totals:
    """Complete each line, as a prompt; `request` has fields of CompletionRequest. Raises as `score`."""
    wanted = CompletionRequest(prompt="", **request)
    check_request(wanted)
    return _run(options, _model(options.model), "complete", asdict(wanted), show, completion=wanted)


def _run(
    options: RunOptions,
    saved: SavedModel,
    operation: str,
    about: dict[str, Any],
    show: OnProgress,
    **work: Any,
) -> Totals:
    check_format(options.format)
    files = find_files(options.inputs)
    if not any(file.bytes for file in files):
        raise InvalidInput(f"the {len(files):,} files are empty", code="no_input")
    folder = RunFolder.at(options.output, suffix=f".{options.format}")
    about = {
        "operation": operation,
        "model": saved.card.reference,
        "model_id": saved.card.id,
        "options": about,
        "format": options.format,
        "json_lines": options.is_json,
    }
    if options.engine == "ray":
        import_ray()  # before anything is written, and before kernels are compiled
    parts = folder.begin(about, files, options.part_bytes)
    missing = folder.missing(parts)
    done = set(parts) - set(missing)
    totals = Totals(len(parts), len(done), sum(part.bytes for part in parts), sum(p.bytes for p in done))
    show(totals, None)
    if missing:
        prepare_kernels()
        compile_in_child_process(*SERVING)  # once, instead of in each worker
        to_do = Work(
            ModelFiles.of(saved),
            folder,
            format=options.format,
            is_json=options.is_json,
            threads=options.threads,
            **work,
        )
        with contextlib.closing(_results(options, to_do, missing)) as results:
            for result in results:
                totals.counts.update(result.counts)
                if result.error:
                    totals.errors.append(result.error)
                show(totals, result)
    if not totals.errors:
        folder.finish({"parts": len(parts), "bytes": totals.bytes})
    return totals


def _results(options: RunOptions, work: Work, parts: Sequence[Part]) -> Any:
    workers = options.workers or max(1, available_cores() // options.threads)
    if options.engine == "local":
        return run_in_processes(work, parts, workers=workers)
    return run_on_ray(work, parts, workers=workers, address=options.address)


def _model(source: str) -> SavedModel:
    """Return a model by its folder, or by its name in the storage."""
    is_folder = source.startswith(STORE_PREFIX) or (Path(source) / MODEL_FILE_NAME).is_file()
    return read_model(source if is_folder or "/" in source else STORE_PREFIX + source)


def _calibration(source: str, saved: SavedModel, name: str | None) -> StoredCalibration | None:
    is_folder = (Path(source) / MODEL_FILE_NAME).is_file()
    blobs = open_blobs("memory://" if is_folder else StoreSettings.load().blobs_url)
    return Calibrations(blobs).find(saved, name)
