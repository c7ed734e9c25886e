"""Authentication and authorization by API key, before anything of a request's body is read.

A call needs one of some scopes, by its method and path. A key with patterns can use only the models that
match, and the jobs and corpora that `nextchar.app.access.permissions` defines. A key with a rate is counted
in Redis. The files of the console, the API reference and the health checks need no key; a path that is not
known here needs the scope `admin`.
"""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from nextchar.app.access.keys import Key, KeyFile
from nextchar.app.access.permissions import check_model
from nextchar.app.errors import Forbidden, Unauthorized
from nextchar.app.http.errors import error_response
from nextchar.app.http.middleware import HttpMiddleware
from nextchar.app.scoring.streams import Owner
from nextchar.models.errors import DomainError

_READ = frozenset({"read"})
_COMPLETE = frozenset({"complete"})
_INGEST = frozenset({"ingest"})
_TRAIN = frozenset({"train"})
_ADMIN = frozenset({"admin"})

_OPEN_PATHS = frozenset({"", "docs", "openapi.json", "healthz", "readyz", "health"})
_OPEN_FOLDERS = ("console/", "clients/js/")

_ROOT_PATHS = {
    "infill": _COMPLETE,
    "tokenize": _COMPLETE,
    "detokenize": _COMPLETE,
    "tokenizer_info": _COMPLETE | _READ,
    "props": _COMPLETE | _READ,
    "metrics": _READ,
}
_RESOURCES = {"completions": _COMPLETE, "batches": _COMPLETE, "logs": _INGEST, "architectures": _READ}
_MODEL_CALLS = {
    **dict.fromkeys(
        ("complete", "next", "score", "evaluate", "v1", "infill", "tokenize", "detokenize"), _COMPLETE
    ),
    "calibrate": _TRAIN,
    "ingest": _INGEST,
}
_MODEL_DELETIONS = {"calibrations": _TRAIN, "streams": _COMPLETE}  # below a model
_UNLIMITED_KEYS_ONLY = frozenset({"metrics"})


class Auth(HttpMiddleware):
    """Passes on a request that has the key it needs; responds with 401, 403 or 429 otherwise."""

    def __init__(self, app: ASGIApp, *, keys: KeyFile) -> None:
        super().__init__(app)
        self._keys = keys

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scopes = scopes_for(scope["method"], scope["path"])
        if scopes is not None:
            try:
                key = self._authorize(scope, scopes)
                if key.rate:
                    await scope["state"]["services"].rates.count(key)
            except DomainError as error:
                await error_response(error)(scope, receive, send)
                return
            scope["state"]["key"] = key
        await self._app(scope, receive, send)

    def _authorize(self, scope: Scope, scopes: frozenset[str]) -> Key:
        secret = _secret(scope)
        if not secret:
            raise Unauthorized("this call needs an API key, as `Authorization: Bearer …` or `X-API-Key: …`")
        key = self._keys.find(secret)
        if key is None:
            raise Unauthorized("this API key is unknown; it may have been revoked", code="api_key_wrong")
        if not key.scopes & scopes and "admin" not in key.scopes:
            needed = " or ".join(sorted(scopes | _ADMIN))
            raise Forbidden(f"this call needs a key with the scope {needed}", code="scope_missing")
        model = model_in_path(scope["method"], scope["path"])
        if model is not None:
            check_model(key, model)
        if key.models and scope["path"].strip("/") in _UNLIMITED_KEYS_ONLY:
            raise Forbidden(
                "this call reports on all models, and this key is limited to some; use a key without models=",
                code="model_not_permitted",
            )
        return key


def stream_owner(request: Request) -> Owner:
    """Return the owner of the streams of lines that a request continues. A key with patterns has its own."""
    key: Key | None = getattr(request.state, "key", None)
    return Owner(key.name, is_private=bool(key.models)) if key else Owner()


def scopes_for(method: str, path: str) -> frozenset[str] | None:
    """Return the scopes of which a call needs one (`admin` always suffices); None if it needs no key."""
    path = path.strip("/")
    if method == "OPTIONS" or path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS):
        return None  # a browser's preflight request (OPTIONS) carries no key
    first, *rest = path.split("/")
    if first != "v1":
        return _ROOT_PATHS.get(first, _ADMIN)
    resource, *below = rest or [""]
    if resource == "models":
        return _model_scopes(method, below)
    if resource in _RESOURCES:
        return _RESOURCES[resource]
    if resource in ("corpora", "files", "jobs", "fine_tuning"):
        return _TRAIN | _READ if method in ("GET", "HEAD") else _TRAIN
    return _ADMIN  # also of notification targets, whose URL may be a secret, and the audit trail


def _model_scopes(method: str, below: list[str]) -> frozenset[str]:
    if len(below) >= 2 and below[1] in ("alerts", "suppressions"):
        return _TRAIN | _READ if method in ("GET", "HEAD") else _TRAIN
    if method == "PUT" and below[1:] == ["ingest", "settings"]:
        return _TRAIN
    if method in ("GET", "HEAD"):
        is_description = len(below) < 2 or below[1] in _ROOT_PATHS
        return _READ | _COMPLETE if is_description else _READ
    if method == "DELETE" and len(below) >= 3:
        return _MODEL_DELETIONS.get(below[1], _ADMIN)
    if method != "POST" or len(below) < 2 or below[1] == "aliases":  # delete, rename, import, move an alias
        return _ADMIN
    return _MODEL_CALLS.get(below[1], _ADMIN)


def model_in_path(method: str, path: str) -> str | None:
    """Return the model that a call's path names, if any.

    >>> model_in_path("POST", "/v1/models/nietzsche@2/score"), model_in_path("GET", "/v1/models")
    ('nietzsche@2', None)
    """
    parts = path.strip("/").split("/")
    if parts[:2] != ["v1", "models"] or len(parts) < 3:
        return None
    is_import = method == "POST" and len(parts) == 3  # its archive names the model
    return None if is_import else parts[2]


def _secret(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.decode("latin-1")).strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].decode("latin-1")).strip()
    return ""
