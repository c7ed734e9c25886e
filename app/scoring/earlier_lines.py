"""What is known of lines that a model has scored before, and the occurrences among them that are recorded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nextchar.app.http.threads import current_key
from nextchar.models.anomaly.alerts import AlertLabel, Occurrence
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer, Judged
from nextchar.models.errors import InvalidInput


def _no_alerts(_: Sequence[Occurrence]) -> None:
    raise InvalidInput("this service keeps no alerts", param="alerts")


def _no_lines(_: str) -> Sequence[bytes]:
    raise InvalidInput("this service takes no lines of log agents", param="ingested")


@dataclass(frozen=True)
class EarlierLines:
    """Blocking functions of what is known of earlier lines: nothing, unless a room of the service keeps it.

    Attributes:
        labels: returns the labels of a model's alerts, by the ids of these.
        record: records flagged lines in alerts. Raises InvalidInput: this service keeps none.
        labeled_lines: returns the example lines of labeled alerts of a model, in the order of arrival, and
            which are of incidents.
        recent: returns the newest lines of log agents for a model. Raises InvalidInput: there are none.
        calibrated: notes that a calibration of a model is replaced, `on_recent` lines or on others.
    """

    labels: Callable[[str], Mapping[str, AlertLabel]] = lambda _: {}
    record: Callable[[Sequence[Occurrence]], object] = _no_alerts
    labeled_lines: Callable[[str], Sequence[tuple[str, bool]]] = lambda _: ()
    recent: Callable[[str], Sequence[bytes]] = _no_lines
    calibrated: Callable[..., None] = lambda *_, on_recent: None  # noqa: ARG005

    def record_rare(self, scorer: CalibratedScorer, rare: Sequence[Judged], *, source: str) -> None:
        """Record lines of this request that are flagged or repeats. Raises as `record`."""
        owner = current_key()
        self.record([scorer.occurrence(one, source=source, owner=owner) for one in rare])
