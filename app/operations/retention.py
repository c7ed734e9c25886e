"""Retention: deletes old checkpoints, jobs, corpora, idempotency keys and audit entries, and leftovers.

Safe to run in several processes at once, and to be killed at any point. Each sweep lists the objects first
and then the records that reference them, so an object created in between is not deleted.

    installation/retention.json   the time of the last full sweep by any process

A clock that jumps far ahead makes everything look expired. So if the clock is more than a week ahead of the
last sweep, the time of that sweep is used until a process has seen no other for a day.
"""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from pydantic import Field

from nextchar.app.core_settings import CoreSettings
from nextchar.models.errors import NotFound, StorageFull, Unavailable
from nextchar.models.saved_model import Card, parse_card
from nextchar.models.validation_errors import load_record
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus
from nextchar.store.ids import time_of_id
from nextchar.store.jobs import Job, Jobs, JobStatus
from nextchar.store.models import Models

log = logging.getLogger("nextchar.retention")

_DAY_S = 86400.0
_HOUR_S = 3600.0
_OLD_TRANSITIONS_S = _DAY_S  # after a job has ended: only its newest record is kept
_ORPHAN_FILES_S = _DAY_S  # longer than any publication takes
_MAX_GAP_S = 7 * _DAY_S  # between two sweeps; after a longer one the clock may be wrong
_SWEPT_PATH = "installation/retention.json"


class RetentionSettings(CoreSettings):
    """A part of `nextchar.app.rooms.ApiSettings`."""

    failed_checkpoint_days: float = Field(7.0, ge=0)
    """Days for which a failed job keeps its last checkpoint, for resuming; 0: forever."""
    job_retention_days: float = Field(90.0, ge=0)
    """Days for which the record and the events of a finished job are kept; 0: forever."""
    idempotency_retention_days: float = Field(7.0, ge=0)
    """Days for which an Idempotency-Key is remembered; 0: forever."""
    audit_retention_days: float = Field(365.0, ge=0)
    """Days for which entries of the audit trail are kept; 0: forever."""
    corpus_retention_days: float = Field(0.0, ge=0)
    """Days after its last upload for which a corpus is kept that no job, model or batch names; 0: forever."""


class UsedCorpora(Protocol):
    """Returns the ids of the corpora that something but a job or a model names."""

    def __call__(self, *, is_strict: bool) -> set[str]:
        """Return them. Raises Unavailable: a record is damaged; unless `is_strict`, it is skipped."""
        ...


