"""What logs keep of a model: earlier lines, for scoring; and what is deleted or moved with it.

Alerts and ingest settings stay with a name while it has a version. Deleting or moving them can be repeated,
so that the retention sweep completes what a killed process has begun.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.acceptance import Ingest
from nextchar.app.logs.ingest.records import IngestSettings
from nextchar.app.scoring.earlier_lines import EarlierLines
from nextchar.models.anomaly.alerts import AlertLabel, Occurrence
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


@dataclass
class RecordedLines(EarlierLines):
    """The alerts and the ingested lines. Blocking."""

    alerts: Alerts
    ingest: Ingest

    def labels(self, model: str) -> Mapping[str, AlertLabel]:
        """Return the labels of a model's alerts, by the ids of these."""
        return self.alerts.labels(model)

    def record(self, occurrences: Sequence[Occurrence]) -> None:
        """Record flagged lines in alerts."""
        self.alerts.record(occurrences)

    def labeled_lines(self, model: str) -> Sequence[tuple[str, bool]]:
        """Return the example lines of labeled alerts, in the order of arrival, and which are of incidents."""
        return self.alerts.labeled_lines(model)

    def recent(self, model: str) -> Sequence[bytes]:
        """Return the newest lines of log agents. Raises InvalidInput: there are none."""
        return self.ingest.recent_lines(model)

    def calibrated(self, model: str, model_id: str, calibration: str, *, on_recent: bool) -> None:
        """Note that a calibration is replaced, `on_recent` lines or on others."""
        self.ingest.calibrated(model, model_id, calibration, on_recent=on_recent)
