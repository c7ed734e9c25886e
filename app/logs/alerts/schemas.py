"""Alerts, and the decisions on them, as they are sent: as bodies and as CSV. Times are Unix seconds."""

import csv
import io
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextchar.app.http.schemas import Page, RequestBody, Shape, with_examples
from nextchar.app.logs.alerts.alerts import Alert, AlertState
from nextchar.app.logs.alerts.decisions import AlertLines, Suppression
from nextchar.models.anomaly.alerts import Label, Severity

MAX_UNTIL = 253_402_300_799  # the end of the year 9999

EXAMPLE_ALERT: dict[str, Any] = {
    "id": "alert_7d3c9a64e2b8f0a15c6d7e80",
    "object": "alert",
    "model": "sshd",
    "version": 2,
    "state": "open",
    "severity": "warning",
    "label": None,
    "title": "Invalid user »webmaster« from 173.234.31.186",
    "template": "Invalid user <*> from <*>",
    "span": "2:<*>",
    "count": 212,
    "first_seen": 1795563600.0,
    "last_seen": 1795563721.5,
    "first_line_time": 1795563598.0,
    "last_line_time": 1795563720.0,
    "score": 17.42,
    "p_value": 0.00061,
    "estimated_p_value": 0.00061,
    "interval_s": 60.0,
    "counts": [3, 90, 119],
    "examples": [],
    "sources": ["web-1"],
    "acknowledged_at": None,
    "acknowledged_by": None,
    "labeled_at": None,
    "labeled_by": None,
    "suppressed_until": None,
    "label_values": None,
    "runbook": None,
}


EXAMPLE_SUPPRESSION: dict[str, Any] = {
    "id": "suppression_019ac5f2b303f6a1c2d4e5",
    "object": "suppression",
    "model": "sshd",
    "template": "Invalid user *",
    "span": "*",
    "until": 1798761600.0,
    "is_active": True,
    "created_at": 1795563600.0,
    "created_by": "ann",
    "alert_id": None,
    "values": None,
    "runbook": None,
    "warning": None,
}


class AroundBody(BaseModel):
    """An event that an agent has sent, and up to three events of its source before and after it."""

    before: list[str] = Field(description="The oldest first; each event's first 300 characters.")
    line: str
    after: list[str]


class AlertBody(AlertLines):
    """The flagged lines of a model that have the same template and the same anomalous word."""

    model_config = with_examples(EXAMPLE_ALERT, json_schema_serialization_defaults_required=False)

    object: Literal["alert"] = "alert"
    state: AlertState
    """`acknowledged` once it was acknowledged or labeled; `suppressed`: counted, but not
    reported."""
    severity: Severity
    """From `estimated_p_value`: `critical` up to 0.0001, `warning` up to 0.001, else `info`."""
    label: Label | None
    title: str
    """The rarest line as it was written, with its most anomalous part between » and «; of a long line what is
    around that."""
    estimated_p_value: float
    """The p-value, estimated also below 1 / (n + 1), the lowest with n calibration lines."""
    acknowledged_at: float | None
    acknowledged_by: str | None = Field(description="The name of the API key, if keys are required.")
    labeled_at: float | None
    labeled_by: str | None
    suppressed_until: float | None
    label_values: list[str] | None = None
    """With label `normal`, the values that have it; null: all lines have it."""
    runbook: str | None = Field(None, description="The address of instructions, of a label or a suppression.")
    around: AroundBody | None = None
    """The newest flagged event that an agent sent, among others; null in lists."""


class AlertPage(Page[AlertBody]):
    """A page of alerts, most recently seen first."""

    evicted: int
    """Alerts of the model that were deleted so far because there were too many: the least severe ones, of
    these the least recently seen."""


class AlertOverview(BaseModel):
    """The open alerts of all models."""

    model_config = with_examples(
        {
            "object": "alert_overview",
            "open": {"critical": 0, "warning": 1, "info": 0},
            "data": [EXAMPLE_ALERT],
            "scored_last_hour": 48210,
        }
    )

    object: Literal["alert_overview"] = "alert_overview"
    open: dict[Severity, int] = Field(description="Open alerts by severity.")
    data: list[AlertBody] = Field(description="The most severe open alerts, of these the rarest first.")
    scored_last_hour: int = Field(description="Lines that were scored in calls or for log agents.")


class AlertValueBody(BaseModel):
    """The lines of an alert that have the same anomalous values, such as one user or one path."""

    model_config = ConfigDict(from_attributes=True)

    value: str = Field(description="The anomalous words that stand where the template has `<*>`.")
    count: int
    score: float = Field(description="The highest score of its lines.")
    estimated_p_value: float = Field(validation_alias="estimated_p")
    line: str = Field(description="Its rarest line; the first 300 characters.")


