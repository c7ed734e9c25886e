"""The live state of running jobs in Redis: leases, progress, stop requests, events.

    nextchar:job:<id>:lease      the token of the process that trains the job; expires unless renewed
    nextchar:job:<id>:progress   JSON, the newest progress
    nextchar:job:<id>:asked      a StopRequest, until the worker or the reconciler has acted on it
    nextchar:job:<id>:events     a stream with one entry per event; entry ids are <number>-0
    nextchar:job:<id>:kills      a list of JSON, one for each signal that killed a process training the job
    nextchar:job:<id>:phase      the optional part of an evaluation that is being computed
    nextchar:attempts            counters of the attempts that have ended, for metrics; their seconds are in
    nextchar:attempt_seconds     the other; the fields of both are `<outcome> <code>`

Losing it loses no job: the records in the blob store suffice to continue. Events are also kept in the blob
store at `events/<id>.jsonl`, written with each checkpoint and at the end of a job.
"""

import contextlib
import json
import time
from typing import Any, Literal, NotRequired, TypedDict, cast

from redis import Redis

from nextchar.models.text.lines import split_lines
from nextchar.models.validation_errors import load_record
from nextchar.store import lease
from nextchar.store.blobs import Blobs

StopRequest = Literal["cancel", "cancel_keep_best", "pause"]

LEASE_S = 10
"""A worker that has not renewed its lease for this long counts as lost."""

_MAX_LOG_BYTES = 256 << 20  # of all events of a job
_KEEP_S = 7 * 86400  # since the last write
_MAX_KILLS = 20
_WRITABLE_KEY = "nextchar:writable"
_ATTEMPTS_KEY, _ATTEMPT_SECONDS_KEY = "nextchar:attempts", "nextchar:attempt_seconds"

# ARGV: the request, and how long it is kept.
_REQUEST_STOP = """
local pending = redis.call('get', KEYS[1])
if ARGV[1] == 'cancel' or not pending or pending == 'pause' then
  redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
"""

AttemptOutcome = Literal["succeeded", "failed", "cancelled", "paused", "queued", "lost"]
"""How a worker's attempt at a job ended: with this status of the job, or because the worker was lost."""


class Kill(TypedDict):
    """A signal that killed a process while it trained a job."""

    at: float  # Unix seconds, UTC
    signal: int
    out_of_memory: bool  # whether the kernel counted an out-of-memory kill at that time
    phase: NotRequired[str]  # the optional part of the evaluation that it computed, if any


def _key(job_id: str, field: str) -> str:
    return f"nextchar:job:{job_id}:{field}"


