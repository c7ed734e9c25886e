"""What scoring gets of earlier lines: labels of alerts, and the newest lines of log agents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.acceptance import Ingest
from nextchar.app.scoring.earlier_lines import EarlierLines
from nextchar.models.anomaly.alerts import AlertLabel, Occurrence


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
