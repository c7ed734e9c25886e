"""Deletes what nobody needs any more: checkpoints, old records and keys, uploads and models cut short.

Safe to run in any number of processes at once, and to be cut short anywhere: each sweep begins anew, and
whatever it looks at is listed before the records that could say that it is still needed.
"""

import contextlib
import json
import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from models.errors import NotFound, Unavailable
from models.saved_model import parse_card
from store.blobs import Blobs
from store.ids import time_of_id
from store.jobs import Job, Jobs, JobStatus

log = logging.getLogger("nextchar.retention")

_DAY_S = 86400.0
_HOUR_S = 3600.0
_OLD_TRANSITIONS_S = _DAY_S  # a job that has been over for so long keeps its newest record alone
_ORPHAN_FILES_S = _DAY_S  # nobody takes so long to publish


@dataclass(frozen=True)
class RetentionPeriods:
    """How long things are kept, in days; 0 keeps them for ever."""

    failed_checkpoint_days: float = 7.0
    job_days: float = 90.0
    idempotency_days: float = 7.0


class Retention:
    """Call `sweep` every few minutes.

    Args:
        blobs: the storage.
        jobs: the jobs in it.
        periods: how long things are kept.
        spool: the folder of uploads under way on this machine, if there is one.
    """

    def __init__(
        self, blobs: Blobs, jobs: Jobs, *, periods: RetentionPeriods, spool: Path | None = None
    ) -> None:
        self._blobs, self._jobs, self._periods, self._spool = blobs, jobs, periods, spool
        self._all_swept_at = float("-inf")

    def sweep(self, *, now: float | None = None) -> Counter[str]:
        """Delete what is due; return how many of each kind.

        Args:
            now: Unix seconds, UTC; by default the clock's.

        Raises:
            Unavailable: the storage does not work.
        """
        now = time.time() if now is None else now
        swept: Counter[str] = Counter()
        if self._spool:
            swept["spooled uploads"] = remove_stale_uploads(self._spool, now=now)
        swept["checkpoints"] = self._sweep_checkpoints(now)
        if now - self._all_swept_at >= _HOUR_S:  # the rest reads many records
            self._sweep_the_rest(now, swept)
            self._all_swept_at = now
        if any(swept.values()):
            log.info("deleted: %s", ", ".join(f"{count} {what}" for what, count in swept.items() if count))
        return +swept

    def _sweep_the_rest(self, now: float, swept: Counter[str]) -> None:
        swept["model files"] = self._sweep_model_files(now)
        swept["jobs"] = self._sweep_jobs(now)
        swept["idempotency keys"] = self._sweep_idempotency_keys(now)

    def _sweep_checkpoints(self, now: float) -> int:
        """Delete the checkpoints of jobs that are over, and those that belong to no job."""
        found = self._blobs.folders("checkpoints")  # before the jobs, for those are made first
        known = set(self._blobs.folders("jobs"))
        over = {job.id: job for job in self._jobs.all() if job.status.is_final}
        count = 0
        for job_id in found:
            is_orphan = bool(known) and job_id not in known  # a damaged record may be restored
            if not is_orphan and job_id not in over:
                continue
            paths = self._blobs.paths(f"checkpoints/{job_id}")
            if is_orphan or self._needs_no_checkpoint(over[job_id], now):
                self._blobs.delete(*paths)
                count += len(paths)
        return count

    def _needs_no_checkpoint(self, job: Job, now: float) -> bool:
        if job.status is not JobStatus.FAILED:
            return True
        if not _is_over(job.updated_at, self._periods.failed_checkpoint_days, now):
            return False
        return self._is_still(job)

    def _sweep_model_files(self, now: float) -> int:
        """Delete the files of models whose card never came, or went without them."""
        found: dict[str, list[str]] = {}  # by model
        for path in self._blobs.paths("model_files"):  # before the cards, which are written after the files
            found.setdefault(path.split("/")[1], []).append(path)
        if not found:
            return 0
        try:
            # Twice: a model that is renamed during one look may be seen under neither name.
            needed = self._listed_models() | self._listed_models()
        except Unavailable as error:
            log.info("model files are not swept while a card cannot be read: %s", error)
            return 0
        jobs = {job.id.removeprefix("job_"): job for job in self._jobs.all()}
        count = 0
        for model_id, paths in found.items():
            job = jobs.get(model_id.removeprefix("model_"))
            if job and not (job.status.is_final and now - job.updated_at > _ORPHAN_FILES_S):
                continue
            made_at = time_of_id("model", model_id)
            if model_id in needed or made_at is None or now - made_at <= _ORPHAN_FILES_S:
                continue
            self._blobs.delete(*paths)
            count += len(paths)
        return count

    def _listed_models(self) -> set[str]:
        """Return the ids of the models that have a card. Raises Unavailable: a card cannot be read."""
        paths = self._blobs.paths("model_cards")
        gone = {path.removesuffix(".gone") for path in paths if path.endswith(".gone")}
        needed = set()
        for path in paths:
            if path.endswith(".json") and path.removesuffix(".json") not in gone:
                with contextlib.suppress(FileNotFoundError):  # deleted just now
                    needed.add(parse_card(self._blobs.read(path), where=path).id)
        return needed

    def _sweep_jobs(self, now: float) -> int:
        """Delete finished jobs after their time, with all that is kept beside them, and old transitions."""
        count = 0
        for job in self._jobs.all():
            if not job.status.is_final:
                continue
            if _is_over(job.updated_at, self._periods.job_days, now) and self._is_still(job):
                self._blobs.delete(f"events/{job.id}.jsonl", f"openai_jobs/{job.id}.json")
                self._blobs.delete(*self._blobs.paths(f"checkpoints/{job.id}"))
                self._jobs.delete(job)
                count += 1
            elif job.sequence and now - job.updated_at > _OLD_TRANSITIONS_S:
                self._jobs.delete_old_transitions(job)
        return count

    def _is_still(self, job: Job) -> bool:
        """Return whether the job is as it was listed: a failed one may have been resumed since."""
        try:
            return self._jobs.get(job.id).sequence == job.sequence
        except NotFound:  # deleted, by another process
            return False

    def _sweep_idempotency_keys(self, now: float) -> int:
        count = 0
        for path in self._blobs.paths("idempotency"):
            try:
                kept = json.loads(self._blobs.read(path))
                made_at = time_of_id("job", kept["job"])
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):  # damaged: it refuses its key, and nothing mends it
                made_at = 0.0
            if made_at is not None and _is_over(made_at, self._periods.idempotency_days, now):
                self._blobs.delete(path)
                count += 1
        return count


def remove_stale_uploads(spool: Path, *, now: float) -> int:
    """Remove what killed processes left; a live upload, perhaps of a sister process, is written to."""
    count = 0
    for path in spool.glob("upload-*"):
        with contextlib.suppress(OSError):  # gone already, or not ours
            if now - path.stat().st_mtime > _HOUR_S:
                path.unlink()
                count += 1
    return count


def _is_over(since: float, days: float, now: float) -> bool:
    return days > 0 and now - since > days * _DAY_S
