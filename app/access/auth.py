"""Authentication and authorization by API key, before anything of a request's body is read.

A call needs one of the scopes that its route declares (`nextchar.app.http.rules`). A key with patterns can
use only the models that match, and the jobs and corpora that `nextchar.app.access.permissions` defines.
Requests of a key with a rate, and what is in progress of one with a limit, are counted (`KeyLimits`).

/v1/keys: the keys without their secrets. The file of keys is what changes them.
"""

from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextchar.app.access import audit
from nextchar.app.access.keys import Key, KeyFile
from nextchar.app.access.permissions import AccessDep, access_of, check_model
from nextchar.app.http.errors import Forbidden, Unauthorized, error_response, error_responses
from nextchar.app.http.limits import REQUESTS_OF_KEY, STREAMS_OF_KEY, KeyLimits
from nextchar.app.http.middleware import HttpMiddleware
from nextchar.app.http.rules import Rule, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Limit, Page, paginate, with_examples
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.operations.metrics import Collected, Metrics, gauge
from nextchar.app.operations.readiness import Problem, ReadinessCheck
from nextchar.app.operations.retention import Retention, RetentionSettings
from nextchar.app.room import Folder, Room
from nextchar.models.errors import Busy, DomainError
from nextchar.models.validation_errors import did_you_mean
from nextchar.store.expiring_cache import ExpiringCache

_ADMIN = frozenset({"admin"})

_STREAM_TYPES = ("text/event-stream", "application/x-ndjson")


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
                    await scope["state"]["services"][KeyLimits].count(key.name, key.rate)
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


class ConcurrencyLimit(HttpMiddleware):
    """Responds with 429 when a key has as many requests, or streams, in progress as it may have.

    A stream is a response of events or lines. Whether a request gets one is known when its response begins.
    """

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        key: Key | None = scope["state"].get("key")
        if key is None or (key.max_requests is None and key.max_streams is None):
            await self._app(scope, receive, send)
            return
        limits: KeyLimits = scope["state"]["services"][KeyLimits]
        async with AsyncExitStack() as held:
            if key.max_requests is not None:
                try:
                    await held.enter_async_context(limits.hold(REQUESTS_OF_KEY, key.name, key.max_requests))
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
                        await held.enter_async_context(limits.hold(STREAMS_OF_KEY, key.name, max_streams))
                    except Busy as error:
                        is_refused = True
                        await error_response(error)(scope, receive, send)
                        return
                await send(message)

            await self._app(scope, receive_unless_refused, send_unless_refused)


def _begins_stream(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith(_STREAM_TYPES)


router = APIRouter(prefix="/v1/keys", tags=["service"])


class KeyBody(BaseModel):
    """What an API key permits."""

    model_config = with_examples({
        "id": "website", "object": "api_key", "scopes": ["complete"], "models": ["names", "sku-*"],
        "limits": {"rate": "600 per 1 minute", "max_streams": "8"},
    })  # fmt: skip

    id: str = Field(description="Its name in the file of keys.")
    object: Literal["api_key"] = "api_key"
    scopes: list[str]
    models: list[str] = Field(description="Patterns of the models that it permits; empty: all.")
    limits: dict[str, str] = Field(description="Its limits, by their names in the file.")

    @classmethod
    def of(cls, key: Key) -> "KeyBody":
        """Return the description of a key."""
        return cls(id=key.name, scopes=sorted(key.scopes), models=list(key.models), limits=key.limits)


@router.get("", responses=error_responses(422))
@needs("admin")
def list_keys(
    services: ServicesDep, access: AccessDep, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> Page[KeyBody]:
    """List the API keys in the order of the file; none if the service requires no key."""
    access.check_is_unlimited("the keys are those of all models")
    file = services.find(KeyFile)
    page, has_more = paginate(file.keys if file else [], lambda key: key.name, after=after, limit=limit)
    return Page(data=list(map(KeyBody.of, page)), has_more=has_more)


_NAMES_S = 5.0  # for how long names are kept that errors suggest

_BAD_KEYS = Problem(
    "keys",
    "the file of API keys has invalid lines, no key, or cannot be read",
    "its last valid version applies, or no key if it cannot be read; the log says what is wrong",
)


def _open(services: Services) -> None:
    metrics, days = services[Metrics], services.settings_of(RetentionSettings).audit_retention_days
    limits = services.add(KeyLimits(services.settings.redis_url))
    metrics.register(limits.limited)
    services.closes(limits.close)
    services[Retention].add("audit entries", lambda now: audit.delete_before(services.blobs, days, now))
    names = ExpiringCache[Collection[str]](_NAMES_S)

    def similar_model(request: Request, unknown: str) -> str:
        known = names.get("models", lambda _: services.models.names())
        return access_of(services, request).similar_model(unknown, known)

    def similar_corpus(request: Request, unknown: str) -> str:
        known = names.get("corpora", lambda _: services.corpora.names())
        return did_you_mean(unknown, filter(access_of(services, request).allows, known))

    services.hints |= {"model_not_found": similar_model, "corpus_not_found": similar_corpus}
    keys = services.find(KeyFile)
    if keys:
        about = "Problems of the file of API keys, whose last valid version applies; 1 if it cannot be read."
        errors = "nextchar_api_keys_file_errors"
        metrics.register(Collected(lambda: [gauge(errors, about, len(keys.problems))]))
        services[ReadinessCheck].checks.append(lambda: [_BAD_KEYS] if keys.problems else [])


ACCESS = Room("access", _open, (audit.router, router), folders=(Folder("audit"),))
