"""Logs: ingestion of the lines of log agents, alerts, rolling calibrations, notifications.

While a name has a version, the alerts and ingest settings of its model stay with it. Then they are deleted or
moved; both can be repeated, so that the retention sweep completes what a killed process has begun.
"""

import logging

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from nextchar.app.http.services import REDIS_TIMEOUT_S, Services
from nextchar.app.logs.alerts import routes as alert_routes
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.configuration import LogSettings
from nextchar.app.logs.ingest import routes as ingest_routes
from nextchar.app.logs.ingest.acceptance import Ingest, IngestThreads
from nextchar.app.logs.ingest.kept_lines import FlaggedFeeds, FlaggedSource
from nextchar.app.logs.ingest.line_scoring import INTERVAL_S, IngestScoring
from nextchar.app.logs.ingest.recalibration import Recalibration, RollingLines
from nextchar.app.logs.ingest.records import IngestLimits, IngestSettings
from nextchar.app.logs.ingest.stream import FSYNC_WAIT_S, IngestStreams
from nextchar.app.logs.metrics import AlertCollector, IngestCollector
from nextchar.app.logs.notifications import routes as notification_routes
from nextchar.app.logs.notifications.events import Events
from nextchar.app.logs.notifications.notifier import Notifier
from nextchar.app.logs.notifications.outbox import Outbox
from nextchar.app.logs.notifications.targets import NotificationTarget, NotificationTargets, configured_target
from nextchar.app.models.engines import Engines
from nextchar.app.models.names import ModelFollowers
from nextchar.app.operations.metrics import Metrics
from nextchar.app.operations.retention import Retention
from nextchar.app.room import Folder, RedisKeys, Room
from nextchar.app.scoring.earlier_lines import EarlierLines
from nextchar.store.background import BackgroundLoop
from nextchar.store.models import Models

NOTIFY_S = 5.0

_FINISH_LINES_S = 3.0

log = logging.getLogger("nextchar.retention")


def _open(services: Services) -> None:
    settings, redis, blobs = services.settings_of(LogSettings), services.redis, services.blobs
    alerts, rolling, records = Alerts(redis, blobs), RollingLines(redis), IngestSettings(blobs)
    streams = _streams(services, settings)
    ingest = Ingest(streams, services.models, services.calibrations, rolling, records)
    services.add(alerts)
    services.add(ingest)
    services.add(
        EarlierLines(
            alerts.labels, alerts.record, alerts.labeled_lines, ingest.recent_lines, ingest.calibrated
        )
    )
    services.add(IngestThreads())
    services.add(
        FlaggedFeeds(
            lambda model: FlaggedSource(streams.flagged, model),
            threads=services.feed_threads,
            is_stopping=services.stopping.is_set,
        )
    )
    services[ModelFollowers].append(lambda name: follow_model(services.models, alerts, records, name))
    services[Retention].add(
        "alerts of former models", lambda _: former_models(services.models, alerts, records)
    )
    outbox = _add_notifications(services, settings, alerts)
    services[Metrics].register(IngestCollector(streams, rolling))
    services[Metrics].register(AlertCollector(alerts, outbox))
    if settings.ingest_scoring:
        scoring = IngestScoring(
            streams,
            services[Engines],
            services.calibrations,
            alerts,
            Recalibration(services.calibrations, alerts, rolling, records),
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
            services.add(
                NotificationTargets(services.blobs, _configured_targets(settings), redis=services.redis)
            ),
            outbox,
            Events(services.blobs, services.jobs, services.models),
            quiet_s=settings.alert_quiet_s,
            allow_private=settings.allow_private_targets,
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


def follow_model(models: Models, alerts: Alerts, settings: IngestSettings, name: str) -> bool:
    """Delete or move what belongs to a name if it has no version any more; return whether it did.

    Raises redis.exceptions.RedisError, and as Blobs does.
    """
    if not models.is_deleted(name):
        return False
    renamed = models.renamed_to(name)
    if renamed is None:
        alerts.delete_all(name)
        settings.delete_all(name)
    else:
        alerts.move_all(name, renamed.name, renamed.version)
        settings.move_all(name, renamed.name)
    return True


def former_models(models: Models, alerts: Alerts, settings: IngestSettings) -> int:
    """Delete or move what belongs to names whose deletion or renaming was interrupted; return their number.

    Raises redis.exceptions.RedisError, and as Blobs does.
    """
    names = alerts.decisions.models() | settings.models()
    try:
        names |= alerts.models()
    except RedisError as error:
        log.info("alerts without decisions are not swept while Redis does not respond: %s", error)
    return sum(follow_model(models, alerts, settings, name) for name in names)


_MOVING = ("alert_suppressions", "alert_decisions", "ingest_settings")

LOGS = Room(
    "logs",
    _open,
    (ingest_routes.router, alert_routes.router, notification_routes.router),
    LogSettings,
    folders=(
        Folder("notification_targets"),
        *(Folder(name, ["model_cards"], moves=True) for name in _MOVING),
    ),
    redis_keys=RedisKeys(
        # In this order: a waiting line that is flagged during a backup is in it twice, and so not lost.
        ("nextchar:ingest:*", "nextchar:alert*", "nextchar:notifications:*", "nextchar:rolling:*"),
        not_copied=(b"nextchar:notifications:lease",),
        made_at_start=(b"nextchar:notifications:records",),
    ),
)
