"""Where parts are processed: in worker processes of this machine, or in actors of a Ray cluster.

Both have one engine per worker, and yield the result of each part as it ends, in any order.
"""

import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from nextchar.launcher.batch.inputs import Part
from nextchar.launcher.batch.part_worker import PartResult, PartWorker, Work
from nextchar.models.die_with_parent import bind_to_parent
from nextchar.models.errors import DomainError, InvalidInput, Unavailable

_worker: PartWorker | None = None  # of this worker process


class RunFailed(DomainError):
    """The workers cannot continue; finished parts are kept, and running again completes the rest."""

    code = "run_failed"


# Processes of this machine


def run_in_processes(work: Work, parts: Sequence[Part], *, workers: int) -> Iterator[PartResult]:
    """Process parts in worker processes, which are killed when the iterator is closed.

    Raises RunFailed if one was killed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="nextchar-") as scratch,  # killed workers delete nothing
        ProcessPoolExecutor(
            min(workers, max(1, len(parts))),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(work, os.getpid(), scratch),
        ) as pool,
    ):
        waiting = iter(parts)
        running: set[Future[PartResult]] = set()
        try:
            while True:
                while len(running) < 2 * workers and (part := next(waiting, None)) is not None:
                    running.add(pool.submit(_run, part))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        except BrokenProcessPool:
            raise RunFailed(
                "a worker process ended unexpectedly (perhaps for lack of memory: try fewer --actors); run"
                " the same command again to do the rest"
            ) from None
        finally:
            for process in list((pool._processes or {}).values()):  # public from Python 3.14: kill_workers
                process.kill()  # instead of waiting for its part; results of a part are written as a whole


def _begin(work: Work, parent: int, scratch: str) -> None:
    bind_to_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    tempfile.tempdir = scratch
    global _worker  # noqa: PLW0603 -- the pool calls functions
    _worker = PartWorker(work)


def _run(part: Part) -> PartResult:
    assert _worker is not None
    return _worker.run(part)


# Actors of Ray


class BatchActor:
    """A worker as Ray Data calls it: rows have the index of a part, and get its result as JSON."""

    def __init__(self, shared: Any) -> None:
        import ray

        work, self._parts = ray.get(shared[0])
        self._worker = PartWorker(work)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Process the parts of some rows."""
        results = [self._worker.run(self._parts[index]) for index in batch["index"]]
        fields = [json.dumps([one.counts, one.error, one.pid]) for one in results]
        return {"index": list(batch["index"]), "result": fields}


def run_on_ray(
    work: Work, parts: Sequence[Part], *, workers: int, address: str | None = None
) -> Iterator[PartResult]:
    """Process parts in actors of Ray Data, on the cluster at `address`, or of a new one on this machine.

    An actor that is lost is started again, with the parts that it had.

    Raises:
        InvalidInput: Ray is not installed, or the cluster has another version of it or of Python.
        Unavailable: the cluster does not respond.
        RunFailed: the workers cannot be started, or are lost again and again.
    """
    ray = import_ray()
    was_running = ray.is_initialized()
    if not was_running:
        _connect(ray, address, workers * work.threads)
    try:
        yield from _stream(ray, work, parts, workers)
    except ray.exceptions.RayError as error:
        raise _failure(error) from None
    finally:
        if not was_running:
            ray.shutdown()


def import_ray() -> Any:
    """Return Ray with Ray Data. Raises InvalidInput if it is not installed."""
    # Ray would otherwise report usage to its makers, and warn about how it treats signals and GPUs.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"this needs {error.name}, which is not installed; install it with: pip install 'nextchar[ray]',"
            " or use the processes of this machine with --engine local"
        ) from None
    return ray


def _connect(ray: Any, address: str | None, cores: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    is_local = not (address or os.environ.get("RAY_ADDRESS"))
    try:
        if is_local:
            ray.init(num_cpus=cores, include_dashboard=False, **options)
        else:
            ray.init(address=address or "auto", **options)
    except Exception as error:  # noqa: BLE001 -- Ray raises exceptions of many classes
        ray.shutdown()
        if "ersion mismatch" in str(error):
            raise version_mismatch(str(error)) from None
        what = "Ray cannot be started" if is_local else f"the Ray cluster {address or 'auto'} cannot be used"
        raise Unavailable(f"{what}: {_first_line(error)}", code="ray_unavailable") from None


def version_mismatch(reported: str) -> InvalidInput:
    """Return the error for a cluster of another Ray or Python, from what Ray reports."""
    lines = [line.strip() for line in reported.splitlines() if line.strip()]
    python = ".".join(map(str, sys.version_info[:3]))
    return InvalidInput(
        f"the cluster has another version of Ray or Python than this process (Python {python}): use the same"
        f" here as there. {' '.join(lines[1:]) or lines[0]}",
        code="cluster_version",
    )


def _stream(ray: Any, work: Work, parts: Sequence[Part], workers: int) -> Iterator[PartResult]:
    cores = ray.cluster_resources().get("CPU", 0)
    if cores < work.threads:
        raise InvalidInput(
            f"the cluster has {cores:.0f} cores, and each worker needs {work.threads}; reduce --threads",
            code="cluster_size",
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    shared = ray.put((work, tuple(parts)))  # must live as long as actors may be started again
    rows = ray.data.from_items([{"index": i} for i in range(len(parts))], override_num_blocks=len(parts))
    results = rows.map_batches(
        BatchActor,
        fn_constructor_args=([shared],),  # a reference by itself would be replaced by what it refers to
        batch_size=1,
        num_cpus=work.threads,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(parts), int(cores // work.threads))),
    )
    for row in results.iter_rows():
        yield result_of(parts, row)


def result_of(parts: Sequence[Part], row: dict[str, Any]) -> PartResult:
    """Return the result in a row that an actor has filled in."""
    return PartResult(parts[row["index"]], *json.loads(row["result"]))


def _failure(error: BaseException) -> DomainError:
    cause: BaseException = getattr(error, "cause", None) or error
    if isinstance(cause, DomainError):
        return cause
    if "ModuleNotFoundError" in str(error):
        return InvalidInput(
            f"a machine of the cluster lacks a package ({_last_line(error)}); install 'nextchar[ray]' of the"
            " same version on all of them",
            code="cluster_package",
        )
    return RunFailed(
        f"the workers on Ray failed: {_last_line(error)}; run the same command again to do the rest"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
