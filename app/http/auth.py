"""Who may call what: keys are asked for before anything of a request is read.

A call needs one of some scopes, by its method and path; a key with patterns reaches only the models that
match, and the jobs and corpora that `app.http.access` says; a key with a rate is counted in Redis, so that
all API processes count together. Files of the console, the reference and the health checks are open. Plain
ASGI, so that streams and disconnects pass untouched.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.errors import error_response
from app.keys import Forbidden, Key, KeyFile, Unauthorized
from models.errors import Busy, DomainError
from store.streams import Owner

log = logging.getLogger("nextchar.api")

_REDIS_TIMEOUT_S = 0.25  # a keystroke waits for this
_PAUSE_S = 2.0  # after a failure of Redis, before it is tried again
_WARN_EVERY_S = 60.0

_READ = frozenset({"read"})
_COMPLETE = frozenset({"complete"})
_TRAIN = frozenset({"train"})
_ADMIN = frozenset({"admin"})

_AT_THE_ROOT = {
    "infill": _COMPLETE,
    "tokenize": _COMPLETE,
    "detokenize": _COMPLETE,
    "tokenizer_info": _COMPLETE | _READ,
    "props": _COMPLETE | _READ,
    "metrics": _READ,
}
_OF_ALL_MODELS = frozenset({"metrics"})


class Auth:
    """Lets a request through with the key it needs, answers 401, 403 or 429 without."""

    def __init__(self, app: ASGIApp, *, keys: KeyFile) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        wanted = scopes_for(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if wanted is not None:
            try:
                key = self._admitted(scope, wanted)
                if key.rate:
                    await scope["state"]["services"].rates.count(key)
            except DomainError as error:
                await error_response(error)(scope, receive, send)
                return
            scope["state"]["key"] = key
        await self._app(scope, receive, send)

    def _admitted(self, scope: Scope, wanted: frozenset[str]) -> Key:
        secret = _secret(scope)
        if not secret:
            raise Unauthorized("this call needs an API key, as `Authorization: Bearer …` or `X-API-Key: …`")
        key = self._keys.find(secret)
        if key is None:
            raise Unauthorized(
                "this API key is not known here; it may have been revoked", code="api_key_wrong"
            )
        if not key.scopes & wanted and "admin" not in key.scopes:
            words = " or ".join(sorted(wanted | _ADMIN))
            raise Forbidden(f"this call needs a key with the scope {words}", code="scope_missing")
        model = model_in_path(scope["path"])
        if model is not None:
            _check(key, model)
        if key.models and scope["path"].strip("/") in _OF_ALL_MODELS:
            raise Forbidden(
                "this call tells of all models, and this key reaches only some", code="model_not_permitted"
            )
        return key


def check_model(request: Request, reference: str) -> None:
    """Raise Forbidden when the caller's key does not reach a model that the body names."""
    key: Key | None = getattr(request.state, "key", None)
    if key is not None:
        _check(key, reference)


def check_scope(request: Request, *scopes: str, why: str) -> None:
    """Raise Forbidden unless the caller's key has one of these scopes, which only some bodies need."""
    key: Key | None = getattr(request.state, "key", None)
    if key is not None and not key.scopes & {*scopes, *_ADMIN}:
        words = " or ".join(sorted({*scopes, *_ADMIN}))
        raise Forbidden(f"this call needs a key with the scope {words}: {why}", code="scope_missing")


def stream_owner(request: Request) -> Owner:
    """Return the owner of the streams of lines that a request continues. A key with patterns has its own."""
    key: Key | None = getattr(request.state, "key", None)
    return Owner(key.name, is_private=bool(key.models)) if key else Owner()


def _check(key: Key, reference: str) -> None:
    if not key.allows(reference):
        raise Forbidden(
            f"this key does not reach the model {reference!r}", code="model_not_permitted", param="model"
        )


def scopes_for(method: str, path: str) -> frozenset[str] | None:
    """Return the scopes of which a call needs one (`admin` always does); None if it needs no key."""
    first, *rest = path.strip("/").split("/")
    if method == "OPTIONS":
        return None  # what browsers ask before they send a key
    if first != "v1":
        return _AT_THE_ROOT.get(first)
    resource, *below = rest or [""]
    if resource == "models":
        return _for_models(method, below)
    if resource == "completions":
        return _COMPLETE
    if resource in ("corpora", "files", "jobs", "fine_tuning"):
        return _TRAIN | _READ if method in ("GET", "HEAD") else _TRAIN
    return _READ if method in ("GET", "HEAD") else _ADMIN


def _for_models(method: str, below: list[str]) -> frozenset[str]:
    if method in ("GET", "HEAD"):
        describes = len(below) < 2 or below[1] in _AT_THE_ROOT
        return _READ | _COMPLETE if describes else _READ
    if method != "POST" or len(below) < 2:  # deleted, renamed, imported
        return _ADMIN
    return _TRAIN if below[1].startswith("calibrat") else _COMPLETE


def model_in_path(path: str) -> str | None:
    """Return the model that a path names, if it does.

    >>> model_in_path("/v1/models/nietzsche@2/score"), model_in_path("/v1/models")
    ('nietzsche@2', None)
    """
    parts = path.strip("/").split("/")
    return parts[2] if parts[:2] == ["v1", "models"] and len(parts) > 2 else None


def _secret(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.decode("latin-1")).strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].decode("latin-1")).strip()
    return ""


class RateLimits:
    """Counts each key's requests over sliding windows, in Redis. While Redis is away nobody is held back."""

    def __init__(self, redis_url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._redis = ConnectionPool.from_url(
            redis_url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
        )
        self._limiter: Any = None
        self._warned_at = -_WARN_EVERY_S
        self._failed_at = -_PAUSE_S

    async def count(self, key: Key) -> None:
        """Count one request. Raises Busy when the key has had its share."""
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
        raise Busy(
            f"this key may make {key.rate} requests; wait a moment",
            retry_after_s=max(1.0, window.reset_time - time.time()),
            code="rate_limited",
        )

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._redis.aclose()

    def _connect(self) -> Any:
        from limits.aio.strategies import SlidingWindowCounterRateLimiter
        from limits.storage import storage_from_string

        pool: Any = self._redis  # what limits hands on to Redis, it declares as plain values
        storage: Any = storage_from_string(
            "async+redis://", implementation="redispy", key_prefix="nextchar:rate", connection_pool=pool
        )
        return SlidingWindowCounterRateLimiter(storage)

    def _warn(self, error: Exception) -> None:
        if time.monotonic() - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = time.monotonic()
            log.warning("rates are not counted while Redis does not answer: %s", error)
