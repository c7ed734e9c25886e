"""The state of a model on a stream of lines, kept in Redis between calls.

    nextchar:stream:<model name>:<id>        a hash: model (name@version), lines, the network's state as raw
                                             float32 in state_f4 (empty with context `line`), and rule, what
                                             the flag rule knows of the lines
    nextchar:stream-lock:<model name>:<id>   the token of the call that reads it
    nextchar:stream-of:<owner>:<model name>:<id>, nextchar:stream-lock-of:<owner>:<model name>:<id>
                                             the same for the private streams of an owner
    nextchar:streams                         a sorted set: keys of hashes by last use, in microseconds
    nextchar:streams:of:<owner>              the same for the streams last used by one API key
    nextchar:streams:size                    a hash: the hash's key -> "<bytes> <owner>"
    nextchar:streams:bytes                   a hash: "all", or an owner -> the bytes of its streams

A lock serializes calls on one stream, across all API processes. Only the call that holds the lock writes
the state. The lock is renewed during the call; a call that lost it (Redis was unavailable) writes nothing.

The number and bytes of streams are limited, in total and per owner. Saving a stream evicts the least recently
used ones above the limits; an evicted stream restarts.
"""

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import anyio
import numpy as np
from anyio import CapacityLimiter
from numpy.typing import NDArray
from redis import Redis
from redis.client import NEVER_DECODE
from redis.exceptions import RedisError

from nextchar.app.http.limits import LOCKS
from nextchar.models.errors import Conflict
from nextchar.store import lease

TTL_S = 86_400
"""Time from the last call until a stream is deleted."""

WAIT_S = 10.0
"""How long a call waits for the lock of a stream."""

RETRY_S = 0.02
"""First interval between two attempts to acquire the lock; it doubles up to the next one."""

_MAX_RETRY_S = 0.25

_LOCK_S = 8  # until the lock of a dead process expires: before a call that waits for it gives up

_SIZE_KEYS = ("nextchar:streams", "nextchar:streams:size", "nextchar:streams:bytes")
_STREAMS_OF = "nextchar:streams:of:"

_UNCOUNT = f"""
local function uncount(stream)
  local bytes, owner = string.match(redis.call('hget', '{_SIZE_KEYS[1]}', stream) or '', '^(%d+) (.*)$')
  if not bytes then return end
  redis.call('hdel', '{_SIZE_KEYS[1]}', stream)
  redis.call('zrem', '{_SIZE_KEYS[0]}', stream)
  redis.call('zrem', '{_STREAMS_OF}' .. owner, stream)
  redis.call('hincrby', '{_SIZE_KEYS[2]}', 'all', -bytes)
  if redis.call('hincrby', '{_SIZE_KEYS[2]}', owner, -bytes) <= 0 then
    redis.call('hdel', '{_SIZE_KEYS[2]}', owner)
  end
end
"""
_SAVE = (
    _UNCOUNT
    + f"""
local stream, lock = KEYS[1], KEYS[2]
local token, model, state, rule, lines, ttl_s, owner = unpack(ARGV, 1, 7)
if redis.call('get', lock) ~= token then return 0 end
redis.call('del', stream)
redis.call('hset', stream, 'model', model, 'state_f4', state, 'rule', rule, 'lines', lines)
redis.call('expire', stream, ttl_s)

local time = redis.call('time')
local now_us = time[1] * 1000000 + time[2]
local expired = redis.call(
  'zrangebyscore', '{_SIZE_KEYS[0]}', '-inf', now_us - ttl_s * 1000000, 'limit', 0, 100)
for _, other in ipairs(expired) do uncount(other) end
uncount(stream)
local bytes = #state + #rule + 3 * #stream + 2 * #owner + 400
redis.call('hset', '{_SIZE_KEYS[1]}', stream, bytes .. ' ' .. owner)
redis.call('zadd', '{_SIZE_KEYS[0]}', now_us, stream)
redis.call('zadd', '{_STREAMS_OF}' .. owner, now_us, stream)
redis.call('hincrby', '{_SIZE_KEYS[2]}', 'all', bytes)
redis.call('hincrby', '{_SIZE_KEYS[2]}', owner, bytes)

local function evict(whose, of, max_streams, max_bytes)
  while redis.call('zcard', of) > max_streams
    or tonumber(redis.call('hget', '{_SIZE_KEYS[2]}', whose) or 0) > max_bytes do
    local oldest = redis.call('zrange', of, 0, 0)[1]
    if not oldest or oldest == stream then return end
    redis.call('del', oldest)
    uncount(oldest)
  end
end
evict(owner, '{_STREAMS_OF}' .. owner, tonumber(ARGV[8]), tonumber(ARGV[9]))
evict('all', '{_SIZE_KEYS[0]}', tonumber(ARGV[10]), tonumber(ARGV[11]))
return 1
"""
)
_FORGET = _UNCOUNT + "uncount(KEYS[1]) return redis.call('del', KEYS[1])"


