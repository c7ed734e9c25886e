"""The application and its server: `python -m nextchar.app.main` serves it."""

import asyncio
import gc
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.telemetry import TelemetryConfig
from uvicorn.supervisors import Multiprocess

from nextchar.app.access.audit import AuditTrail
from nextchar.app.access.auth import Auth, ConcurrencyLimit
from nextchar.app.access.keys import KeyFile
from nextchar.app.core_settings import CoreSettings, listed
from nextchar.app.http.bodies import FastPaths
from nextchar.app.http.connections import (
    ONCE_PER_MINUTE,
    BoundedHttpProtocol,
    NoteResponses,
    raise_open_files_limit,
)
from nextchar.app.http.errors import add_error_handlers, error_responses
from nextchar.app.http.middleware import (
    BodyLimit,
    BrowserHeaders,
    ClientTurns,
    CrossSiteCheck,
    FindRule,
    HostCheck,
    RequestId,
)
from nextchar.app.http.rules import Rules, check_query_parameters, needs_no_key
from nextchar.app.http.services import Services, thread_turn
from nextchar.app.models.engines import EngineLoader, LoadEngine
from nextchar.app.operations.metrics import RequestMetrics
from nextchar.app.room import Room
from nextchar.app.rooms import ROOMS, all_rooms, open_rooms, settings_class
from nextchar.models import installed_version
from nextchar.models.kernels.compile_cache import (
    SERVING,
    compile_in_child_process,
    compile_kernels,
    use_cache_folder,
)
from nextchar.store import tracing
from nextchar.store.installation import check_storage
from nextchar.store.logs import configure_logging, log_uncaught, logging_config

log = logging.getLogger("nextchar.api")

_KEEP_ALIVE_S = 75  # longer than a pause in typing, and than proxies keep idle connections
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
_TELEMETRY: TelemetryConfig = {  # request spans, if `store.tracing` has started; nothing else of FastAPI's
    "auto_configure": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope.get("path") in _UNTRACED,
}
_HEALTHCHECK_S = 60  # a process may be unresponsive while it loads a large model on a busy machine


def create_app(
    settings: CoreSettings,
    *,
    rooms: Sequence[Room] = ROOMS,
    load_engine: LoadEngine | None = None,
    kernels_loaded: threading.Event | None = None,
) -> FastAPI:
    """Return the application with these rooms. It connects to nothing before it starts.

    `load_engine` makes the engine and the scorer of a saved model; by default `load_by`. The application
    is not ready before `kernels_loaded` is set, if it is given.
    """
    stopping = threading.Event()
    keys = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
    given = [part for part in (keys, EngineLoader(load_engine) if load_engine else None) if part]
    app = FastAPI(
        title="nextchar",
        version=installed_version(),
        summary="Trains stateful character LSTMs on your text; serves completion and anomaly scores.",
        lifespan=_lifespan(
            partial(open_rooms, rooms, settings, *given, stopping=stopping, kernels_loaded=kernels_loaded)
        ),
        dependencies=[Depends(thread_turn, scope="function")],
        telemetry=_TELEMETRY,
        docs_url=None,  # app/console/routes.py serves a reference that loads nothing from other hosts
        redoc_url=None,
        redirect_slashes=False,  # such a redirect would repeat any host that a client names
        generate_unique_id_function=lambda route: route.name,
    )
    [openapi] = app.routes
    needs_no_key(openapi.endpoint)  # type: ignore[attr-defined]
    for room in sorted(rooms, key=lambda room: not room.is_called_at_keystrokes):  # matched in order
        for router in room.routers:
            if room.is_strict:
                checks, responses = [Depends(check_query_parameters)], error_responses(422)
                app.include_router(router, dependencies=checks, responses=responses)
            else:
                app.include_router(router)
    if not tracing.is_requested():  # FastAPI names the span of a request when it finds its route
        app.router.middleware_stack = FastPaths(app.router.middleware_stack, app.routes)
    app.state.stopping = stopping
    app.openapi = partial(_document, app, app.openapi, has_keys=keys is not None)  # type: ignore[method-assign]
    add_error_handlers(app)
    # The last middleware added is the outermost.
    app.add_middleware(AuditTrail)
    app.add_middleware(BodyLimit)
    app.add_middleware(ClientTurns)
    if keys:
        app.add_middleware(ConcurrencyLimit)
        app.add_middleware(Auth, keys=keys)
    origins, hosts = listed(settings.allowed_origins), listed(settings.allowed_hosts)
    if "*" not in origins:
        app.add_middleware(CrossSiteCheck, origins=origins)
    # With API keys DNS rebinding gains nothing, so then the check is only made if hosts are configured.
    if "*" not in hosts and (hosts or not keys):
        app.add_middleware(HostCheck, hosts=[*hosts, settings.host])
    app.add_middleware(FindRule)
    app.add_middleware(RequestId)
    app.add_middleware(BrowserHeaders)
    app.add_middleware(RequestMetrics)
    for room in rooms:
        room.mount(app, settings)
    app.add_middleware(NoteResponses)
    return app


