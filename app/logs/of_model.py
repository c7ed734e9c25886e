"""Deletes or moves the alerts and ingest settings of a model with the last version of its name.

While a name has a version, they stay with it. Both steps can be repeated, so that the retention sweep
completes what a killed process has begun.
"""

import logging

from redis.exceptions import RedisError

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.records import IngestSettings
from nextchar.store.models import Models

log = logging.getLogger("nextchar.retention")


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