@dataclass(frozen=True)
class Owner:
    """The owner of a stream: the name of an API key, or "" without keys. Its limits count the stream.

    The ids of private streams are separate per owner; other streams share one namespace of ids.
    """

    name: str = ""
    is_private: bool = False


@dataclass(frozen=True)
class Limits:
    """The limits in total, and the fraction of them that the streams of one owner may take."""

    max_streams: int = 10_000
    max_bytes: int = 64 << 20
    owner_fraction: float = 1.0

    @property
    def of_owner(self) -> tuple[int, int]:
        """The maximal number and bytes of streams of one owner."""
        return max(1, int(self.max_streams * self.owner_fraction)), int(self.max_bytes * self.owner_fraction)


@dataclass(frozen=True)
class Stream:
    """The state of a stream: (1, S) float32, None at the start; and the number of lines so far.

    `rule` is what `FlagRule.dump` returned, None at the start and of a stream of an earlier version.
    """

    id: str
    state: NDArray[np.float32] | None
    lines: int
    restarted: Literal["new", "model_replaced"] | None
    rule: bytes | None = None


class StreamLock:
    """The lock of a call on a stream, renewed until `release`."""

    def __init__(
        self,
        redis: Redis,
        keys: tuple[str, str],
        token: str,
        *,
        model: str,
        stream: Stream,
        owner: str,
        limits: Limits,
    ) -> None:
        self._redis, self._keys, self._token = redis, keys, token
        self._model, self._owner, self._limits = model, owner, limits
        self.stream = stream
        self._released = threading.Event()
        threading.Thread(target=self._renew, name="stream lock", daemon=True).start()

    def save(self, state: NDArray[np.float32] | None, *, lines: int, rule: bytes = b"") -> Stream:
        """Save the state after `lines` more lines. Raises Conflict (`stream_lost`) if the lock was lost."""
        count = self.stream.lines + lines
        floats = b"" if state is None else state.astype("<f4").tobytes()
        values = (self._model, floats, rule, count, TTL_S)
        limits = (*self._limits.of_owner, self._limits.max_streams, self._limits.max_bytes)
        is_saved = self._redis.eval(_SAVE, 2, *self._keys, self._token, *values, self._owner, *limits)
        if not is_saved:
            raise Conflict(
                f"the call on stream {self.stream.id!r} lost its lock, because Redis was unavailable or this"
                " process was suspended; its lines were not added: send them again",
                code="stream_lost",
                param="stream_id",
            )
        return Stream(self.stream.id, state, count, self.stream.restarted, rule)

    def release(self) -> None:
        """Let the next call use the stream.

        Raises:
            redis.exceptions.RedisError, OSError: Redis does not answer; the lock expires.
        """
        self._released.set()
        lease.release(self._redis, self._keys[1], self._token)

    def _renew(self) -> None:
        while not self._released.wait(_LOCK_S / 3):
            with contextlib.suppress(RedisError, OSError):
                lease.renew(self._redis, self._keys[1], self._token, _LOCK_S)


_NO_OWNER = Owner()


