"""What is known of lines that a model has scored before: nothing, unless a room of the service keeps it."""

from collections.abc import Mapping, Sequence

from nextchar.models.anomaly.alerts import AlertLabel, Occurrence
from nextchar.models.errors import InvalidInput


class EarlierLines:
    """The base class, which keeps nothing. Blocking."""

    def labels(self, model: str) -> Mapping[str, AlertLabel]:  # noqa: ARG002
        """Return the labels of a model's alerts, by the ids of these."""
        return {}

    def record(self, occurrences: Sequence[Occurrence]) -> None:  # noqa: ARG002
        """Record flagged lines in alerts. Raises InvalidInput: this service keeps none."""
        raise InvalidInput("this service keeps no alerts", param="alerts")

    def labeled_lines(self, model: str) -> Sequence[tuple[str, bool]]:  # noqa: ARG002
        """Return the example lines of labeled alerts, in the order of arrival, and which are of incidents."""
        return ()

    def recent(self, model: str) -> Sequence[bytes]:  # noqa: ARG002
        """Return the newest lines of log agents. Raises InvalidInput: there are none."""
        raise InvalidInput("this service takes no lines of log agents", param="ingested")

    def calibrated(self, model: str, model_id: str, calibration: str, *, on_recent: bool) -> None:
        """Note that a calibration is replaced, `on_recent` lines or on others."""
