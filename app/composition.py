"""Construction of the application's services from its settings."""

import threading
import time
from functools import partial

import anyio
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from nextchar.app.access.concurrency_limits import ConcurrencyLimits
from nextchar.app.access.keys import KeyFile
from nextchar.app.access.rate_limits import RateLimits
from nextchar.app.http.connections import Connections
from nextchar.app.http.dependencies import Services
from nextchar.app.http.downloads import DownloadPlaces
from nextchar.app.http.event_feeds import Feeds
from nextchar.app.http.incoming_body import BodyMemory
from nextchar.app.http.limited_work import LimitedWork
from nextchar.app.jobs.bodies import JobBodies
from nextchar.app.jobs.control import JobControl
from nextchar.app.jobs.events import JobEventSource
from nextchar.app.jobs.reconcile import Reconciler
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.acceptance import Ingest
from nextchar.app.logs.ingest.events import FlaggedSource
from nextchar.app.logs.ingest.line_scoring import INTERVAL_S, IngestScoring
from nextchar.app.logs.ingest.recalibration import Recalibration
from nextchar.app.logs.ingest.records import IngestLimits
from nextchar.app.logs.ingest.rolling import RollingLines
from nextchar.app.logs.ingest.settings import IngestSettings
from nextchar.app.logs.ingest.stream import FSYNC_WAIT_S, IngestStreams
from nextchar.app.logs.notifications.events import Events
from nextchar.app.logs.notifications.notifier import Notifier
from nextchar.app.logs.notifications.outbox import Outbox
from nextchar.app.logs.notifications.targets import NotificationTarget, NotificationTargets, configured_target
from nextchar.app.models.aliases import AliasControl
from nextchar.app.models.default_model import DefaultModel
from nextchar.app.models.engines import Engines, LoadEngine
from nextchar.app.openai.batch_control import RECONCILE_S as BATCH_RECONCILE_S
from nextchar.app.openai.batch_control import BatchControl
from nextchar.app.openai.batches import Batches
from nextchar.app.operations.disk_watermark import DiskWatermark
from nextchar.app.operations.heap import TRIM_S, trim_heap
from nextchar.app.operations.metrics import Metrics
from nextchar.app.operations.readiness import ReadinessCheck
from nextchar.app.operations.retention import Retention, RetentionPeriods, remove_stale_uploads
from nextchar.app.scoring.stream_locks import StreamLocks
from nextchar.app.scoring.streams import Limits, Streams
from nextchar.app.settings import ApiSettings
from nextchar.store.background import BackgroundLoop
from nextchar.store.calibrations import Calibrations
from nextchar.store.corpora import Corpora
from nextchar.store.installation import RENEW_S, Installation
from nextchar.store.jobs import Jobs
from nextchar.store.live import EventLog, Live
from nextchar.store.model_file_cache import ModelFileCache
from nextchar.store.models import Models
from nextchar.store.open_blobs import is_object_store, open_blobs
from nextchar.store.queue import BatchQueue, TrainingQueue

REDIS_TIMEOUT_S = 2.0
RECONCILE_S = 5.0
NOTIFY_S = 5.0

_HEALTH_THREADS = 4
_SCORE_THREADS = 8
_LINE_THREADS = 4
_DOCUMENT_THREADS = 1  # parsing holds the GIL: with several, the event loop would wait for all of them
_PARSE_THREADS = 2
_INGEST_THREADS = 16
_FEED_THREADS = 4
_DOWNLOADS = 8
_KEYS_SHARE_OF_STREAMS = 0.25  # of the kept streams of lines, for each API key
_RETENTION_S = 300.0


