"""Authentication and authorization by API key, before anything of a request's body is read.

A call needs one of the scopes that its route declares (`nextchar.app.http.rules`). A key with patterns can
use only the models that match, and the jobs and corpora that `nextchar.app.access.permissions` defines.
Requests of a key with a rate, and what is in progress of one with a limit, are counted in Redis, across all
API processes:

    nextchar:in_progress:<kind>:<key name>   a sorted set: each one by the time when it expires

A process renews the entries of what it serves, so those of a killed process expire after TTL_S.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

from prometheus_client import Counter
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextchar.app.access.keys import Key, KeyFile
from nextchar.app.access.permissions import check_model
from nextchar.app.http.errors import Forbidden, Unauthorized, error_response
from nextchar.app.http.middleware import HttpMiddleware
from nextchar.app.http.rules import Rule
from nextchar.models.errors import Busy, DomainError

_ADMIN = frozenset({"admin"})

log = logging.getLogger("nextchar.api")

_REDIS_TIMEOUT_S = 0.25  # every request with such a key waits for Redis
_PAUSE_S = 2.0  # without Redis calls after Redis has failed
_WARN_EVERY_S = 60.0

_STREAM_TYPES = ("text/event-stream", "application/x-ndjson")

TTL_S = 60
"""Time after which the requests of a killed process are no longer counted."""

Kind = Literal["requests", "streams"]
_RETRY_AFTER_S = 1.0

# KEYS: the set; ARGV: limit, member, TTL.
_ACQUIRE = """
local now = tonumber(redis.call('time')[1])
redis.call('zremrangebyscore', KEYS[1], '-inf', now)
if redis.call('zcard', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('zadd', KEYS[1], now + ARGV[3], ARGV[2])
redis.call('expire', KEYS[1], ARGV[3])
return 1
"""
# KEYS: the set; ARGV: member, TTL.
_RENEW = """
local now = tonumber(redis.call('time')[1])
redis.call('zadd', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('expire', KEYS[1], ARGV[2])
"""


class Auth(HttpMiddleware):
    """Passes on a request that has the key it needs; responds with 401, 403 or 429 otherwise."""

    def __init__(self, app: ASGIApp, *, keys: KeyFile) -> None:
        super().__init__(app)
        self._keys = keys

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        rule: Rule = scope["state"]["rule"]
        if rule.scopes is not None and scope["method"] != "OPTIONS":  # a browser's preflight has no key
            try:
                key = self._authorize(scope, rule, rule.scopes)
                if key.rate:
                    await scope["state"]["services"][RateLimits].count(key)
            except DomainError as error:
                await error_response(error)(scope, receive, send)
                return
            scope["state"]["key"] = key
        await self._app(scope, receive, send)

    def _authorize(self, scope: Scope, rule: Rule, scopes: frozenset[str]) -> Key:
        secret = _secret(scope)
        if not secret:
            raise Unauthorized("this call needs an API key, as `Authorization: Bearer …` or `X-API-Key: …`")
        key = self._keys.find(secret)
        if key is None:
            raise Unauthorized("this API key is unknown; it may have been revoked", code="api_key_wrong")
        if not key.scopes & scopes and "admin" not in key.scopes:
            needed = " or ".join(sorted(scopes | _ADMIN))
            raise Forbidden(f"this call needs a key with the scope {needed}", code="scope_missing")
        if rule.model_at is not None:
            check_model(key, scope["path"].strip("/").split("/")[rule.model_at])
        if key.models and rule.is_about_all:
            raise Forbidden(
                "this call reports on all models, and this key is limited to some; use a key without models=",
                code="model_not_permitted",
            )
        return key


def _secret(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.decode("latin-1")).strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].decode("latin-1")).strip()
    return ""


class RateLimits:
    """Counts each key's requests over sliding windows. Limits nothing while Redis does not respond."""

    def __init__(self, redis_url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pool = ConnectionPool.from_url(
            redis_url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
        )
        self._limiter: Any = None
        self._warned_at = -_WARN_EVERY_S
        self._failed_at = -_PAUSE_S
        self.limited = Counter(
            "nextchar_rate_limited_requests_total",
            "Requests that were refused because their API key has exceeded its rate.",
            ("key",),
            registry=None,
        )

    async def count(self, key: Key) -> None:
        """Count one request. Raises Busy if the key has exceeded its rate."""
        assert key.rate is not None
        if self._clock() - self._failed_at < _PAUSE_S:
            return
        if self._limiter is None:
            self._limiter = self._connect()
        try:
            if await self._limiter.hit(key.rate, key.name):
                return
            window = await self._limiter.get_window_stats(key.rate, key.name)
        except (RedisError, OSError) as error:
            self._failed_at = self._clock()
            self._warn(error)
            return
        self.limited.labels(key.name).inc()
        raise Busy(
            f"this key may make {key.rate} requests; wait a moment",
            retry_after_s=max(1.0, window.reset_time - time.time()),
            code="rate_limited",
        )

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._pool.aclose()

    def _connect(self) -> Any:
        from limits.aio.strategies import SlidingWindowCounterRateLimiter
        from limits.storage import storage_from_string

        pool: Any = self._pool  # `limits` declares the options that it passes on to Redis as plain values
        storage: Any = storage_from_string(
            "async+redis://", implementation="redispy", key_prefix="nextchar:rate", connection_pool=pool
        )
        return SlidingWindowCounterRateLimiter(storage)

    def _warn(self, error: Exception) -> None:
        if self._failed_at - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = self._failed_at
            log.warning("rate limits are not enforced while Redis does not respond: %s", error)


class ConcurrencyLimit(HttpMiddleware):
    """Responds with 429 when a key has as many requests, or streams, in progress as it may have.

    A stream is a response of events or lines. Whether a request gets one is known when its response begins.
    """

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        key: Key | None = scope["state"].get("key")
        if key is None or (key.max_requests is None and key.max_streams is None):
            await self._app(scope, receive, send)
            return
        limits: ConcurrencyLimits = scope["state"]["services"][ConcurrencyLimits]
        async with AsyncExitStack() as held:
            if key.max_requests is not None:
                try:
                    await held.enter_async_context(limits.hold("requests", key.name, key.max_requests))
                except Busy as error:
                    await error_response(error)(scope, receive, send)
                    return
            if key.max_streams is None:
                await self._app(scope, receive, send)
                return
            max_streams, is_refused = key.max_streams, False

            async def receive_unless_refused() -> Message:
                return {"type": "http.disconnect"} if is_refused else await receive()

            async def send_unless_refused(message: Message) -> None:
                nonlocal is_refused
                if is_refused:
                    return
                if message["type"] == "http.response.start" and _begins_stream(message):
                    try:
                        await held.enter_async_context(limits.hold("streams", key.name, max_streams))
                    except Busy as error:
                        is_refused = True
                        await error_response(error)(scope, receive, send)
                        return
                await send(message)

            await self._app(scope, receive_unless_refused, send_unless_refused)


def _begins_stream(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith(_STREAM_TYPES)


class ConcurrencyLimits:
    """Limits what is in progress. While Redis does not respond, nothing is limited. For one event loop."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(
            redis_url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
        )
        self._held: dict[str, str] = {}  # by member: the set that it is in
        self._renewing: asyncio.Task[None] | None = None
        self._warned_at = self._failed_at = -_WARN_EVERY_S

    @asynccontextmanager
    async def hold(self, kind: Kind, key_name: str, limit: int) -> AsyncIterator[None]:
        """Count one request or stream of a key for a block.

        Raises:
            Busy: the key has as many as it may have (code `too_many_requests` or `too_many_streams`).
        """
        member, name = secrets.token_hex(), f"nextchar:in_progress:{kind}:{key_name}"
        if not await self._acquire(name, limit, member):
            raise Busy(
                f"this key may have {limit} {kind} in progress at once; wait until one has ended",
                retry_after_s=_RETRY_AFTER_S,
                code=f"too_many_{kind}",
            )
        try:
            yield
        finally:
            # Shielded: a request that is cancelled must be counted off, too.
            await asyncio.shield(self._release(member))

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._renewing:
            self._renewing.cancel()
        await self._redis.aclose()

    async def _acquire(self, name: str, limit: int, member: str) -> bool:
        if time.monotonic() - self._failed_at < _PAUSE_S:
            return True
        try:
            if not await self._redis.eval(_ACQUIRE, 1, name, str(limit), member, str(TTL_S)):
                return False
        except (RedisError, OSError) as error:
            self._failed(error)
            return True
        self._held[member] = name
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return True

    async def _release(self, member: str) -> None:
        name = self._held.pop(member, None)
        if name is not None:
            try:
                await self._redis.zrem(name, member)
            except (RedisError, OSError) as error:  # it expires
                self._failed(error)

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(TTL_S / 3)
            for member, name in list(self._held.items()):
                with contextlib.suppress(RedisError, OSError):
                    if member in self._held:
                        await self._redis.eval(_RENEW, 1, name, member, str(TTL_S))
                    if member not in self._held:  # it ended meanwhile
                        await self._redis.zrem(name, member)

    def _failed(self, error: Exception) -> None:
        self._failed_at = time.monotonic()
        if self._failed_at - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = self._failed_at
            log.warning("concurrency of keys is not limited while Redis does not respond: %s", error)