class Streams:
    """The streams of lines on one Redis (with `decode_responses=True`)."""

    def __init__(self, redis: Redis, limits: Limits | None = None) -> None:
        self._redis = redis
        self._limits = limits or Limits()

    def try_lock(
        self, model: str, stream_id: str, *, size: int, owner: Owner = _NO_OWNER, model_id: str = ""
    ) -> StreamLock | None:
        """Return the lock of a stream, or None while another call holds it.

        Ids are per name of the `model`, which is `name@version`; `size` is the number of floats in its state.
        A stream that was read by another version restarts, which its `restarted` says; so does one of another
        `model_id`, as after a backup was restored: a state has positions in its own model's text.
        """
        key, lock_key = _keys(model, stream_id, owner)
        token = secrets.token_hex(8)
        # After an error Redis may have set it, or may still do so: it expires before other calls give up.
        if not lease.acquire(self._redis, lock_key, token, _LOCK_S):
            return None
        identity = f"{model} {model_id}".rstrip()
        stream = self._read(key, (identity, model), stream_id, size)
        return StreamLock(
            self._redis,
            (key, lock_key),
            token,
            model=identity,
            stream=stream,
            owner=f"key:{owner.name}",
            limits=self._limits,
        )

    def forget(self, model: str, stream_id: str, *, owner: Owner = _NO_OWNER) -> bool:
        """Delete a stream of the model `name` or `name@version`; return whether it existed."""
        key, _ = _keys(model, stream_id, owner)
        return bool(self._redis.eval(_FORGET, 1, key))

    def _read(self, key: str, models: tuple[str, ...], stream_id: str, size: int) -> Stream:
        execute: Any = self._redis.execute_command  # without the client's decoding, for raw floats
        fields = execute("HMGET", key, "model", "lines", "rule", "state_f4", **{NEVER_DECODE: True})
        stored_model, lines, rule, raw = cast(list[bytes | None], fields)
        if stored_model is None or raw is None:
            return Stream(stream_id, None, 0, "new")
        state = np.frombuffer(raw, "<f4").astype(np.float32) if raw else None
        if stored_model.decode() not in models or (state is not None and len(state) != size):
            return Stream(stream_id, None, 0, "model_replaced")
        return Stream(stream_id, None if state is None else state[None], int(lines or 0), None, rule)


def stream_busy(stream_id: str, wait_s: float) -> Conflict:
    """Return the error for a call that could not acquire the lock."""
    return Conflict(
        f"other calls on stream {stream_id!r} did not end within {wait_s:g} s; send one call at a time",
        code="stream_busy",
        param="stream_id",
    )


def _keys(model: str, stream_id: str, owner: Owner) -> tuple[str, str]:
    """Return the keys of a stream and of its lock. Names of models and API keys contain no colon."""
    name = model.partition("@")[0]
    if owner.is_private:
        path = f"{owner.name}:{name}:{stream_id}"
        return f"nextchar:stream-of:{path}", f"nextchar:stream-lock-of:{path}"
    return f"nextchar:stream:{name}:{stream_id}", f"nextchar:stream-lock:{name}:{stream_id}"


class StreamLocks:
    """Acquires locks on streams for a bounded number of calls.

    They wait on the event loop, so that a waiting call occupies no thread; `threads` are for short calls to
    Redis.
    """

    def __init__(self, streams: Streams, threads: CapacityLimiter) -> None:
        self._streams, self._threads = streams, threads
        self._waiting = 0

    @asynccontextmanager
    async def hold(
        self, model: str, stream_id: str, *, size: int, owner: Owner, model_id: str = ""
    ) -> AsyncIterator[StreamLock]:
        """Hold the lock of a stream until the block ends; see `Streams.try_lock`.

        Raises:
            Busy: too many calls wait for locks.
            Conflict: other calls on this stream held the lock for too long (code `stream_busy`).
        """
        lock = await self._wait(
            partial(self._streams.try_lock, model, stream_id, size=size, owner=owner, model_id=model_id),
            stream_id,
        )
        try:
            yield lock
        finally:
            ending = asyncio.ensure_future(anyio.to_thread.run_sync(lock.release, limiter=self._threads))
            with contextlib.suppress(RedisError, OSError):  # then the lock expires
                await asyncio.shield(ending)

    async def _wait(self, begin: Callable[[], StreamLock | None], stream_id: str) -> StreamLock:
        if self._waiting >= LOCKS.running:
            raise LOCKS.refusal(
                f"{self._waiting} calls wait for locks of streams; for each stream, send a call only when the"
                " one before has ended"
            )
        self._waiting += 1
        try:
            deadline, pause_s = time.monotonic() + WAIT_S, RETRY_S
            while (lock := await self._begin(begin)) is None:
                if time.monotonic() > deadline:
                    raise stream_busy(stream_id, WAIT_S)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MAX_RETRY_S)
            return lock
        finally:
            self._waiting -= 1

    async def _begin(self, begin: Callable[[], StreamLock | None]) -> StreamLock | None:
        """Try once, in a thread. A lock acquired after its call was cancelled is released."""
        beginning = asyncio.ensure_future(anyio.to_thread.run_sync(begin, limiter=self._threads))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_release_unused)
            raise


def _release_unused(beginning: asyncio.Future[StreamLock | None]) -> None:
    lock = None if beginning.cancelled() or beginning.exception() else beginning.result()
    if lock:
        threading.Thread(target=lock.release, name="release stream lock").start()
