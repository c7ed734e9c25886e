"""What a model remembers of a stream of lines, between calls, in Redis.

    nextchar:stream:<model name>:<id>        a hash: model (name@version), lines, and as raw float32
                                             state_f4 and change_f4
    nextchar:stream-lock:<model name>:<id>   the token of the call that goes on with it
    nextchar:stream-of:<owner>:<model name>:<id>, nextchar:stream-lock-of:<owner>:<model name>:<id>
                                             the same for an owner whose streams nobody else reaches
    nextchar:streams                         a sorted set: the hash's key by its last use, in microseconds
    nextchar:streams:of:<owner>              the same for the streams that one API key used last
    nextchar:streams:size                    a hash: the hash's key -> "<bytes> <owner>"
    nextchar:streams:bytes                   a hash: "all", or an owner -> the bytes of its streams

Calls on one stream come one after the other, through whichever API process: each waits its turn for a while.
A state is written only by the call that holds the lock, which is renewed while it lasts; so a call that lost
it, when Redis was away, changes nothing.

Streams are bounded in number and bytes, in all and for each owner. The script that saves one evicts the least
recently used above that; an evicted stream begins anew. Streams of before, with base64 in the fields `state`
and `change`, are read, and counted from their next call on.
"""

import base64
import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from redis import Redis
from redis.client import NEVER_DECODE
from redis.exceptions import RedisError

from models.errors import Conflict

TTL_S = 86_400
"""A stream is forgotten so long after its last call."""

WAIT_S = 10.0
"""How long a call waits for its turn."""

RETRY_S = 0.02
"""How often it looks whether it is its turn."""

_LOCK_S = 30  # how long a process that died keeps others waiting

_SIZE_KEYS = ("nextchar:streams", "nextchar:streams:size", "nextchar:streams:bytes")
_OF = "nextchar:streams:of:"

_UNCOUNT = f"""
local function uncount(stream)
  local bytes, owner = string.match(redis.call('hget', '{_SIZE_KEYS[1]}', stream) or '', '^(%d+) (.*)$')
  if not bytes then return end
  redis.call('hdel', '{_SIZE_KEYS[1]}', stream)
  redis.call('zrem', '{_SIZE_KEYS[0]}', stream)
  redis.call('zrem', '{_OF}' .. owner, stream)
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
local token, model, state, change, lines, ttl_s, owner = unpack(ARGV, 1, 7)
if redis.call('get', lock) ~= token then return 0 end
redis.call('del', stream)
redis.call('hset', stream, 'model', model, 'state_f4', state, 'change_f4', change, 'lines', lines)
redis.call('expire', stream, ttl_s)

local time = redis.call('time')
local now_us = time[1] * 1000000 + time[2]
local expired = redis.call(
  'zrangebyscore', '{_SIZE_KEYS[0]}', '-inf', now_us - ttl_s * 1000000, 'limit', 0, 100)
for _, other in ipairs(expired) do uncount(other) end
uncount(stream)
local bytes = #state + #change + 3 * #stream + 2 * #owner + 400
redis.call('hset', '{_SIZE_KEYS[1]}', stream, bytes .. ' ' .. owner)
redis.call('zadd', '{_SIZE_KEYS[0]}', now_us, stream)
redis.call('zadd', '{_OF}' .. owner, now_us, stream)
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
evict(owner, '{_OF}' .. owner, tonumber(ARGV[8]), tonumber(ARGV[9]))
evict('all', '{_SIZE_KEYS[0]}', tonumber(ARGV[10]), tonumber(ARGV[11]))
return 1
"""
)
_FORGET = _UNCOUNT + "uncount(KEYS[1]) return redis.call('del', KEYS[1])"
_RENEW = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('expire', KEYS[1], ARGV[2])
"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


@dataclass(frozen=True)
class Owner:
    """Whose a stream is: the name of an API key, or "" without keys. It counts against this owner's limits.

    Streams that are not private are shared by all owners whose streams are not: an id is one stream to them.
    """

    name: str = ""
    is_private: bool = False


@dataclass(frozen=True)
class Limits:
    """The most that is kept, in all, and the share of it that the streams of one owner may take."""

    max_streams: int = 10_000
    max_bytes: int = 64 << 20
    owner_share: float = 1.0

    @property
    def of_owner(self) -> tuple[int, int]:
        """The most streams and bytes of one owner."""
        return max(1, int(self.max_streams * self.owner_share)), int(self.max_bytes * self.owner_share)


@dataclass(frozen=True)
class Stream:
    """Where a stream stands: state (1, S) float32, or None at its beginning, and the lines so far."""

    id: str
    state: NDArray[np.float32] | None
    change: NDArray[np.float32] | None  # (H, V - 1), what an adapting stream has learned
    lines: int
    restarted: Literal["new", "model_replaced"] | None


