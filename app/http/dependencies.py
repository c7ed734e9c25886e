"""The long-lived services of the application, and the dependency by which routes get them."""

import inspect
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, cast

import anyio
from fastapi import Depends, Request
from redis import Redis

from nextchar.app.access.concurrency_limits import ConcurrencyLimits
from nextchar.app.access.keys import KeyFile
from nextchar.app.access.rate_limits import RateLimits
from nextchar.app.http.connections import BoundedHttpProtocol, Connections
from nextchar.app.http.downloads import DownloadPlaces
from nextchar.app.http.event_feeds import Feeds
from nextchar.app.http.fair_threads import current_client
from nextchar.app.http.incoming_body import BodyMemory
from nextchar.app.http.limited_work import LimitedWork
from nextchar.app.jobs.bodies import JobBodies
from nextchar.app.jobs.control import JobControl
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.acceptance import Ingest
from nextchar.app.logs.notifications.notifier import Notifier
from nextchar.app.logs.notifications.outbox import Outbox
from nextchar.app.logs.notifications.targets import NotificationTargets
from nextchar.app.models.aliases import AliasControl
from nextchar.app.models.default_model import DefaultModel
from nextchar.app.models.engines import Engines
from nextchar.app.openai.batch_control import BatchControl
from nextchar.app.openai.batches import Batches
from nextchar.app.operations.disk_watermark import DiskWatermark
from nextchar.app.operations.metrics import Metrics
from nextchar.app.operations.readiness import ReadinessCheck
from nextchar.app.scoring.stream_locks import StreamLocks
from nextchar.app.scoring.streams import Streams
from nextchar.app.settings import ApiSettings
from nextchar.store.background import BackgroundLoop
from nextchar.store.blobs import Blobs
from nextchar.store.calibrations import Calibrations
from nextchar.store.corpora import Corpora
from nextchar.store.jobs import Jobs
from nextchar.store.live import EventLog, Live
from nextchar.store.models import Models
from nextchar.store.queue import TrainingQueue


@dataclass(frozen=True)
class Services:
    """Built once when the application starts; passed to routes as `ServicesDep`."""

    settings: ApiSettings
    blobs: Blobs
    redis: Redis
    corpora: Corpora
    jobs: Jobs
    models: Models
    aliases: AliasControl
    calibrations: Calibrations
    streams: Streams
    ingest: Ingest
    ingest_loop: BackgroundLoop | None  # one of `loops`; None: other processes score
    batches: Batches
    batch_control: BatchControl
    alerts: Alerts
    notification_targets: NotificationTargets
    outbox: Outbox
    notifier: Notifier
    live: Live
    event_log: EventLog
    queue: TrainingQueue
    job_control: JobControl
    job_bodies: JobBodies
    engines: Engines
    default_model: DefaultModel
    loops: tuple[BackgroundLoop, ...]  # started and stopped with the application
    metrics: Metrics
    readiness: ReadinessCheck
    keys: KeyFile | None  # None: no API key is required
    rates: RateLimits
    concurrency: ConcurrencyLimits
    watermark: DiskWatermark
    connections: Connections
    body_memory: BodyMemory
    downloads: DownloadPlaces
    stopping: threading.Event  # set when the server shuts down; endless streams then end
    # Each kind of call that computes has its own threads, so that none waits for a longer kind:
    score_threads: anyio.CapacityLimiter  # for short scores and small batches of streamed lines
    line_threads: anyio.CapacityLimiter  # for batches of many streamed lines
    document_threads: anyio.CapacityLimiter  # for parsing large JSON bodies, one at a time
    parse_threads: anyio.CapacityLimiter  # for parsing the requests of log agents, which takes memory
    ingest_threads: anyio.CapacityLimiter  # for accepting lines, which waits for the disk
    long_prompts: LimitedWork  # masking long prompts, and log-probabilities of echoed ones
    long_scores: LimitedWork  # scores of many lines or of streams
    calibrating: LimitedWork
    evaluating: LimitedWork
    importing: LimitedWork  # of model archives
    stream_locks: StreamLocks
    job_feeds: Feeds  # events of jobs that are followed
    flagged_feeds: Feeds  # flagged lines of models that are followed
    feed_threads: anyio.CapacityLimiter  # for reading both
    health_threads: (
        anyio.CapacityLimiter
    )  # separate, so that calls that hang on the storage do not delay /readyz


# async although nothing is awaited: FastAPI runs plain functions in a worker thread.
async def get_services(request: Request) -> Services:
    """Return the services of the application that serves this request."""
    return cast(Services, request.state.services)


def client_of(request: Request) -> str:
    """Return the client's identity, its API key or address: clients share a busy model equally."""
    key = getattr(request.state, "key", None)
    if key is not None:
        return f"key {key.name}"
    return request.client.host if request.client else ""


def user_of(request: Request) -> str:
    """Return what tells the client's end users apart: X-Document, the id of a tab or document, if any."""
    return request.headers.get("x-document", "")


def arrived_s_of(request: Request) -> float:
    """Return when the last byte of a request was received (by a server that notes it), as `perf_counter`."""
    connection: BoundedHttpProtocol | None = getattr(request.state, "connection", None)
    return connection.arrived_s if connection else time.perf_counter()


async def thread_turn(request: Request) -> AsyncIterator[None]:
    """Have a route's function that runs in threads wait for its client's turn."""
    if inspect.iscoroutinefunction(request.scope["endpoint"]):
        yield
    else:
        async with current_client().calls:
            yield


ServicesDep = Annotated[Services, Depends(get_services)]
