"""Authentication and authorization by API key, before anything of a request's body is read.

A call needs one of the scopes that its route declares (`nextchar.app.http.rules`). A key with patterns can
use only the models that match, and the jobs and corpora that `nextchar.app.access.permissions` defines. A key
with a rate is counted in Redis, across all API processes.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Receive, Scope, Send

from nextchar.app.access.keys import Key, KeyFile
from nextchar.app.access.permissions import check_model
from nextchar.app.http.errors import Forbidden, Unauthorized, error_response
from nextchar.app.http.middleware import HttpMiddleware
from nextchar.app.http.rules import Rule
from nextchar.models.errors import Busy, DomainError

_ADMIN = frozenset({"admin"})

log = logging.getLogger("nextchar.api")

_REDIS_TIMEOUT_S = 0.25  # every keystroke with a key waits for Redis
_PAUSE_S = 2.0  # without Redis calls after Redis has failed
_WARN_EVERY_S = 60.0


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