_TAGS = {
    "corpora": "The texts to train on.",
    "jobs": "Training: queue, follow, cancel, pause and resume.",
    "models": "Trained models: names, versions, aliases, files, reports.",
    "inference": "Completions, the next character, scores, calibrations.",
    "suggestions": "Completions of a field, and what became of them.",
    "ingest": "Lines that log agents send.",
    "alerts": "Flagged lines by event, and the targets that they are reported to.",
    "OpenAI": "What OpenAI's clients call.",
    "llama.cpp": "What editors call.",
    "service": "The audit trail.",
    "operations": "Health and metrics.",
}
"""What the operations of each tag are about, in the order of the API reference."""


def _document(app: FastAPI, build: Callable[[], dict[str, Any]], *, has_keys: bool) -> dict[str, Any]:
    """Return the OpenAPI document: an operation's summary is its docstring's first sentence.

    With keys, it says which operations need one.
    """
    if app.openapi_schema:
        return app.openapi_schema
    document, rules = build(), Rules(app.routes)
    used = {tag for methods in document["paths"].values() for one in methods.values() for tag in one["tags"]}
    for schema in document["components"]["schemas"].values():
        for field in schema.get("properties", {}).values():
            if "description" in field:  # docstrings may have several lines
                field["description"] = " ".join(field["description"].split())
    document["tags"] = [{"name": tag, "description": text} for tag, text in _TAGS.items() if tag in used]
    if has_keys:
        document["components"]["securitySchemes"] = {"API key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if description := operation.get("description"):
                summary, *rest = re.split(r"\.(?:\s+|\Z)", description, maxsplit=1)
                operation["summary"] = " ".join(summary.replace("`", "").split())
                operation["description"] = "".join(rest)
            if has_keys and rules.find(method.upper(), path).scopes is not None:
                operation["security"] = [{"API key": []}]
    return document


def main() -> None:
    """Serve with the settings of the environment until a signal stops it."""
    settings = settings_class(all_rooms()).load()
    raise_open_files_limit()
    configure_logging(settings)
    check_storage(settings)
    config = server_config(
        f"{__package__}.main:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.processes,
        trusted_proxies=listed(settings.trusted_proxies),
        log_config=logging_config(settings),
        timeout_graceful_shutdown=settings.drain_s,
        timeout_worker_healthcheck=_HEALTHCHECK_S,
    )
    if settings.processes > 1:
        Multiprocess(config, sockets=[config.bind_socket()]).run()
        return
    server = uvicorn.Server(config)
    server.run()
    raise SystemExit(0 if server.started else 1)


def server_config(
    app: FastAPI | str, *, trusted_proxies: Sequence[str] = (), **options: Any
) -> uvicorn.Config:
    """Return uvicorn's configuration for an application or its import string; `options` extend it.

    Only `trusted_proxies`, addresses and networks, can name the client in `X-Forwarded-For`.
    """
    logging.getLogger("uvicorn.error").addFilter(ONCE_PER_MINUTE)  # adding it again does nothing
    return uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws="none",  # no route uses WebSockets, and their connections would not be limited
        lifespan="on",
        server_header=False,
        access_log=False,  # metrics count requests; a log line per keystroke would be too much
        timeout_keep_alive=_KEEP_ALIVE_S,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        **options,
    )


def application() -> FastAPI:
    """Return the application for the settings of the environment.

    Call it in the main thread, after the server has installed its signal handlers: a signal also ends
    streams that would otherwise not end.
    """
    log_uncaught()
    rooms = all_rooms()
    settings = settings_class(rooms).load()
    tracing.start("nextchar-api")
    use_cache_folder(settings.data_dir)
    kernels_loaded = threading.Event()
    threading.Thread(target=_load_kernels, args=(kernels_loaded,), name="load kernels", daemon=True).start()
    app = create_app(settings, rooms=rooms, kernels_loaded=kernels_loaded)
    for number in (signal.SIGINT, signal.SIGTERM):
        _on_signal(number, app.state.stopping.set)
    parent = multiprocessing.parent_process()
    if parent:  # one of several processes, which must end with their parent
        threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()
    return app


def _load_kernels(loaded: threading.Event) -> None:
    """Load the kernels that completions need, compiled in a child process if they are not in the cache."""
    try:
        compile_in_child_process(*SERVING, measures_variants=False)
        compile_kernels(*SERVING)
    except Exception:  # any error of the compiler; the network in float32 remains
        log.exception("the kernels cannot be compiled on this machine")
    finally:
        loaded.set()
    compile_in_child_process()  # measures the variants, for processes that start later


def _lifespan(build: Callable[[], Services]) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any], None]:
        rules = Rules(app.routes)  # which also builds the routes, now instead of in the first request
        services = await run_in_threadpool(build)
        for loop in services.loops:
            loop.start()
        for start in services.starting:
            start()
        gc.freeze()  # objects made until now live as long as the process; scanning them would delay requests
        tasks = [asyncio.ensure_future(task()) for task in services.tasks]
        try:
            yield {"services": services, "rules": rules}
        finally:
            for task in tasks:
                task.cancel()
            await services.close()
            await run_in_threadpool(tracing.stop)

    return lifespan


def _end_after(parent: BaseProcess) -> None:
    try:
        parent.join()
    finally:  # whatever happens, the process must not outlive its parent and keep the port
        os._exit(1)


def _on_signal(number: int, callback: Callable[[], None]) -> None:
    """Call `callback` at a signal, before its present handler."""
    previous = signal.getsignal(number)

    def handle(received: int, frame: FrameType | None) -> None:
        callback()
        if callable(previous):
            previous(received, frame)

    signal.signal(number, handle)


if __name__ == "__main__":
    main()
