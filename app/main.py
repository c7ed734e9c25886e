"""The application: its services, built once, and its routes. `python -m app.main` serves it.

Imports no TensorFlow, no Keras and nothing of `worker`; a test keeps it so.
"""

import asyncio
import gc
import importlib.metadata
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute, iter_route_contexts
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from uvicorn.supervisors import Multiprocess

from app.compat import llama_cpp, openai_completions, openai_files, openai_jobs, tokenizer
from app.http.auth import Auth, RateLimits
from app.http.connections import BoundedHttpProtocol, Connections, raise_open_files_limit
from app.http.dependencies import Services
from app.http.errors import add_error_handlers
from app.http.incoming_body import BodyMemory
from app.http.middleware import BodyLimit, RequestId
from app.http.origins import CrossSiteCheck, HostCheck
from app.keys import KeyFile
from app.routes import (
    architectures,
    calibrations,
    completions,
    corpora,
    health,
    jobs,
    models,
    reports,
    scores,
)
from app.routes.console import add_console
from app.routes.js_client import add_js_client
from app.services.default_model import DefaultModel
from app.services.engines import Engines, LoadEngine
from app.services.limited_work import LimitedWork
from app.services.metrics import Measured, Metrics
from app.services.readiness import ReadinessCheck
from app.services.stream_locks import StreamLocks
from app.settings import ApiSettings
from models.kernels.compile_cache import RUNTIME_KERNELS, compile_in_child_process, use_cache_folder
from models.runtime.engine import Engine
from store.background import BackgroundLoop
from store.calibrations import Calibrations
from store.corpora import Corpora
from store.jobs import Jobs
from store.live import EventLog, Live
from store.logs import log_uncaught, logging_config
from store.models import Models
from store.open_blobs import open_blobs
from store.queue import TrainingQueue
from store.reconcile import Reconciler
from store.retention import Retention, RetentionPeriods, remove_stale_uploads
from store.streams import Limits, Streams

_REDIS_TIMEOUT_S = 2.0
_HEALTH_THREADS = 4
_SCORE_THREADS = 8
_LINE_THREADS = 4
_SHARE_OF_A_KEY = 0.25  # of all streams of lines that are kept; without keys, all callers are one
_RECONCILE_S = 5.0
_SWEEP_S = 300.0
_SHUTDOWN_S = 5
_KEEP_ALIVE_S = 75  # longer than a writer pauses, and than proxies keep what they may use again
_HEALTHCHECK_S = 60  # a process that loads a large model on a busy machine is not dead


def create_app(settings: ApiSettings, *, load_engine: LoadEngine | None = None) -> FastAPI:
    """Return the application. Nothing is connected or opened before it starts.

    `load_engine` makes a running model of a saved one; by default the runtime's Engine.
    """
    load = load_engine or partial(
        Engine,
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
        lifespan=_lifespan(settings, load, stopping, keys),
        docs_url=None,  # app/routes/console.py has a reference that needs no other host
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    # Keystrokes first: routes are tried in order.
    for module in (completions, scores, calibrations, corpora, jobs, models, reports, architectures, health):
        app.include_router(module.router)
    for module in (openai_completions, llama_cpp, tokenizer, openai_files, openai_jobs):
        app.include_router(module.router)
    add_console(app, max_corpus_bytes=settings.max_corpus_bytes)
    app.state.stopping = stopping
    add_error_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, unlimited_paths=(corpora.UPLOAD_PATH, openai_files.UPLOAD_PATH))
    if keys:
        app.add_middleware(Auth, keys=keys)
    if "*" not in settings.origins:
        app.add_middleware(CrossSiteCheck, origins=settings.origins)
    # A page that DNS rebinding lets in has no key, so the check is for services without keys, or on request.
    if "*" not in settings.hosts and (settings.hosts or not keys):
        app.add_middleware(HostCheck, hosts=[*settings.hosts, settings.host])
    app.add_middleware(RequestId)
    app.add_middleware(Measured)
    add_js_client(app, allowed_origins=settings.origins)
    return app