EXAMPLE_VALUE: dict[str, Any] = {
    "value": "webmaster",
    "count": 180,
    "score": 17.42,
    "estimated_p_value": 0.00061,
    "line": "Invalid user webmaster from 173.234.31.186",
}


class CoverageBody(Shape):
    """What a label or a suppression of an alert covers, and what it leaves."""

    model_config = with_examples(
        {"object": "alert.coverage", "covered": [EXAMPLE_VALUE], "others": [], "other_lines": 32}
    )

    object: Literal["alert.coverage"] = "alert.coverage"
    covered: list[AlertValueBody] = Field(description="The highest scores first.")
    others: list[AlertValueBody] = Field(description="What stays as it is.")
    other_lines: int
    """Lines with other values, of which an alert keeps the 50 rarest: they stay as they are, unless all
    values are covered."""


Values = Annotated[
    list[Annotated[str, Field(max_length=200)]],
    Field(
        max_length=50,
        description="The values of the alert's lines that are covered, of those that the preview lists."
        " Default: that of the line in the title.",
    ),
]
AllValues = Annotated[bool, Field(description="Cover all lines of the alert, also future ones.")]
Runbook = Annotated[
    str,
    Field(
        pattern=r"^https?://\S+$",
        max_length=500,
        description="The address of instructions, which webhooks and Alertmanagers get with the alert.",
    ),
]


class Covering(RequestBody):
    """Which lines of an alert a decision covers."""

    values: Values | None = None
    all_values: AllValues = False
    runbook: Runbook | None = None

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if self.all_values and self.values is not None:
            raise ValueError("give values or all_values, not both")
        return self


Until = Annotated[
    float,
    Field(
        gt=0,
        le=MAX_UNTIL,
        allow_inf_nan=False,
        strict=False,
        description="Until when, in Unix seconds; in the future.",
    ),
]


class _Suppress(RequestBody):
    until: Until

    @model_validator(mode="after")
    def _check_until(self) -> Self:
        if self.until <= time.time():
            raise ValueError("until must be in the future")
        return self


class SuppressAlert(_Suppress, Covering):
    """Until when an alert is suppressed, and which of its lines."""

    model_config = with_examples({"until": 1798761600}, {"until": 1798761600, "all_values": True})


class SuppressionCreate(_Suppress):
    """A suppression by patterns."""

    model_config = with_examples({"template": "Invalid user *", "span": "*", "until": 1798761600})

    template: str = Field(min_length=1, max_length=1000)
    """Suppresses alerts whose template matches. `*` stands for any text, except in `<*>`."""
    span: str = Field("*", min_length=1, max_length=200, description="Likewise for the anomalous word.")
    runbook: Runbook | None = None


class SuppressionBody(Suppression):
    """A suppression: alerts that match it are counted but not reported until it ends."""

    model_config = with_examples(EXAMPLE_SUPPRESSION)

    object: Literal["suppression"] = "suppression"
    is_active: bool = Field(description="Whether it has not ended.")
    warning: str | None = Field(description="Set if it suppresses every alert of the model.")


class LabelAlert(Covering):
    """What an alert is, and with `normal` which of its lines are."""

    model_config = with_examples(
        {"label": "normal"}, {"label": "normal", "values": ["webmaster"]}, {"label": None}
    )

    label: Label | None
    """`normal` lowers the score of the lines that it covers from now on; `incident` is only noted; null
    withdraws the label."""


class AlertsExport(BaseModel):
    """All alerts of a model, with all that people say of them, and its suppressions."""

    model_config = with_examples(
        {
            "object": "alerts_export",
            "model": "sshd",
            "alerts": [EXAMPLE_ALERT],
            "suppressions": [EXAMPLE_SUPPRESSION],
        }
    )

    object: Literal["alerts_export"] = "alerts_export"
    model: str
    alerts: list[AlertBody]
    suppressions: list[SuppressionBody]


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
        **alert.figures.model_dump(include=set(AlertLines.model_fields)),
        title=alert.title,
        state=alert.state,
        severity=alert.severity,
        estimated_p_value=alert.estimated_p,
        label=alert.label,
        **{name: getattr(alert.decision, name, None) for name in _OF_DECISION},
        suppressed_until=alert.suppressed_until,
        label_values=sorted(values) if (values := alert.label_values) is not None else None,
        runbook=alert.runbook,
    )


def coverage_body(alert: Alert, values: Sequence[str] | None) -> CoverageBody:
    """Return what a decision on these values of an alert covers; None: on all."""
    covered: list[AlertValueBody] = []
    others: list[AlertValueBody] = []
    for one in alert.figures.values:
        is_covered = values is None or one.value in values
        (covered if is_covered else others).append(AlertValueBody.model_validate(one))
    kept = sum(one.count for one in alert.figures.values)
    other_lines = 0 if values is None else alert.figures.count - kept
    return CoverageBody(covered=covered, others=others, other_lines=other_lines)


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