class Live:
    """The live state of jobs in one Redis (with `decode_responses=True`)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def check_writable(self) -> None:
        """Raise redis.exceptions.RedisError unless Redis accepts writes.

        A Redis without disk space or memory still answers reads, but no lease can be renewed, so an expired
        lease does not mean that its holder is lost.
        """
        self._redis.set(_WRITABLE_KEY, "1", ex=60)

    def acquire_lease(self, job_id: str, token: str) -> bool:
        """Acquire or renew the lease; return False if another process holds it."""
        return lease.acquire_or_renew(self._redis, _key(job_id, "lease"), token, LEASE_S)

    def release_lease(self, job_id: str, token: str) -> None:
        """Release the lease if `token` holds it."""
        lease.release(self._redis, _key(job_id, "lease"), token)

    def has_lease(self, job_id: str) -> bool:
        """Return whether a live process trains the job."""
        return bool(self._redis.exists(_key(job_id, "lease")))

    def request_stop(self, job_id: str, request: StopRequest) -> None:
        """Ask the job's worker to stop. `cancel` overrides `cancel_keep_best`, which overrides `pause`."""
        self._redis.eval(_REQUEST_STOP, 1, _key(job_id, "asked"), request, _KEEP_S)

    def pending_stop(self, job_id: str) -> StopRequest | None:
        """Return the stop request that is not yet acknowledged, if any."""
        return cast(StopRequest | None, self._redis.get(_key(job_id, "asked")))

    def acknowledge_stop(self, job_id: str, request: str | None = None) -> None:
        """Delete the stop request; with `request`, only if it is still that one."""
        if request is None:
            self._redis.delete(_key(job_id, "asked"))
        else:
            lease.release(self._redis, _key(job_id, "asked"), request)

    def set_progress(self, job_id: str, progress: dict[str, Any]) -> None:
        """Publish the newest progress."""
        self._redis.set(_key(job_id, "progress"), json.dumps(progress), ex=_KEEP_S)

    def progress(self, job_id: str) -> dict[str, Any] | None:
        """Return the newest progress, if any."""
        raw = self._redis.get(_key(job_id, "progress"))
        return json.loads(cast(str, raw)) if raw else None

    def last_event(self, job_id: str) -> int:
        """Return the number of the newest event in Redis, 0 if there is none."""
        newest = cast(list[Any], self._redis.xrevrange(_key(job_id, "events"), count=1))
        return int(newest[0][0].split("-")[0]) if newest else 0

    def add_events(self, job_id: str, events: list[dict[str, Any]]) -> None:
        """Append events, whose `id` is their number; numbers must increase."""
        with self._redis.pipeline() as pipe:
            for event in events:
                pipe.xadd(_key(job_id, "events"), {"event": json.dumps(event)}, id=f"{event['id']}-0")
            pipe.expire(_key(job_id, "events"), _KEEP_S)
            pipe.execute()

    def events(self, job_id: str, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the events in Redis with numbers above `after`."""
        entries = cast(list[Any], self._redis.xrange(_key(job_id, "events"), min=f"({after}-0"))
        return [json.loads(fields["event"]) for _, fields in entries]

    def add_kill(self, job_id: str, kill: Kill) -> None:
        """Record a signal that killed the process training a job, and the phase it was in."""
        if phase := self._redis.get(_key(job_id, "phase")):
            kill = {**kill, "phase": phase.decode() if isinstance(phase, bytes) else phase}
        with self._redis.pipeline() as pipe:
            pipe.rpush(_key(job_id, "kills"), json.dumps(kill))
            pipe.ltrim(_key(job_id, "kills"), -_MAX_KILLS, -1)
            pipe.expire(_key(job_id, "kills"), _KEEP_S)
            pipe.execute()

    def set_phase(self, job_id: str, phase: str) -> None:
        """Publish which optional part of its evaluation a job begins; "" for none."""
        self._redis.set(_key(job_id, "phase"), phase, ex=_KEEP_S)

    def kills(self, job_id: str) -> list[Kill]:
        """Return the recorded kills, oldest first."""
        kills = cast(list[str], self._redis.lrange(_key(job_id, "kills"), 0, -1))
        return [json.loads(kill) for kill in kills]

    def count_attempt(self, outcome: AttemptOutcome, *, code: str = "", seconds: float = 0.0) -> None:
        """Count an attempt that has ended, with the code of its error or pause.

        It is counted after it is recorded, so one whose process is killed in between is not counted.
        """
        field = f"{outcome} {code}"
        with self._redis.pipeline() as pipe:
            pipe.hincrby(_ATTEMPTS_KEY, field, 1)
            pipe.hincrbyfloat(_ATTEMPT_SECONDS_KEY, field, round(seconds, 3))
            pipe.execute()

    def attempts(self) -> dict[tuple[str, str], tuple[int, float]]:
        """Return the number and the seconds of the attempts that have ended, by outcome and code."""
        counts = cast(dict[str, str], self._redis.hgetall(_ATTEMPTS_KEY))
        seconds = cast(dict[str, str], self._redis.hgetall(_ATTEMPT_SECONDS_KEY))
        found = {}
        for field, count in counts.items():
            outcome, _, code = field.partition(" ")
            found[outcome, code] = (int(count), float(seconds.get(field, 0)))
        return found


class EventLog:
    """The events of jobs in the blob store, as JSON lines."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def write(self, job_id: str, events: list[dict[str, Any]]) -> None:
        """Write all events of a job so far."""
        self._blobs.write(f"events/{job_id}.jsonl", "".join(json.dumps(e) + "\n" for e in events).encode())

    def read(self, job_id: str) -> list[dict[str, Any]]:
        """Return the events of a job; an empty list if there are none."""
        try:
            data = self._blobs.read_record(f"events/{job_id}.jsonl", max_bytes=_MAX_LOG_BYTES)
        except FileNotFoundError:
            return []
        events = []
        for line in split_lines(data):
            with contextlib.suppress(ValueError):  # a damaged line must not hide the others
                event = load_record(line)
                if _is_event(event):
                    events.append(event)
        return events


def _is_event(value: Any) -> bool:
    kinds = {"id": int, "at": int | float, "type": str, "data": dict}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def add_message(live: Live, event_log: EventLog, job_id: str, text: str) -> None:
    """Append a message to the events of a job that no worker trains.

    Raises redis.exceptions.RedisError, and as Blobs does.
    """
    events = event_log.read(job_id)
    last = max(events[-1]["id"] if events else 0, live.last_event(job_id))
    event = {"id": last + 1, "at": round(time.time(), 3), "type": "message", "data": {"text": text}}
    live.add_events(job_id, [event])
    event_log.write(job_id, [*events, event])
