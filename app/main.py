"""The application and its server: `python -m nextchar.app.main` serves it."""

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType, ModuleType
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import iter_route_contexts
from fastapi.telemetry import TelemetryConfig
from uvicorn.supervisors import Multiprocess

from nextchar.app.access import audit
from nextchar.app.access.auth import Auth
from nextchar.app.access.concurrency import ConcurrencyLimit
from nextchar.app.access.keys import KeyFile
from nextchar.app.completions import routes as completions
from nextchar.app.composition import build_services
from nextchar.app.console.js_client import add_js_client
from nextchar.app.console.routes import add_console
from nextchar.app.corpora import routes as corpora
from nextchar.app.http.connections import (
    INVALID_REQUEST_FILTER,
    BoundedHttpProtocol,
    NoteResponses,
    raise_open_files_limit,
)
from nextchar.app.http.dependencies import Services, thread_turn
from nextchar.app.http.errors import add_error_handlers, error_responses
from nextchar.app.http.middleware import BodyLimit, ClientTurns, ExactPath, RequestId, RequestMetrics
from nextchar.app.http.origins import BrowserHeaders, CrossSiteCheck, HostCheck
from nextchar.app.http.query_parameters import check_query_parameters
from nextchar.app.jobs import routes as jobs
from nextchar.app.logs.alerts import routes as alerts
from nextchar.app.logs.ingest import routes as ingest
from nextchar.app.logs.notifications import routes as notifications
from nextchar.app.models import alias_routes as aliases
from nextchar.app.models import architecture_routes as architectures
from nextchar.app.models import archive_routes as model_archives
from nextchar.app.models import report_routes as reports
from nextchar.app.models import routes as models
from nextchar.app.models.engines import LoadEngine, load_model
from nextchar.app.openai import batch_routes as openai_batches
from nextchar.app.openai import completions as openai_completions
from nextchar.app.openai import files as openai_files
from nextchar.app.openai import jobs as openai_jobs
from nextchar.app.openai import llama_cpp, tokenizer
from nextchar.app.operations import routes as health
from nextchar.app.scoring import calibration_routes as calibrations
from nextchar.app.scoring import routes as scores
from nextchar.app.settings import ApiSettings
from nextchar.models.kernels.compile_cache import (
    SERVING,
    compile_in_child_process,
    compile_kernels,
    use_cache_folder,
)
from nextchar.models.version import installed_version
from nextchar.store import tracing
from nextchar.store.installation import check_storage
from nextchar.store.logs import configure_logging, log_uncaught, logging_config

log = logging.getLogger("nextchar.api")

_FINISH_LINES_S = 3.0
_KEEP_ALIVE_S = 75  # longer than a pause in typing, and than proxies keep idle connections
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
_TELEMETRY: TelemetryConfig = {  # request spans, if `store.tracing` has started; nothing else of FastAPI's
    "auto_configure": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope.get("path") in _UNTRACED,
}
_OWN_ROUTES: tuple[ModuleType, ...] = (  # matched in order, so those called at every keystroke come first
    completions,
    scores,
    ingest,
    calibrations,
    alerts,
    corpora,
    jobs,
    models,
    aliases,
    model_archives,
    notifications,
    reports,
    audit,
    architectures,
)
_OTHER_ROUTES: tuple[ModuleType, ...] = (  # their clients may send query parameters that we do not know
    health,
    openai_completions,
    llama_cpp,
    tokenizer,
    openai_files,
    openai_jobs,
    openai_batches,
)
_HEALTHCHECK_S = 60  # a process may be unresponsive while it loads a large model on a busy machine