class StreamLock:
    """A call's turn on a stream. `end` it; until then its lock is renewed."""

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
        self._is_over = threading.Event()
        threading.Thread(target=self._renew, name="stream lock", daemon=True).start()

    def save(
        self, state: NDArray[np.float32], *, lines: int, change: NDArray[np.float32] | None = None
    ) -> Stream:
        """Keep the state after `lines` more lines. Raises Conflict (`stream_lost`) if the turn is over."""
        count = self.stream.lines + lines
        values = (self._model, _pack(state), b"" if change is None else _pack(change), count, TTL_S)
        limits = (*self._limits.of_owner, self._limits.max_streams, self._limits.max_bytes)
        held = self._redis.eval(_SAVE, 2, *self._keys, self._token, *values, self._owner, *limits)
        if not held:
            raise Conflict(
                f"the call on stream {self.stream.id!r} lost its turn, for Redis was away or this process"
                " stood still; nothing of it was kept: send its lines again",
                code="stream_lost",
                param="stream_id",
            )
        return Stream(self.stream.id, state, change, count, self.stream.restarted)

    def end(self) -> None:
        """Let the next call go on with the stream."""
        self._is_over.set()
        self._redis.eval(_RELEASE, 1, self._keys[1], self._token)

    def _renew(self) -> None:
        while not self._is_over.wait(_LOCK_S / 3):
            with contextlib.suppress(RedisError, OSError):
                self._redis.eval(_RENEW, 1, self._keys[1], self._token, str(_LOCK_S))


_NOBODY = Owner()


class Streams:
    """The streams of lines on one Redis (with `decode_responses=True`)."""

    def __init__(self, redis: Redis, limits: Limits | None = None) -> None:
        self._redis = redis
        self._limits = limits or Limits()

    @contextmanager
    def turn(
        self, model: str, stream_id: str, *, size: int, owner: Owner = _NOBODY, wait_s: float = WAIT_S
    ) -> Iterator[StreamLock]:
        """Hold the stream of a model until the block ends; see `begin`. Waits in the calling thread.

        Raises:
            Conflict: other calls on this stream did not end within `wait_s` (code `stream_busy`).
        """
        deadline = time.monotonic() + wait_s
        while (turn := self.begin(model, stream_id, size=size, owner=owner)) is None:
            if time.monotonic() > deadline:
                raise stream_busy(stream_id, wait_s)
            time.sleep(RETRY_S)
        try:
            yield turn
        finally:
            turn.end()

    def begin(self, model: str, stream_id: str, *, size: int, owner: Owner = _NOBODY) -> StreamLock | None:
        """Return a turn on a stream, or None while another call has it.

        A stream that another version of the model has read begins anew, and says so.

        Args:
            model: `name@version`.
            stream_id: the stream's name among those of the model `name`.
            size: the numbers in a state of this model.
            owner: whose it is.
        """
        key, lock = _keys(model, stream_id, owner)
        token = secrets.token_hex(8)
        if not self._redis.set(lock, token, nx=True, ex=_LOCK_S):
            return None
        try:
            stream = self._read(key, model, stream_id, size)
        except BaseException:
            with contextlib.suppress(RedisError, OSError):  # else it expires
                self._redis.eval(_RELEASE, 1, lock, token)
            raise
        return StreamLock(
            self._redis,
            (key, lock),
            token,
            model=model,
            stream=stream,
            owner=f"key:{owner.name}",
            limits=self._limits,
        )

    def forget(self, model: str, stream_id: str, *, owner: Owner = _NOBODY) -> bool:
        """Forget a stream of the model `name` or `name@version`; return whether there was one."""
        key, _ = _keys(model, stream_id, owner)
        return bool(self._redis.eval(_FORGET, 1, key))

    def _read(self, key: str, model: str, stream_id: str, size: int) -> Stream:
        # The client decodes answers, which raw numbers are not.
        asked: Any = self._redis.execute_command
        fields = asked("HMGET", key, *_FIELDS, **{NEVER_DECODE: True})
        known = _Kept(*cast(list[bytes | None], fields))
        state = known.numbers(known.state_f4, known.state)
        if known.model is None or state is None:
            return Stream(stream_id, None, None, 0, "new")
        if known.model.decode() != model or len(state) != size:
            return Stream(stream_id, None, None, 0, "model_replaced")
        change = known.numbers(known.change_f4, known.change)
        return Stream(stream_id, state[None], change, int(known.lines or 0), None)


def stream_busy(stream_id: str, wait_s: float) -> Conflict:
    """Return what is to be raised where a call's turn has not come."""
    return Conflict(
        f"other calls on stream {stream_id!r} did not end within {wait_s:g} s; send its lines one call after"
        " the other",
        code="stream_busy",
        param="stream_id",
    )


_FIELDS = ("model", "lines", "state_f4", "change_f4", "state", "change")


@dataclass(frozen=True)
class _Kept:
    """The fields of a stream's hash, as they are."""

    model: bytes | None
    lines: bytes | None
    state_f4: bytes | None
    change_f4: bytes | None
    state: bytes | None
    change: bytes | None

    def numbers(self, raw: bytes | None, base64_of: bytes | None) -> NDArray[np.float32] | None:
        """Return the numbers of one field, or of the one that was kept before; None: there are none."""
        data = raw or base64.b64decode(base64_of or b"")
        return np.frombuffer(data, "<f4").astype(np.float32) if data else None


def _keys(model: str, stream_id: str, owner: Owner) -> tuple[str, str]:
    """Return the keys of a stream and of its lock. Names of models and of API keys have no colon."""
    name = model.partition("@")[0]
    if owner.is_private:
        whose = f"{owner.name}:{name}:{stream_id}"
        return f"nextchar:stream-of:{whose}", f"nextchar:stream-lock-of:{whose}"
    return f"nextchar:stream:{name}:{stream_id}", f"nextchar:stream-lock:{name}:{stream_id}"


def _pack(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4").tobytes()
