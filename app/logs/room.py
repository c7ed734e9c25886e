"""Logs: ingestion of the lines of log agents, alerts, notifications.

While a name has a version, the alerts of its model stay with it. Then they are deleted or moved; both can be
repeated, so that the retention sweep completes what a killed process has begun.

Metrics of ingestion, alerts and notifications, read from Redis: each process reports the same.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial

from prometheus_client.core import Metric
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from nextchar.app.http.limits import FEEDS
from nextchar.app.http.services import Services
from nextchar.app.logs.alerts import routes as alert_routes
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.configuration import LogSettings
from nextchar.app.logs.ingest import routes as ingest_routes
from nextchar.app.logs.ingest.acceptance import Ingest
from nextchar.app.logs.ingest.kept_lines import FlaggedFeeds, FlaggedSource
from nextchar.app.logs.ingest.line_scoring import INTERVAL_S, IngestScoring
from nextchar.app.logs.ingest.records import IngestLimits
from nextchar.app.logs.ingest.schemas import IngestStatusBody
from nextchar.app.logs.ingest.stream import FSYNC_WAIT_S, IngestStreams
from nextchar.app.logs.notifications import routes as notification_routes
from nextchar.app.logs.notifications.events import Events
from nextchar.app.logs.notifications.notifier import Notifier
from nextchar.app.logs.notifications.outbox import Outbox
from nextchar.app.logs.notifications.targets import NotificationTarget, NotificationTargets, configured_target
from nextchar.app.models.engines import Engines
from nextchar.app.models.names import ModelFollowers
from nextchar.app.operations.metrics import Collected, Metrics, counter, gauge
from nextchar.app.operations.retention import Retention
from nextchar.app.room import Folder, RedisKeys, Room
from nextchar.app.scoring.earlier_lines import EarlierLines
from nextchar.app.scoring.scored_lines import ScoredLines
from nextchar.store.background import BackgroundLoop
from nextchar.store.models import Models
from nextchar.store.queue import REDIS_TIMEOUT_S


def ingest_metrics(ingest: IngestStreams) -> Iterator[Metric]:
    """Yield what Redis counts of the lines of log agents, for all processes."""
    statuses = {model: ingest.status(model) for model in ingest.models()}
    yield counter(
        "nextchar_ingest_lines",
        "Lines of log agents since the first, in all processes together.",
        {(model, name): count for model, one in statuses.items() for name, count in one.counts.items()},
        "model",
        "outcome",
    )
    for name, about, read in _OF_WAITING_LINES:
        values = {(model,): read(one) for model, one in statuses.items()}
        yield gauge(f"nextchar_ingest_{name}", about, values, "model")
    flagged = {(model,): size for model, size in ingest.flagged.bytes().items()}
    about = "Memory in Redis of flagged lines for live views."
    yield gauge("nextchar_ingest_flagged_bytes", about, flagged, "model")


_OF_WAITING_LINES: tuple[tuple[str, str, Callable[[IngestStatusBody], float]], ...] = (
    ("waiting_lines", "Lines of log agents that wait to be scored.", lambda one: one.waiting),
    ("waiting_bytes", "Their memory in Redis.", lambda one: one.bytes),
    ("oldest_seconds", "For how long the oldest of them has waited.", lambda one: one.oldest_age_s or 0.0),
)


def alert_metrics(alerts: Alerts, outbox: Outbox) -> Iterator[Metric]:
    """Yield the counters of alerts and notifications."""
    (lines, opened), outcomes = alerts.totals(), outbox.outcomes()
    of = ("model", "severity")
    yield counter("nextchar_alert_lines", "Flagged lines recorded in alerts.", lines, *of)
    yield counter("nextchar_alerts_opened", "Alerts, by their first line's severity.", opened, *of)
    evicted = {(model,): count for model, count in alerts.evictions().items()}
    about = "Alerts that were evicted because there were too many."
    yield counter("nextchar_alerts_evicted", about, evicted, "model")
    about = "Requests to notification targets."
    yield counter("nextchar_notifications", about, outcomes, "target", "outcome")
    failing = {(target,): outbox.health(target).is_failing for target, _ in outcomes}
    about = "1 if the last request to the notification target failed."
    yield gauge("nextchar_notifications_failing", about, failing, "target")


NOTIFY_S = 5.0

_FINISH_LINES_S = 3.0

log = logging.getLogger("nextchar.retention")


def _open(services: Services) -> None:
    settings, redis, blobs = services.settings_of(LogSettings), services.redis, services.blobs
    alerts = Alerts(redis, blobs)
    streams = _streams(services, settings)
    ingest = Ingest(streams, services.models, services.calibrations)
    services.add(alerts)
    services.add(ingest)
    services.add(
        EarlierLines(
            alerts.labels, alerts.record, alerts.labeled_lines, ingest.recent_lines, ingest.calibrated
        )
    )
    services.add(
        FlaggedFeeds(
            lambda model: FlaggedSource(streams.flagged, model),
            threads=services.pools.limiter(FEEDS),
            is_stopping=services.stopping.is_set,
        )
    )
    services[ModelFollowers].append(lambda name: follow_model(services.models, alerts, name))
    services[Retention].add("alerts of former models", lambda _: former_models(services.models, alerts))
    outbox = _add_notifications(services, settings, alerts)
    services[Metrics].register(Collected(partial(ingest_metrics, streams)))
    services[Metrics].register(Collected(partial(alert_metrics, alerts, outbox)))
    if settings.ingest_scoring:
        scoring = IngestScoring(
            streams,
            services[Engines],
            services.calibrations,
            alerts,
            services[ScoredLines],
            services.stopping,
            retention_s=settings.ingest_retention_hours * 3600,
            claim_after_s=settings.ingest_takeover_s,
        )
        loop = BackgroundLoop(
            "ingest scoring",
            scoring.run,
            interval_s=INTERVAL_S,
            effect="lines of log agents wait to be scored",
        )
        services.loops.append(loop)
        services.closes(lambda: loop.stop(_FINISH_LINES_S))  # or what it has taken waits to be taken over


def _add_notifications(services: Services, settings: LogSettings, alerts: Alerts) -> Outbox:
    outbox = services.add(Outbox(services.redis))
    notifier = services.add(
        Notifier(
            alerts,
            services.add(NotificationTargets(services.blobs, _configured_targets(settings))),
            outbox,
            Events(services.blobs, services.jobs, services.models),
            quiet_s=settings.alert_quiet_s,
            allow_private=settings.allow_private_targets,
            console_url=settings.console_url,
        )
    )
    services.closes(notifier.close)
    effect = "alerts are not reported to webhooks and Alertmanagers"
    services.loops.append(BackgroundLoop("notifications", notifier.run, interval_s=NOTIFY_S, effect=effect))
    return outbox


def _streams(services: Services, settings: LogSettings) -> IngestStreams:
    # No command is repeated: what broke the connection may have come after the lines were added.
    redis = services.connect(
        socket_timeout=FSYNC_WAIT_S + REDIS_TIMEOUT_S, retry=Retry(NoBackoff(), 0), health_check_interval=1
    )
    limits = IngestLimits(settings.max_ingest_lines, settings.max_ingest_bytes)
    return IngestStreams(redis, limits, repeat_s=settings.ingest_repeat_s)


def _configured_targets(settings: LogSettings) -> list[NotificationTarget]:
    targets = []
    if settings.alertmanager_url:
        targets.append(configured_target("alertmanager", settings.alertmanager_url))
    if settings.webhook_url:
        fields = {"secret": settings.webhook_secret or None, "events": settings.event_types}
        targets.append(configured_target("webhook", settings.webhook_url, **fields))
    return targets


def follow_model(models: Models, alerts: Alerts, name: str) -> bool:
    """Delete or move what belongs to a name if it has no version any more; return whether it did.

    Raises redis.exceptions.RedisError, and as Blobs does.
    """
    if not models.is_deleted(name):
        return False
    renamed = models.renamed_to(name)
    if renamed is None:
        alerts.delete_all(name)
    else:
        alerts.move_all(name, renamed.name, renamed.version)
    return True


def former_models(models: Models, alerts: Alerts) -> int:
    """Delete or move what belongs to names whose deletion or renaming was interrupted; return their number.

    Raises redis.exceptions.RedisError, and as Blobs does.
    """
    names = alerts.decisions.models()
    try:
        names |= alerts.models()
    except RedisError as error:
        log.info("alerts without decisions are not swept while Redis does not respond: %s", error)
    return sum(follow_model(models, alerts, name) for name in names)


_MOVING = ("alert_suppressions", "alert_decisions")

LOGS = Room(
    "logs",
    _open,
    (ingest_routes.router, alert_routes.overview_router, alert_routes.router, notification_routes.router),
    LogSettings,
    folders=(
        Folder("notification_targets"),
        *(Folder(name, ["model_cards"], moves=True) for name in _MOVING),
    ),
    redis_keys=RedisKeys(
        # In this order: a waiting line that is flagged during a backup is in it twice, and so not lost.
        ("nextchar:ingest:*", "nextchar:alert*", "nextchar:notifications:*"),
        not_copied=("nextchar:notifications:lease",),
        made_at_start=("nextchar:notifications:records",),
    ),
)
