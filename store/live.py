"""What Redis knows of jobs under way: who holds them, how far they are, what is asked of them.

    nextchar:job:<id>:lease      the token of the process that trains it; expires unless renewed
    nextchar:job:<id>:progress   JSON, the newest progress
    nextchar:job:<id>:asked      a Request, until the trainer or the reconciler obeys
    nextchar:job:<id>:events     a stream with one entry an event; entry ids are <number>-0

All of it may be lost: the records in the blob store are enough to go on from. Events are also kept
at `events/<id>.jsonl` in the blob store, written with each checkpoint and at the end of a job.
"""

import json
from typing import Any, Literal, cast

from redis import Redis

from store.blobs import Blobs

Request = Literal["cancel", "cancel_keep_best", "pause"]

LEASE_S = 10
"""A trainer renews its lease every few seconds; without one for this long it counts as lost."""

_KEEP_S = 7 * 86400  # after this much silence Redis forgets a job's events

_RENEW = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('expire', KEYS[1], ARGV[2]) end
return redis.call('set', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) and 1 or 0
"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


def _key(job_id: str, what: str) -> str:
    return f"nextchar:job:{job_id}:{what}"


class Live:
    """The live side of jobs on one Redis (with `decode_responses=True`)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def hold(self, job_id: str, token: str) -> bool:
        """Take or renew the lease; return False if another process holds it."""
        return bool(self._redis.eval(_RENEW, 1, _key(job_id, "lease"), token, LEASE_S))

    def release(self, job_id: str, token: str) -> None:
        """Give the lease up, if it is ours."""
        self._redis.eval(_RELEASE, 1, _key(job_id, "lease"), token)

    def is_held(self, job_id: str) -> bool:
        """Return whether a live process trains the job."""
        return bool(self._redis.exists(_key(job_id, "lease")))

    def ask(self, job_id: str, request: Request) -> None:
        """Ask whoever trains the job to stop; a cancel outranks a pause, and one without a model all."""
        if request == "cancel" or self.asked(job_id) in (None, "pause"):
            self._redis.set(_key(job_id, "asked"), request, ex=_KEEP_S)

    def asked(self, job_id: str) -> Request | None:
        """Return what has been asked and not yet obeyed."""
        return cast(Request | None, self._redis.get(_key(job_id, "asked")))

    def obeyed(self, job_id: str) -> None:
        """Forget what was asked: it has been done."""
        self._redis.delete(_key(job_id, "asked"))

    def set_progress(self, job_id: str, progress: dict[str, Any]) -> None:
        """Publish the newest progress."""
        self._redis.set(_key(job_id, "progress"), json.dumps(progress), ex=_KEEP_S)

    def progress(self, job_id: str) -> dict[str, Any] | None:
        """Return the newest progress, if any is known."""
        raw = self._redis.get(_key(job_id, "progress"))
        return json.loads(cast(str, raw)) if raw else None

    def last_event(self, job_id: str) -> int:
        """Return the number of the newest event in Redis, 0 if there is none."""
        newest = cast(list[Any], self._redis.xrevrange(_key(job_id, "events"), count=1))
        return int(newest[0][0].split("-")[0]) if newest else 0

    def add_events(self, job_id: str, events: list[dict[str, Any]]) -> None:
        """Append events; each carries its number as `id`, larger than any before it."""
        with self._redis.pipeline() as pipe:
            for event in events:
                pipe.xadd(_key(job_id, "events"), {"event": json.dumps(event)}, id=f"{event['id']}-0")
            pipe.expire(_key(job_id, "events"), _KEEP_S)
            pipe.execute()

    def events(self, job_id: str, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the events in Redis with numbers above `after`."""
        entries = cast(list[Any], self._redis.xrange(_key(job_id, "events"), min=f"({after}-0"))
        return [json.loads(fields["event"]) for _, fields in entries]


class EventLog:
    """A job's events, kept in the blob store, as JSON lines."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def write(self, job_id: str, events: list[dict[str, Any]]) -> None:
        """Keep all events of a job so far."""
        self._blobs.write(f"events/{job_id}.jsonl", "".join(json.dumps(e) + "\n" for e in events).encode())

    def read(self, job_id: str) -> list[dict[str, Any]]:
        """Return the events kept; an empty list if there are none."""
        try:
            lines = self._blobs.read(f"events/{job_id}.jsonl").decode().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]
