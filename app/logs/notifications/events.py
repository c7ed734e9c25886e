"""Events: what happened to jobs, models and aliases, as their records in the storage say.

An event is derived from a record that is created once and never changed, and is named by the record's path,
so an event exists if and only if the record does, whatever crashes:

    jobs/<id>/<n>.json                  job.succeeded, job.failed, job.cancelled, job.paused
    model_cards/<name>/<version>.json   model.published, also of a renamed or imported version
    model_cards/<name>/<version>.gone   model.deleted, also of a renamed version
    aliases/<name>/<alias>/<n>.json     alias.moved, including deletions

A version that is published and deleted between two rounds is reported only as deleted.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import ValidationError

from nextchar.models.errors import NotFound, Unavailable
from nextchar.models.saved_model import parse_card
from nextchar.store.aliases import AliasMove
from nextchar.store.blobs import Blobs
from nextchar.store.jobs import Job, Jobs, JobStatus
from nextchar.store.models import Models, deleted_at, model_id_in

log = logging.getLogger("nextchar.store")

EventType = Literal[
    "alert.firing",
    "alert.resolved",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.paused",
    "model.published",
    "model.deleted",
    "alias.moved",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
]
"""The types of events. Those of `fine_tuning` are events of jobs under OpenAI's names."""

EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
ALERT_EVENTS: tuple[EventType, ...] = ("alert.firing", "alert.resolved")

_OF_JOB: dict[JobStatus, tuple[EventType, ...]] = {
    JobStatus.SUCCEEDED: ("job.succeeded", "fine_tuning.job.succeeded"),
    JobStatus.FAILED: ("job.failed", "fine_tuning.job.failed"),
    JobStatus.CANCELLED: ("job.cancelled", "fine_tuning.job.cancelled"),
    JobStatus.PAUSED: ("job.paused",),
}


@dataclass(frozen=True)
class Event:
    """What one record says has happened.

    Attributes:
        path: of the record. types: the names of the event. model: the name of the model that it is about.
        at: when it happened, in Unix seconds. data: what a message says of it.
    """

    path: str
    types: tuple[EventType, ...]
    model: str
    at: float
    data: dict[str, Any]


class Events:
    """The events of one storage."""

    def __init__(self, blobs: Blobs, jobs: Jobs, models: Models) -> None:
        self._blobs, self._jobs, self._models = blobs, jobs, models

    def paths(self) -> list[str]:
        """Return the paths of all records that may be events."""
        return [path for folder in ("jobs", "model_cards", "aliases") for path in self._blobs.paths(folder)]

    def read(self, path: str, *, since: float | None = None) -> Event | None:
        """Return the event of a record; None if it is none, was before `since`, or is deleted or damaged.

        Raises Unavailable if the storage does not work.
        """
        folder, owner, _ = path.split("/", 2)
        try:
            # The last record of a job, which is cached, saves reading the others.
            if since is not None and folder == "jobs" and self._jobs.get(owner).updated_at < since:
                return None
            data = self._blobs.read_record(path)
            of = {"jobs": _of_job, "aliases": _of_move, "model_cards": self._of_version}[folder]
            event = of(path, data)
            return event if event and (since is None or event.at >= since) else None
        except (FileNotFoundError, NotFound):
            return None
        except (ValidationError, Unavailable) as error:
            if isinstance(error, Unavailable) and error.code == "storage_unavailable":
                raise
            log.warning("%s is damaged, so no message says what it is about", path)
            return None

    def _of_version(self, path: str, data: bytes) -> Event:
        _, name, number = path.split("/")
        version = int(number.split(".")[0])
        about = {"id": f"{name}@{version}", "name": name, "version": version}
        if path.endswith(".gone"):
            renamed = next((c for c in self._models.all() if c.id == model_id_in(data)), None)
            about |= {"renamed_to": renamed.reference if renamed else None}
            return Event(path, ("model.deleted",), name, min(deleted_at(data), time.time()), about)
        card = parse_card(data, where=path)
        about |= {"job": card.job, "corpus": card.corpus, "created_at": card.created_at}
        return Event(path, ("model.published",), name, float(card.created_at), about)


def _of_job(path: str, data: bytes) -> Event | None:
    if not data:  # left by a power loss before records were synced
        return None
    job = Job.model_validate_json(data)
    if job.status not in _OF_JOB:
        return None
    reason = job.error or job.pause_reason
    about = {
        "id": job.id,
        "name": job.request.name,
        "status": job.status.value,
        "model": job.model,
        "corpus": job.request.corpus,
        "attempt": job.attempt,
        "created_at": job.created_at,
        "error": reason.model_dump() if reason else None,
    }
    return Event(path, _OF_JOB[job.status], job.request.name, job.updated_at, about)


def _of_move(path: str, data: bytes) -> Event:
    move = AliasMove.model_validate_json(data)
    fields = {"model", "alias", "version", "target", "action", "moved_by"}
    about = {"id": f"{move.model}@{move.alias}"} | move.model_dump(include=fields) | {"target": move.target}
    return Event(path, ("alias.moved",), move.model, move.moved_at, about)