def create_app(
    settings: ApiSettings,
    *,
    load_engine: LoadEngine | None = None,
    kernels_loaded: threading.Event | None = None,
) -> FastAPI:
    """Return the application. It connects to nothing before it starts.

    `load_engine` makes the engine and the scorer of a saved model; by default `load_model`. The application
    is not ready before `kernels_loaded` is set, if it is given.
    """
    load = load_engine or partial(
        load_model,
        threads=settings.model_threads,
        cache_bytes=settings.state_cache_bytes,
        max_waiting=settings.max_waiting,
    )
    stopping = threading.Event()
    keys = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
    app = FastAPI(
        title="nextchar",
        version=installed_version(),
        summary="Trains stateful character LSTMs on your text; serves completion and anomaly scores.",
        lifespan=_lifespan(partial(build_services, settings, load, stopping, keys, kernels_loaded)),
        dependencies=[Depends(thread_turn, scope="function")],
        telemetry=_TELEMETRY,
        docs_url=None,  # app/console/routes.py serves a reference that loads nothing from other hosts
        redoc_url=None,
        redirect_slashes=False,  # such a redirect would repeat any host that a client names
        generate_unique_id_function=lambda route: route.name,
    )
    for module in _OWN_ROUTES:
        app.include_router(
            module.router,
            dependencies=[Depends(check_query_parameters)],
            responses=error_responses(422),
        )
    for module in _OTHER_ROUTES:
        app.include_router(module.router)
    add_console(app, max_corpus_bytes=settings.max_corpus_bytes)
    app.state.stopping = stopping
    add_error_handlers(app)
    # The last middleware added is the outermost.
    rules = [module.BODY_RULE for module in (*_OWN_ROUTES, *_OTHER_ROUTES) if hasattr(module, "BODY_RULE")]
    app.add_middleware(audit.AuditTrail)
    app.add_middleware(BodyLimit, rules=rules)
    app.add_middleware(ClientTurns)
    if keys:
        app.add_middleware(ConcurrencyLimit)
        app.add_middleware(Auth, keys=keys)
    if "*" not in settings.origins:
        app.add_middleware(CrossSiteCheck, origins=settings.origins)
    # With API keys DNS rebinding gains nothing, so then the check is only made if hosts are configured.
    if "*" not in settings.hosts and (settings.hosts or not keys):
        app.add_middleware(HostCheck, hosts=[*settings.hosts, settings.host])
    app.add_middleware(ExactPath)
    app.add_middleware(RequestId)
    app.add_middleware(BrowserHeaders)
    app.add_middleware(RequestMetrics)
    add_js_client(app, allowed_origins=settings.origins)
    app.add_middleware(NoteResponses)
    return app


def main() -> None:
    """Serve with the settings of the environment until a signal stops it."""
    settings = ApiSettings.load()
    raise_open_files_limit()
    configure_logging(settings)
    check_storage(settings)
    config = server_config(
        f"{__package__}.main:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.processes,
        trusted_proxies=settings.proxies,
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
    logging.getLogger("uvicorn.error").addFilter(INVALID_REQUEST_FILTER)  # adding it again does nothing
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
    settings = ApiSettings.load()
    tracing.start("nextchar-api")
    use_cache_folder(settings.data_dir)
    kernels_loaded = threading.Event()
    threading.Thread(target=_load_kernels, args=(kernels_loaded,), name="load kernels", daemon=True).start()
    app = create_app(settings, kernels_loaded=kernels_loaded)
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
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Services], None]:
        list(iter_route_contexts(app.routes))  # built at start-up instead of in the first request
        services = await run_in_threadpool(build)
        for loop in services.loops:
            loop.start()
        threading.Thread(target=services.engines.load_pinned, name="load pinned models", daemon=True).start()
        gc.freeze()  # objects made until now live as long as the process; scanning them would delay requests
        tasks = [
            asyncio.ensure_future(task)
            for task in (services.metrics.watch_loop(), services.connections.watch())
        ]
        try:
            yield {"services": services}
        finally:
            for task in tasks:
                task.cancel()
            for loop in services.loops:
                loop.stop()
            if services.ingest_loop:  # what it has taken would otherwise wait to be taken over
                await run_in_threadpool(services.ingest_loop.stop, _FINISH_LINES_S)
            for work in (
                services.long_prompts,
                services.long_scores,
                services.calibrating,
                services.evaluating,
                services.importing,
            ):
                work.close()
            await run_in_threadpool(services.notifier.close)
            await run_in_threadpool(services.engines.close)
            await services.rates.close()
            await services.concurrency.close()
            services.redis.close()
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
