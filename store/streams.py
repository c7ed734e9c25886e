"""What a model remembers of a stream of lines, between calls, in Redis.

    nextchar:stream:<model name>:<id>        a hash: model (name@version), state, change (base64), lines
    nextchar:stream-lock:<model name>:<id>   the token of the call that goes on with it

Calls on one stream come one after the other, through whichever API process: each waits its turn for a while.
A state is written only by the call that holds the lock, which is renewed while it lasts; so a call that lost
it, when Redis was away, changes nothing.
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
from redis.exceptions import RedisError

from models.errors import Conflict

TTL_S = 86_400
"""A stream is forgotten so long after its last call."""

_LOCK_S = 30  # how long a process that died keeps others waiting
_WAIT_S = 10.0
_RETRY_S = 0.02

_SAVE = """
if redis.call('get', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('hset', KEYS[1], 'model', ARGV[2], 'state', ARGV[3], 'change', ARGV[4], 'lines', ARGV[5])
redis.call('expire', KEYS[1], ARGV[6])
return 1
"""
_RENEW = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('expire', KEYS[1], ARGV[2])
"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


@dataclass(frozen=True)
class Stream:
    """Where a stream stands: state (1, S) float32, or None at its beginning, and the lines so far."""

    id: str
    state: NDArray[np.float32] | None
    change: NDArray[np.float32] | None  # (H, V - 1), what an adapting stream has learned
    lines: int
    restarted: Literal["new", "model_replaced"] | None


class Turn:
    """A call's turn on a stream."""

    def __init__(self, redis: Redis, keys: tuple[str, str], token: str, model: str, stream: Stream) -> None:
        self._redis, self._keys, self._token, self._model = redis, keys, token, model
        self.stream = stream

    def save(
        self, state: NDArray[np.float32], *, lines: int, change: NDArray[np.float32] | None = None
    ) -> Stream:
        """Keep the state after `lines` more lines. Raises Conflict (`stream_lost`) if the turn is over."""
        count = self.stream.lines + lines
        values = (self._model, _pack(state), "" if change is None else _pack(change), str(count), str(TTL_S))
        held = self._redis.eval(_SAVE, 2, *self._keys, self._token, *values)
        if not held:
            raise Conflict(
                f"the call on stream {self.stream.id!r} lost its turn, for Redis was away or this process"
                " stood still; nothing of it was kept: send its lines again",
                code="stream_lost",
                param="stream_id",
            )
        return Stream(self.stream.id, state, change, count, self.stream.restarted)


class Streams:
    """The streams of lines on one Redis (with `decode_responses=True`)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @contextmanager
    def turn(self, model: str, stream_id: str, *, size: int, wait_s: float = _WAIT_S) -> Iterator[Turn]:
        """Hold the stream of a model, `name@version`, whose states have `size` numbers, until the block ends.

        A stream that another version of the model has read begins anew, and says so.

        Raises:
            Conflict: other calls on this stream did not end within `wait_s` (code `stream_busy`).
        """
        name = model.partition("@")[0]
        key, lock = f"nextchar:stream:{name}:{stream_id}", f"nextchar:stream-lock:{name}:{stream_id}"
        token = secrets.token_hex(8)
        deadline = time.monotonic() + wait_s
        while not self._redis.set(lock, token, nx=True, ex=_LOCK_S):
            if time.monotonic() > deadline:
                raise Conflict(
                    f"other calls on stream {stream_id!r} did not end within {wait_s:g} s; send its lines one"
                    " call after the other",
                    code="stream_busy",
                    param="stream_id",
                )
            time.sleep(_RETRY_S)
        over = threading.Event()
        threading.Thread(target=self._keep, args=(lock, token, over), name="stream lock", daemon=True).start()
        try:
            yield Turn(self._redis, (key, lock), token, model, self._read(key, model, stream_id, size))
        finally:
            over.set()
            self._redis.eval(_RELEASE, 1, lock, token)

    def _keep(self, lock: str, token: str, over: threading.Event) -> None:
        while not over.wait(_LOCK_S / 3):
            with contextlib.suppress(RedisError, OSError):
                self._redis.eval(_RENEW, 1, lock, token, str(_LOCK_S))

    def forget(self, model: str, stream_id: str) -> bool:
        """Forget a stream of the model `name` or `name@version`; return whether there was one."""
        return bool(self._redis.delete(f"nextchar:stream:{model.partition('@')[0]}:{stream_id}"))

    def _read(self, key: str, model: str, stream_id: str, size: int) -> Stream:
        known = cast(dict[str, Any], self._redis.hgetall(key))
        if not known:
            return Stream(stream_id, None, None, 0, "new")
        state = _unpack(known["state"])[None]
        if known["model"] != model or state.shape[1] != size:
            return Stream(stream_id, None, None, 0, "model_replaced")
        change = _unpack(known["change"]) if known.get("change") else None
        return Stream(stream_id, state, change, int(known["lines"]), None)


def _pack(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _unpack(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