def build_services(
    settings: ApiSettings, load: LoadEngine, stopping: threading.Event, keys: KeyFile | None = None
) -> Services:
    """Return the long-lived services. Redis need not answer yet; the storage must open.

    Raises:
        OSError, DomainError: the data folder or the storage cannot be used.
    """
    blobs = open_blobs(settings.blobs_url)
    remove_stale_uploads(settings.data_dir / "spool", now=time.time())
    connect = partial(
        Redis.from_url,
        settings.redis_url,
        socket_timeout=_REDIS_TIMEOUT_S,
        socket_connect_timeout=_REDIS_TIMEOUT_S,
        # Once, for a connection that died while it was idle; one that hangs would only hang again.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    redis = connect(decode_responses=True)
    jobs, models, queue = Jobs(blobs), Models(blobs), TrainingQueue(connect())
    pinned = [name.strip() for name in settings.pinned_models.split(",") if name.strip()]
    engines = Engines(models, load, limit_bytes=settings.model_cache_bytes, pinned=pinned)
    live = Live(redis)
    retention = Retention(
        blobs,
        jobs,
        periods=RetentionPeriods(
            failed_checkpoint_days=settings.failed_checkpoint_days,
            job_days=settings.job_retention_days,
            idempotency_days=settings.idempotency_retention_days,
        ),
        spool=settings.data_dir / "spool",
    )
    loops = (
        BackgroundLoop("reconciler", Reconciler(jobs, live, queue).run, interval_s=_RECONCILE_S),
        BackgroundLoop("retention", retention.sweep, interval_s=_SWEEP_S),
    )
    streams = Streams(redis, _stream_limits(settings))
    return Services(
        settings=settings,
        blobs=blobs,
        redis=redis,
        corpora=Corpora(blobs),
        jobs=jobs,
        models=models,
        calibrations=Calibrations(blobs),
        streams=streams,
        live=live,
        event_log=EventLog(blobs),
        queue=queue,
        engines=engines,
        default_model=DefaultModel(models, settings.default_model),
        loops=loops,
        metrics=Metrics(jobs=jobs, models=models, queue=queue, engines=engines, loops=loops, keys=keys),
        readiness=ReadinessCheck(blobs=blobs, redis=redis, queue=queue, loops=loops, keys=keys),
        keys=keys,
        rates=RateLimits(settings.redis_url),
        connections=Connections(
            max_connections=settings.max_connections, header_timeout_s=settings.header_timeout_s
        ),
        body_memory=BodyMemory(limit_bytes=settings.body_memory_bytes),
        stopping=stopping,
        score_threads=anyio.CapacityLimiter(_SCORE_THREADS),
        line_threads=anyio.CapacityLimiter(_LINE_THREADS),
        describing=LimitedWork("echoed prompts", running=2, waiting=64, retry_after_s=5),
        long_scores=LimitedWork("long scores", running=2, waiting=32, retry_after_s=5),
        calibrating=LimitedWork("calibrations", running=2, waiting=4, retry_after_s=30),
        evaluating=LimitedWork("evaluations", running=1, waiting=2, retry_after_s=30, code="evaluation_busy"),
        stream_turns=StreamLocks(streams),
        health_threads=anyio.CapacityLimiter(_HEALTH_THREADS),
    )


def main() -> None:
    """Serve with the settings of the environment until told to stop."""
    settings = ApiSettings.load()
    raise_open_files_limit()
    config = server_config(
        f"{__package__}.main:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.processes,
        log_config=logging_config(settings),
        timeout_graceful_shutdown=_SHUTDOWN_S,
        timeout_worker_healthcheck=_HEALTHCHECK_S,
    )
    if settings.processes > 1:
        Multiprocess(config, sockets=[config.bind_socket()]).run()
        return
    server = uvicorn.Server(config)
    server.run()
    raise SystemExit(0 if server.started else 1)


def installed_version() -> str:
    """Return the version that pyproject.toml names, or "unknown" where nextchar is not installed."""
    try:
        return importlib.metadata.version("nextchar")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def server_config(app: FastAPI | str, **options: Any) -> uvicorn.Config:
    """Return how `app`, or what a string names, is served; `options` are further ones of uvicorn's."""
    return uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws="none",  # no route has web sockets, and their connections would not be bounded
        lifespan="on",
        server_header=False,
        access_log=False,  # the metrics count requests; one line per keystroke would flood the log
        timeout_keep_alive=_KEEP_ALIVE_S,
        **options,
    )


def application() -> FastAPI:
    """Return the application for the settings of the environment, in the process that serves it.

    To be called in its main thread, by a server that has its signal handlers in place: the streams without
    an end are told to stop when it is.
    """
    log_uncaught()
    settings = ApiSettings.load()
    use_cache_folder(settings.data_dir)
    threading.Thread(
        target=compile_in_child_process, args=(RUNTIME_KERNELS,), name="compile kernels", daemon=True
    ).start()
    app = create_app(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        _before(number, app.state.stopping.set)
    parent = multiprocessing.parent_process()
    if parent:  # one of several; were the parent killed, nobody could stop us
        threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()
    return app


class Server(uvicorn.Server):
    """Serves in a thread, where no signals come: sets `stopping` when it is told to stop."""

    def __init__(self, config: uvicorn.Config, *, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        self._stopping.set()
        await super().shutdown(sockets)


def _lifespan(
    settings: ApiSettings, load: LoadEngine, stopping: threading.Event, keys: KeyFile | None
) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Services], None]:
        list(iter_route_contexts(app.routes))  # built now; else the first request waits for it
        services = await run_in_threadpool(build_services, settings, load, stopping, keys)
        for loop in services.loops:
            loop.start()
        threading.Thread(target=services.engines.load_pinned, name="load pinned models", daemon=True).start()
        gc.freeze()  # what is here stays: looking through it for garbage would hold up all requests
        watching = [
            asyncio.ensure_future(watch)
            for watch in (services.metrics.watch_loop(), services.connections.watch())
        ]
        try:
            yield {"services": services}
        finally:
            for task in watching:
                task.cancel()
            for loop in services.loops:
                loop.stop()
            for work in (
                services.describing,
                services.long_scores,
                services.calibrating,
                services.evaluating,
            ):
                work.close()
            await run_in_threadpool(services.engines.close)
            await services.rates.close()
            services.redis.close()

    return lifespan


def _stream_limits(settings: ApiSettings) -> Limits:
    share = _SHARE_OF_A_KEY if settings.api_keys_file else 1.0
    return Limits(settings.max_streams, settings.max_stream_bytes, share)


def _end_after(parent: BaseProcess) -> None:
    try:
        parent.join()
    finally:  # a process that cannot see its parent must not stay behind, holding the port
        os._exit(1)


def _before(number: int, do: Callable[[], None]) -> None:
    """Call `do` when a signal comes, before what is called now."""
    after = signal.getsignal(number)

    def handle(sent: int, frame: FrameType | None) -> None:
        do()
        if callable(after):
            after(sent, frame)

    signal.signal(number, handle)


def _operation_id(route: APIRoute) -> str:
    return route.name


if __name__ == "__main__":
    main()