def build_services(
    settings: ApiSettings,
    load: LoadEngine,
    stopping: threading.Event,
    keys: KeyFile | None = None,
    kernels_loaded: threading.Event | None = None,
) -> Services:
    """Return the long-lived parts of the application. Redis need not respond yet.

    `load` makes the engine and the scorer of a saved model; `stopping` is set when the server gets a stop
    signal; `keys` is None if no API key is required. The service is not ready before `kernels_loaded` is set,
    if it is given.

    Raises:
        OSError, DomainError: the data folder or the storage cannot be used.
    """
    blobs = open_blobs(settings.blobs_url)
    remove_stale_uploads(settings.data_dir / "spool", now=time.time())
    connect = partial(
        Redis.from_url,
        settings.redis_url,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        # One retry, for a connection that was closed while idle; a connection that hangs would hang again.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    redis = connect(decode_responses=True)
    jobs, queue = Jobs(blobs), TrainingQueue(connect())
    models = Models(blobs, cache=ModelFileCache.of(settings))
    pinned = [name.strip() for name in settings.pinned_models.split(",") if name.strip()]
    engines = Engines(
        models,
        load,
        limit_bytes=settings.model_cache_bytes,
        pinned=pinned,
    )
    live, event_log = Live(redis), EventLog(blobs)
    feed_threads = anyio.CapacityLimiter(_FEED_THREADS)
    alerts, outbox = Alerts(redis, blobs), Outbox(redis)
    batches, batch_queue = Batches(blobs, redis), BatchQueue(connect())
    retention = Retention(
        blobs,
        jobs,
        alerts,
        batches,
        periods=RetentionPeriods(
            failed_checkpoint_days=settings.failed_checkpoint_days,
            job_days=settings.job_retention_days,
            idempotency_days=settings.idempotency_retention_days,
            audit_days=settings.audit_retention_days,
            corpus_days=settings.corpus_retention_days,
        ),
        spool=settings.data_dir / "spool",
    )
    targets = NotificationTargets(blobs, _configured_targets(settings), redis=redis)
    notifier = Notifier(
        alerts,
        targets,
        outbox,
        Events(blobs, jobs, models),
        quiet_s=settings.alert_quiet_s,
        allow_private=settings.allow_private_targets,
    )
    calibrations = Calibrations(blobs)
    rolling_lines = RollingLines(redis)
    ingest_settings = IngestSettings(blobs)
    ingest_streams = _ingest_streams(settings)
    scoring = IngestScoring(
        ingest_streams,
        engines,
        calibrations,
        alerts,
        Recalibration(calibrations, alerts, rolling_lines, ingest_settings),
        stopping,
        retention_s=settings.ingest_retention_hours * 3600,
        claim_after_s=settings.ingest_takeover_s,
    )
    retention_loop = BackgroundLoop("retention", retention.sweep, interval_s=_RETENTION_S)
    retention.on_progress = retention_loop.beat
    loops: tuple[BackgroundLoop, ...] = (
        BackgroundLoop("reconciler", Reconciler(jobs, live, queue).run, interval_s=RECONCILE_S),
        retention_loop,
        BackgroundLoop("notifications", notifier.run, interval_s=NOTIFY_S),
        BackgroundLoop("memory", trim_heap, interval_s=TRIM_S),
    )
    ingest_loop = None
    if settings.ingest_scoring:
        ingest_loop = BackgroundLoop("ingest scoring", scoring.run, interval_s=INTERVAL_S)
        loops = (*loops, ingest_loop)
    batch_control = BatchControl(blobs, batches, batch_queue)
    loops = (*loops, BackgroundLoop("batches", batch_control.queue_lost, interval_s=BATCH_RECONCILE_S))
    rates = RateLimits(settings.redis_url)
    if is_object_store(settings.blobs_url):
        renew = Installation(blobs, redis).renew
        loops = (*loops, BackgroundLoop("installation", renew, interval_s=RENEW_S))
    share = _KEYS_SHARE_OF_STREAMS if settings.api_keys_file else 1.0
    streams = Streams(redis, Limits(settings.max_streams, settings.max_stream_bytes, share))
    watermark = DiskWatermark(blobs, settings.data_dir, settings.min_free_bytes)
    return Services(
        settings=settings,
        blobs=blobs,
        redis=redis,
        corpora=Corpora(blobs),
        jobs=jobs,
        models=models,
        aliases=AliasControl(models, calibrations, engines),
        calibrations=calibrations,
        streams=streams,
        ingest=Ingest(ingest_streams, models, calibrations, rolling_lines, ingest_settings),
        ingest_loop=ingest_loop,
        batches=batches,
        batch_control=batch_control,
        alerts=alerts,
        notification_targets=targets,
        outbox=outbox,
        notifier=notifier,
        live=live,
        event_log=event_log,
        queue=queue,
        job_control=JobControl(blobs, jobs, live, queue, redis),
        job_bodies=JobBodies(live, queue),
        engines=engines,
        default_model=DefaultModel(models, settings.default_model),
        loops=loops,
        metrics=Metrics(
            jobs=jobs,
            live=live,
            models=models,
            queue=queue,
            engines=engines,
            rates=rates,
            data_dir=settings.data_dir,
            loops=loops,
            ingest=ingest_streams,
            alerts=alerts,
            outbox=outbox,
            rolling=rolling_lines,
            batches=batches,
            keys=keys,
        ),
        readiness=ReadinessCheck(
            blobs=blobs,
            redis=redis,
            queue=queue,
            batch_queue=batch_queue,
            loops=loops,
            keys=keys,
            watermark=watermark,
            kernels_loaded=kernels_loaded,
        ),
        keys=keys,
        rates=rates,
        concurrency=ConcurrencyLimits(settings.redis_url),
        watermark=watermark,
        connections=Connections(
            max_connections=settings.max_connections,
            header_timeout_s=settings.header_timeout_s,
            max_unread_bytes=settings.body_memory_bytes,
        ),
        body_memory=BodyMemory(limit_bytes=settings.body_memory_bytes),
        downloads=DownloadPlaces(_DOWNLOADS),
        stopping=stopping,
        score_threads=anyio.CapacityLimiter(_SCORE_THREADS),
        line_threads=anyio.CapacityLimiter(_LINE_THREADS),
        document_threads=anyio.CapacityLimiter(_DOCUMENT_THREADS),
        parse_threads=anyio.CapacityLimiter(_PARSE_THREADS),
        ingest_threads=anyio.CapacityLimiter(_INGEST_THREADS),
        long_prompts=LimitedWork("long prompts", running=2, waiting=64, retry_after_s=5),
        long_scores=LimitedWork("long scores", running=2, waiting=32, retry_after_s=5),
        calibrating=LimitedWork("calibrations", running=2, waiting=4, retry_after_s=30),
        evaluating=LimitedWork("evaluations", running=1, waiting=2, retry_after_s=30, code="evaluation_busy"),
        importing=LimitedWork(
            "imports of models", running=1, waiting=4, retry_after_s=30, code="import_busy"
        ),
        stream_locks=StreamLocks(streams),
        job_feeds=Feeds(
            partial(JobEventSource, jobs, event_log, live), threads=feed_threads, is_stopping=stopping.is_set
        ),
        flagged_feeds=Feeds(
            partial(FlaggedSource, ingest_streams.flagged), threads=feed_threads, is_stopping=stopping.is_set
        ),
        feed_threads=feed_threads,
        health_threads=anyio.CapacityLimiter(_HEALTH_THREADS),
    )


def _ingest_streams(settings: ApiSettings) -> IngestStreams:
    # No command is repeated: what broke the connection may have come after the lines were added.
    redis = Redis.from_url(
        settings.redis_url,
        socket_timeout=FSYNC_WAIT_S + REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=1,
    )
    limits = IngestLimits(settings.max_ingest_lines, settings.max_ingest_bytes)
    return IngestStreams(redis, limits, repeat_s=settings.ingest_repeat_s)


def _configured_targets(settings: ApiSettings) -> list[NotificationTarget]:
    targets = []
    if settings.alertmanager_url:
        targets.append(configured_target("alertmanager", settings.alertmanager_url))
    if settings.webhook_url:
        fields = {"secret": settings.webhook_secret or None, "events": settings.event_types}
        targets.append(configured_target("webhook", settings.webhook_url, **fields))
    return targets
