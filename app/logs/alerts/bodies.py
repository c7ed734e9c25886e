"""Alerts as they are sent: as bodies of responses and as CSV."""

import csv
import io
import time
from collections.abc import Sequence
from typing import Any

from nextchar.app.logs.alerts.alerts import Alert
from nextchar.app.logs.alerts.decisions import Suppression
from nextchar.app.logs.alerts.schemas import AlertBody, AlertsExport, SuppressionBody

_CSV_COLUMNS = (
    *("id", "model", "version", "state", "severity", "label", "template", "span", "count"),
    *("first_seen", "last_seen", "first_line_time", "last_line_time", "score", "p_value"),
    *("acknowledged_at", "acknowledged_by", "labeled_at", "labeled_by", "suppressed_until"),
    *("sources", "example"),
)

_OF_DECISION = ("acknowledged_at", "acknowledged_by", "labeled_at", "labeled_by")


def alert_body(alert: Alert) -> AlertBody:
    """Return an alert as it is sent."""
    return AlertBody(
        **alert.figures.model_dump(exclude={"template_id", "estimated_p", "owner"}),
        state=alert.state,
        severity=alert.severity,
        estimated_p_value=alert.estimated_p,
        label=alert.label,
        **{name: getattr(alert.decision, name, None) for name in _OF_DECISION},
        suppressed_until=alert.suppressed_until,
    )


def suppression_body(suppression: Suppression, alerts: Sequence[Alert] = ()) -> SuppressionBody:
    """Return a suppression as it is sent, with a warning if it matches all of the model's `alerts`."""
    warning = None
    if suppression.matches_everything:
        warning = (
            f"this suppresses every alert of {suppression.model}, including future ones; if that is"
            " not intended, delete it and set a template"
        )
    elif len(alerts) > 1 and all(suppression.matches(a.figures.template, a.figures.span) for a in alerts):
        warning = (
            f"this suppresses all {len(alerts)} alerts that {suppression.model} has now; if that is not"
            " intended, delete it and set a template that says more"
        )
    return SuppressionBody(
        **suppression.model_dump(), is_active=suppression.until > time.time(), warning=warning
    )


def export_json(model: str, alerts: Sequence[Alert], suppressions: Sequence[Suppression]) -> bytes:
    """Return all alerts and suppressions as JSON."""
    export = AlertsExport(
        model=model,
        alerts=list(map(alert_body, alerts)),
        suppressions=list(map(suppression_body, suppressions)),
    )
    return export.model_dump_json().encode()


def export_csv(alerts: Sequence[Alert]) -> bytes:
    """Return a table of alerts, one in a row, each with its most anomalous line.

    A text that a spreadsheet would compute, since it begins with one of `= + - @`, gets a `'` before it.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for alert in alerts:
        body = alert_body(alert)
        fields: dict[str, Any] = body.model_dump()
        fields["sources"] = " ".join(body.sources)
        fields["example"] = body.examples[0].line if body.examples else ""
        writer.writerow([_cell(fields[name]) for name in _CSV_COLUMNS])
    return table.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return f"'{value}"
    return "" if value is None else value
