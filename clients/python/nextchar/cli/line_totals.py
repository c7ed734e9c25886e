"""Counts of scored lines, and the sentences about what happens meanwhile: drift, another model, an outage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_DRIFT_LINES, _DRIFT_SHARE = 100, 0.3  # as in models/anomaly/drift.py


@dataclass
class Totals:
    """Counts of the lines scored so far, and the last `score.start` record of the service.

    `notify` takes sentences for the user; `patience_s` is how long lines are sent again in an outage.
    """

    notify: Callable[[str], None]
    patience_s: float
    lines: int = 0
    anomalous: int = 0
    repeated: int = 0  # further lines like flagged ones
    not_utf8: int = 0
    truncated: int = 0
    unusual: int = 0  # lines that score like the top 10% of the calibration's
    has_reported_drift: bool = False
    start: Mapping[str, Any] = field(default_factory=dict)
    _scored: int = 0  # lines of the present request

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record of `Client.score_source`."""
        match record["object"]:
            case "score.start":
                if self.start and self.start["model"] != record["model"]:
                    self.notify(f"{record['model']} now scores instead of {self.start['model']}")
                self.start, self._scored = record, 0
            case "score.end":
                self._add_lines(record["lines"])
                self.unusual += record.get("unusual", 0)
                self.repeated += record.get("repeated", 0)
                self._report_drift()
            case "outage.start":
                count = f"{record['lines']:,} line{'s wait' if record['lines'] != 1 else ' waits'}"
                self.notify(f"{record['error']}; {count}, retrying for {self.patience_s:g} s")
            case "outage.end":
                self.notify(f"the service is back after {record['seconds']:.1f} s")
            case _:
                self._add_lines(record["line"])
                self.anomalous += bool(record.get("anomalous"))
                self.not_utf8 += "not_utf8" in record
                self.truncated += "truncated" in record

    def _add_lines(self, scored: int) -> None:
        self.lines += scored - self._scored
        self._scored = scored

    def _report_drift(self) -> None:
        """Report drift once: by the service's rule, over all batches, since one may be small."""
        if self.has_reported_drift or self.lines < _DRIFT_LINES or self.unusual <= _DRIFT_SHARE * self.lines:
            return
        self.has_reported_drift = True
        model = self.start.get("model", "MODEL").partition("@")[0]
        self.notify(
            f"these lines don't look like the calibration data: {self.unusual / self.lines:.0%} of them are"
            " as unusual as its most unusual 10%; expect more false alarms than you asked for. If these lines"
            f" are normal, calibrate on recent ones: nextchar calibrate {model} FILE"
        )