class Retention:
    """Call `sweep` every few minutes. `spool` is the folder of current uploads on this machine, if any."""

    def __init__(
        self, blobs: Blobs, jobs: Jobs, settings: RetentionSettings, *, spool: Path | None = None
    ) -> None:
        self._sweeps: dict[str, Callable[[float], int]] = {}
        self.corpus_users: list[UsedCorpora] = []
        self._blobs, self._jobs, self._settings, self._spool = blobs, jobs, settings, spool
        self.on_progress: Callable[[], None] = lambda: None
        """Called while a long sweep makes progress."""
        self._full_sweep_at = float("-inf")
        self._ahead_s = 0.0  # seconds by which the clock is ahead of the time that is used
        self._ahead_of, self._ahead_since = float("-inf"), 0.0  # the last sweep, and when it was first seen
        self._incomplete_since: dict[str, float] = {}  # by corpus id: when a sweep first saw its text alone

    def add(self, what: str, sweep: Callable[[float], int]) -> None:
        """Have `sweep` called in each full sweep, with the time: it deletes what is due, and counts it."""
        self._sweeps[what] = sweep

    def sweep(self, *, now: float | None = None) -> Counter[str]:
        """Delete what is due at `now` (Unix seconds); return counts by kind.

        Raises Unavailable, and what the sweeps of rooms raise.
        """
        clock = time.time() if now is None else now
        is_full = not 0 <= clock - self._full_sweep_at < _HOUR_S  # in the future if the clock was set back
        if is_full:
            self._ahead_s = clock - self._trusted_time(clock)
        now = clock - self._ahead_s
        swept: Counter[str] = Counter()
        if self._spool:
            swept["spooled uploads"] = remove_stale_uploads(self._spool, now=now)
        swept["checkpoints"] = self._sweep_checkpoints(now)
        swept["files of early models"] = Models(self._blobs).early.sweep()
        if is_full:  # reads many records
            swept["model files"] = self._sweep_model_files(now)
            swept["jobs"] = self._sweep_jobs(now)
            swept["corpora"] = self._sweep_corpora(now)
            swept["texts of incomplete corpora"] = self._sweep_incomplete_corpora(now)
            swept["idempotency keys"] = self._sweep_idempotency_keys(now)
            for what, sweep in self._sweeps.items():
                swept[what] = sweep(now)
            if not self._ahead_s:
                with contextlib.suppress(StorageFull):
                    self._blobs.write(_SWEPT_PATH, json.dumps({"swept_at": now}).encode())
            self._full_sweep_at = clock
        if any(swept.values()):
            log.info("deleted: %s", ", ".join(f"{count} {what}" for what, count in swept.items() if count))
        return +swept

    def _trusted_time(self, clock: float) -> float:
        """Return the clock's time, or that of the last sweep while the clock may be wrong."""
        try:
            swept_at = float(load_record(self._blobs.read_record(_SWEPT_PATH))["swept_at"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # none yet, or damaged
            return clock
        if clock - swept_at <= _MAX_GAP_S:
            return clock
        if swept_at != self._ahead_of:  # also after a sweep by a process with another clock
            self._ahead_of, self._ahead_since = swept_at, time.monotonic()
        if time.monotonic() - self._ahead_since >= _DAY_S:
            return clock
        log.warning(
            "the clock is %.0f days ahead of the last sweep; check it: what has expired since is deleted"
            " after the service has run for a day",
            (clock - swept_at) / _DAY_S,
        )
        return swept_at

    def _sweep_checkpoints(self, now: float) -> int:
        """Delete the checkpoints of jobs that have ended, and those without a job."""
        job_ids = self._blobs.folders("checkpoints")  # listed before the jobs, which are created earlier
        recorded = set(self._blobs.folders("jobs"))
        ended = {job.id: job for job in self._jobs.all() if job.status.is_final}
        count = 0
        for job_id in job_ids:
            # No records at all may be an unmounted disk.
            is_orphan = bool(recorded) and job_id not in recorded
            if not is_orphan and job_id not in ended:
                continue
            paths = self._blobs.paths(f"checkpoints/{job_id}")
            if is_orphan or self._needs_no_checkpoint(ended[job_id], now):
                self._blobs.delete(*paths)
                count += len(paths)
        return count

    def _needs_no_checkpoint(self, job: Job, now: float) -> bool:
        if job.status is not JobStatus.FAILED:
            return True
        if not is_due(job.updated_at, self._settings.failed_checkpoint_days, now):
            return False
        return self._is_unchanged(job)

    def _sweep_model_files(self, now: float) -> int:
        paths_by_model: dict[str, list[str]] = {}
        for path in self._blobs.paths("model_files"):  # listed before the cards, which are written later
            paths_by_model.setdefault(path.split("/")[1], []).append(path)
        if not paths_by_model:
            return 0
        try:
            # Twice: one listing can miss a model that is being renamed.
            listed = self._listed_models() | self._listed_models()
        except Unavailable as error:
            log.info("model files are not swept while a card cannot be read: %s", error)
            return 0
        jobs = {job.id.removeprefix("job_"): job for job in self._jobs.all()}
        count = 0
        for model_id, paths in paths_by_model.items():
            job = jobs.get(model_id.removeprefix("model_"))
            if job and not (job.status.is_final and now - job.updated_at > _ORPHAN_FILES_S):
                continue
            created_at = time_of_id("model", model_id)
            if model_id in listed or created_at is None or now - created_at <= _ORPHAN_FILES_S:
                continue
            self._blobs.delete(*paths)
            count += len(paths)
        return count

    def _listed_models(self) -> set[str]:
        """Return the ids of the models that have a card. Raises Unavailable: a card cannot be read."""
        return {card.id for card in self._cards()}

    def _cards(self) -> Iterator[Card]:
        for path in Models(self._blobs).listed_paths():
            with contextlib.suppress(FileNotFoundError):  # deleted concurrently
                yield parse_card(self._blobs.read_record(path), where=path)

    def _sweep_corpora(self, now: float) -> int:
        """Delete corpora that are due, except those that a job, a model or an unfinished batch names."""
        if not self._settings.corpus_retention_days:
            return 0
        corpora = Corpora(self._blobs)

        def is_expired(corpus: Corpus) -> bool:
            return is_due(corpora.uploaded_at(corpus), self._settings.corpus_retention_days, now)

        due = [corpus.id for corpus in corpora.all() if is_expired(corpus)]
        count = 0
        try:
            kept = self._named_corpora() if due else set()
            due = [corpus_id for corpus_id in due if corpus_id not in kept]
            names = corpora.names() if due else {}
            for corpus_id in due:
                self.on_progress()
                if self._is_used(corpus_id):  # by a job that was created meanwhile
                    continue
                with contextlib.suppress(NotFound):  # deleted by another process
                    corpus = corpora.get(corpus_id)  # perhaps it was uploaded again meanwhile
                    if is_expired(corpus):
                        count += corpora.delete_unless(corpus, self._is_used, names)
        except Unavailable as error:
            log.info("corpora are not swept while a record cannot be read: %s", error)
        return count

    def _sweep_incomplete_corpora(self, now: float) -> int:
        """Delete texts that had no record an hour ago, either: an upload or a deletion was interrupted."""
        corpora, before = Corpora(self._blobs), self._incomplete_since
        # The time is in the future if the clock was set back.
        self._incomplete_since = {c: min(now, before.get(c, now)) for c in corpora.incomplete()}
        due = [c for c, since in self._incomplete_since.items() if now - since >= _HOUR_S]
        names = corpora.names() if due else {}
        count = 0
        for corpus_id in due:
            self.on_progress()
            count += corpora.delete_incomplete(corpus_id, names)
        return count

    def _named_corpora(self) -> set[str]:
        """Return the ids of the corpora that jobs, models and unfinished batches name.

        Raises Unavailable: the record of a job, model or batch is damaged.
        """
        named: set[str] = set()
        for card in self._cards():
            named |= {corpus for corpus in (card.corpus, card.mix and card.mix.corpus) if corpus}
        for used in self.corpus_users:
            named |= used(is_strict=True)
        for job_id in self._blobs.folders("jobs"):
            with contextlib.suppress(NotFound):
                named |= set(self._jobs.get(job_id).request.corpora)
        return named

    def _is_used(self, corpus_id: str) -> bool:
        """Return whether a job or an unfinished batch names a corpus, as far as their records can be read."""
        return any(corpus_id in job.request.corpora for job in self._jobs.all()) or any(
            corpus_id in used(is_strict=False) for used in self.corpus_users
        )

    def _sweep_jobs(self, now: float) -> int:
        """Delete ended jobs that are due, with their events and checkpoints, and old transitions."""
        count = 0
        for job in self._jobs.all():
            if not job.status.is_final:
                continue
            if is_due(job.updated_at, self._settings.job_retention_days, now) and self._is_unchanged(job):
                self._blobs.delete(f"events/{job.id}.jsonl", f"openai_jobs/{job.id}.json")
                self._blobs.delete(*self._blobs.paths(f"checkpoints/{job.id}"))
                self._jobs.delete(job)
                count += 1
            elif now - job.updated_at > _OLD_TRANSITIONS_S:
                self._jobs.delete_old_transitions(job)
        return count

    def _is_unchanged(self, job: Job) -> bool:
        """Return whether the job has not moved since it was listed: a failed job can be resumed."""
        try:
            return self._jobs.get(job.id).sequence == job.sequence
        except NotFound:  # deleted by another process
            return False

    def _sweep_idempotency_keys(self, now: float) -> int:
        count = 0
        for path in self._blobs.paths("idempotency"):
            try:
                record = load_record(self._blobs.read_record(path))
                kind = "batch" if "batch" in record else "job"
                created_at = time_of_id(kind, record[kind])
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):  # damaged: the key cannot be used until it is deleted
                created_at = float("-inf")
            if created_at is not None and is_due(created_at, self._settings.idempotency_retention_days, now):
                self._blobs.delete(path)
                count += 1
        return count


def remove_stale_uploads(spool: Path, *, now: float) -> int:
    """Delete spool files of killed processes: old ones that no process has locked. Return their number.

    An upload in progress may write nothing for hours, as while its repeated lines are looked for.
    """
    count = 0
    for path in spool.glob("upload-*"):
        with contextlib.suppress(OSError), path.open("r+b") as file:  # locked, deleted, or of another user
            if now - os.fstat(file.fileno()).st_mtime > _HOUR_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                count += 1
    return count


def is_due(since: float, days: float, now: float) -> bool:
    """Return whether a period of `days` that began at `since` is over; one of 0 days never ends."""
    return days > 0 and now - since > days * _DAY_S
