"""The retention of a service with all rooms, on storages and a Redis that a test chooses."""

from functools import partial
from pathlib import Path

from redis import Redis

from nextchar.app.access.audit import delete_before
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.room import former_models
from nextchar.app.openai.batch_control import delete_due, used_corpora
from nextchar.app.openai.batches import Batches
from nextchar.app.operations.retention import Retention, RetentionSettings
from nextchar.store.blobs import Blobs
from nextchar.store.jobs import Jobs
from nextchar.store.models import Models


def retention_of(
    blobs: Blobs,
    redis: Redis,
    periods: RetentionSettings,
    *,
    jobs: Jobs | None = None,
    alerts: Alerts | None = None,
    spool: Path | None = None,
) -> Retention:
    retention = Retention(blobs, jobs or Jobs(blobs), periods, spool=spool)
    batches, alerts = Batches(blobs, redis), alerts or Alerts(redis, blobs)
    models = Models(blobs)
    retention.add("audit entries", lambda now: delete_before(blobs, periods.audit_retention_days, now))
    retention.add("alerts of former models", lambda _: former_models(models, alerts))
    retention.add("batches", lambda now: delete_due(batches, blobs, periods.job_retention_days, now))
    retention.corpus_users.append(partial(used_corpora, batches, blobs))
    return retention
