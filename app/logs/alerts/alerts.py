"""Alerts: their figures, which are counted in Redis, with the decisions of people on them.

`nextchar.app.logs.alerts.recording` counts them; `nextchar.app.logs.alerts.decisions` keeps decisions in the
blob store.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from redis import Redis

from nextchar.app.logs.alerts.decisions import (
    AlertDecisions,
    AlertFigures,
    Decision,
    Suppression,
    suppressed_until,
)
from nextchar.app.logs.alerts.recording import (
    ALERT,
    ALERTS,
    ALERTS_OF_MODEL,
    ALERTS_OF_OWNER,
    AROUND,
    EVICTED,
    FORGET,
    LINES,
    OPENED,
    TTL_S,
    Limits,
    StreamEntries,
    record,
)
from nextchar.models.anomaly.alerts import (
    AlertKey,
    AlertLabel,
    Label,
    Occurrence,
    Severity,
    severity_of,
    title_of,
)
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.history import ImmutableRecord
from nextchar.store.ids import is_id

AlertState = Literal["open", "acknowledged", "suppressed"]

# ARGV: id, new id, model, new model, version. An alert that the new name has already stays as it is.
_MOVE = f"""
{FORGET}
local old, new, model, to, version = unpack(ARGV)
local recorded = redis.call('zscore', '{ALERTS}', old)
local seen = redis.call('zscore', '{ALERTS_OF_MODEL}' .. model, old)
local is_there = redis.call('exists', '{ALERT}' .. old) == 1 and recorded and seen
if is_there and new ~= '' and redis.call('renamenx', '{ALERT}' .. old, '{ALERT}' .. new) == 1 then
  redis.call('hset', '{ALERT}' .. new, 'model', to, 'version', version)
  redis.call('zadd', '{ALERTS}', recorded, new)
  redis.call('zadd', '{ALERTS_OF_MODEL}' .. to, seen, new)
  local bytes, owner = size_of(old)
  if bytes then resize(new, bytes, owner, redis.call('zscore', '{ALERTS_OF_OWNER}' .. owner, old)) end
end
forget(old, model)
"""


class Alert(ImmutableRecord):
    """An alert with its decision; its fields besides `figures` are explained in `Decision`."""

    figures: AlertFigures
    decision: Decision | None = None
    suppressed_until: float | None = None
    suppression_runbook: str | None = None

    @property
    def id(self) -> str:
        """The id of the alert."""
        return self.figures.id

    @property
    def title(self) -> str:
        """Its rarest line that is not labeled normal, its most anomalous part marked; or its template."""
        if not self.figures.examples:
            return self.figures.template
        open_ones = (example for example in self.figures.examples if not self._has_label(example.value))
        rarest = next(open_ones, self.figures.examples[0])
        span = max(rarest.spans, key=lambda span: span.bits, default=None)
        return title_of(rarest.line, (span.start, span.end) if span else None)

    @property
    def severity(self) -> Severity:
        """The severity of its rarest line."""
        return severity_of(self.estimated_p)

    @property
    def estimated_p(self) -> float:
        """The estimated p-value of its rarest line, or its p-value if there is no estimate."""
        estimated_p = self.figures.estimated_p
        return self.figures.p_value if estimated_p is None else estimated_p

    @property
    def label(self) -> Label | None:
        """The label that a user has set."""
        return self.decision.label if self.decision else None

    @property
    def label_values(self) -> Mapping[str, float] | None:
        """With label `normal`, the values that have it; None: all have, or it has no such label."""
        return self.decision.label_values if self.decision and self.label == "normal" else None

    @property
    def is_normal(self) -> bool:
        """Whether it is labeled normal, with all of its values."""
        values = self.figures.values
        return self.label == "normal" and all(self._has_label(one.value) for one in values)

    @property
    def runbook(self) -> str | None:
        """The address of instructions, of its label or of a suppression."""
        return (self.decision and self.decision.runbook) or self.suppression_runbook

    @property
    def title_value(self) -> str:
        """The value of the line in its title; of those that are kept."""
        known = [one.value for one in self.figures.values]
        shown = [example.value for example in self.figures.examples if not self._has_label(example.value)]
        return next((value for value in shown if value in known), known[0] if known else "")

    def _has_label(self, value: str) -> bool:
        values = self.label_values
        return self.label == "normal" and (values is None or value in values)

    @property
    def state(self) -> AlertState:
        """Whether someone should look at it."""
        if self.suppressed_until is not None:
            return "suppressed"
        is_labeled = self.label == "incident" or self.is_normal
        return "acknowledged" if is_labeled or (self.decision and self.decision.acknowledged_at) else "open"


class Alerts:
    """The alerts of all models: figures in a Redis (with `decode_responses=True`), decisions in a storage.

    Its methods raise redis.exceptions.RedisError, and as Blobs does.
    """

    def __init__(self, redis: Redis, blobs: Blobs, limits: Limits | None = None) -> None:
        self._redis = redis
        self._limits = limits or Limits()
        self.decisions = AlertDecisions(blobs)

    def record(
        self,
        occurrences: Sequence[Occurrence],
        *,
        acknowledge: StreamEntries | None = None,
        recorded_at: float | None = None,
    ) -> None:
        """Count occurrences, each in its alert: see `store.alert_recording.record`. None: recorded now."""
        now = time.time() if recorded_at is None else recorded_at
        record(self._redis, occurrences, limits=self._limits, recorded_at=now, acknowledge=acknowledge)

    def all(self, model: str) -> list[Alert]:
        """Return the alerts of the model with this name, most recently seen first.

        An alert that Redis no longer has is included as recorded with its last decision.
        """
        ids = cast(list[str], self._redis.zrevrange(ALERTS_OF_MODEL + model, 0, -1))
        figures = {one.id: one for one in self._read(ids)}
        decisions = self.decisions.all(model)
        for alert_id, decision in decisions.items():
            figures.setdefault(alert_id, decision.figures)
        suppressions = self.decisions.suppressions(model)
        alerts = [_alert(one, decisions.get(one.id), suppressions) for one in figures.values()]
        return sorted(alerts, key=lambda alert: (alert.figures.last_seen, alert.id), reverse=True)

    def recorded_since(self, since: float) -> list[Alert]:
        """Return the alerts of all models of which an occurrence was recorded at or after this Unix time."""
        figures = self._read(cast(list[str], self._redis.zrangebyscore(ALERTS, since, "+inf")))
        decisions = {model: self.decisions.all(model) for model in {one.model for one in figures}}
        suppressions = {model: self.decisions.suppressions(model) for model in decisions}
        return [_alert(one, decisions[one.model].get(one.id), suppressions[one.model]) for one in figures]

    def get(self, model: str, alert_id: str) -> Alert:
        """Return one alert. Raises NotFound: it does not exist, or no longer (code `alert_not_found`)."""
        fields: dict[str, str] = {}
        if is_id("alert", alert_id):
            fields = cast(dict[str, str], self._redis.hgetall(ALERT + alert_id))
        decision = self.decisions.all(model).get(alert_id)
        figures = _figures(alert_id, fields) if fields else decision and decision.figures
        if not figures or figures.model != model:
            raise NotFound(
                f"model {model} has no alert {alert_id!r}; an alert is deleted {TTL_S // 86_400} days after"
                " its last line, or when there are too many; acknowledged and labeled alerts are kept",
                code="alert_not_found",
            )
        return _alert(figures, decision, self.decisions.suppressions(model))

    def record_around(self, model: str, around: Mapping[str, Mapping[str, Any]]) -> None:
        """Note of alerts, by their ids, which events came before and after their newest one."""
        if not around:
            return
        with self._redis.pipeline() as pipe:
            pipe.hset(AROUND + model, mapping={one: json.dumps(events) for one, events in around.items()})
            pipe.expire(AROUND + model, TTL_S)
            pipe.hlen(AROUND + model)
            *_, count = pipe.execute()
        if count > 2 * self._limits.max_per_model:  # most are of alerts that were evicted
            self._redis.delete(AROUND + model)

    def around(self, model: str, alert_id: str) -> dict[str, Any] | None:
        """Return what `record_around` has noted of an alert; None: nothing."""
        found = cast(str | None, self._redis.hget(AROUND + model, alert_id))
        return json.loads(found) if found else None

    def acknowledge(self, model: str, alert_id: str, *, by: str | None) -> Alert:
        """Record that someone takes care of an alert. Raises NotFound and Conflict."""
        return self._decide(model, alert_id, by=by, acknowledged_at=time.time(), acknowledged_by=by)

    def label(
        self,
        model: str,
        alert_id: str,
        label: Label | None,
        *,
        by: str | None,
        values: Sequence[str] | None = None,
        all_values: bool = False,
        runbook: str | None = None,
    ) -> Alert:
        """Label an alert normal or incident; None removes the label. Raises NotFound and Conflict.

        `normal` covers what `covered_values` returns of the values, in addition to those that have the label.
        """
        scores = None
        if label == "normal":
            alert = self.get(model, alert_id)
            scores = _scores_of(alert, covered_values(alert, values, all_values=all_values))
        at = time.time() if label else None
        fields = {"label": label, "labeled_at": at, "labeled_by": by, "label_values": scores}
        if runbook is not None or label is None:
            fields["runbook"] = runbook
        return self._decide(model, alert_id, by=by, **fields)

    def suppress(
        self,
        model: str,
        alert_id: str,
        *,
        by: str | None,
        until: float,
        values: Sequence[str] | None = None,
        all_values: bool = False,
        runbook: str | None = None,
    ) -> Suppression:
        """Suppress the `covered_values` of an alert until a time. Raises NotFound."""
        alert = self.get(model, alert_id)
        return self.decisions.suppress(
            Suppression(
                model=model,
                template=alert.figures.template,
                span=alert.figures.span,
                until=until,
                created_by=by,
                alert_id=alert_id,
                values=covered_values(alert, values, all_values=all_values),
                runbook=runbook,
            )
        )

    def labels(self, model: str) -> dict[str, AlertLabel]:
        """Return the labels of a model's alerts, by the ids of these. Does not need Redis."""
        return {
            alert_id: AlertLabel(decision.label, decision.label_score, decision.label_values)
            for alert_id, decision in self.decisions.all(model).items()
            if decision.label
        }

    def labeled_lines(self, model: str) -> list[tuple[str, bool]]:
        """Return the example lines of labeled alerts, in the order of arrival, and which are of incidents."""
        labeled = [decision for decision in self.decisions.all(model).values() if decision.label]
        examples = [
            (example.time, example.line, decision.label == "incident")
            for decision in labeled
            for example in decision.figures.examples
        ]
        return [(line, is_incident) for _, line, is_incident in sorted(examples)]

    def models(self) -> set[str]:
        """Return the names of models that have alerts in Redis."""
        keys = cast(Iterator[str], self._redis.scan_iter(match=f"{ALERTS_OF_MODEL}*", count=1000))
        return {key.removeprefix(ALERTS_OF_MODEL) for key in keys}

    def delete_all(self, model: str) -> None:
        """Delete the alerts of a model's name, and the decisions on them."""
        self._move_figures(model, "", "")
        self.decisions.delete_all(model)

    def move_all(self, model: str, to: str, version: int) -> None:
        """Move the alerts of a model's name, and the decisions on them, to its version of another name.

        An alert's id is a hash of the model's name and the template, so an alert whose template is kept only
        in part is deleted.
        """

        def moved(figures: AlertFigures) -> AlertFigures:
            new_id = _id_under(to, figures) or figures.id
            return figures.model_copy(update={"id": new_id, "model": to, "version": version})

        self._move_figures(model, to, str(version))
        self.decisions.move_all(model, to, moved)

    def _move_figures(self, model: str, to: str, version: str) -> None:
        """Move the alerts in Redis to a version of another name, or delete them if both are empty."""
        self._redis.delete(AROUND + model)
        ids = cast(list[str], self._redis.zrange(ALERTS_OF_MODEL + model, 0, -1))
        known = {figures.id: figures for figures in self._read(ids)}
        for alert_id in ids:
            new_id = _id_under(to, known[alert_id]) if to and alert_id in known else ""
            self._redis.eval(_MOVE, 0, alert_id, new_id, model, to, version)

    def evictions(self) -> dict[str, int]:
        """Return how many alerts of each model were evicted because there were too many."""
        return {model: int(count) for model, count in cast(Any, self._redis.hgetall(EVICTED)).items()}

    def totals(self) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
        """Return the occurrences and the alerts so far, by model and severity."""
        counters = (cast(dict[str, str], self._redis.hgetall(key)) for key in (LINES, OPENED))
        lines, opened = (
            {(name.split(" ")[1], name.split(" ")[0]): int(count) for name, count in counter.items()}
            for counter in counters
        )
        return lines, opened

    def _read(self, ids: Sequence[str]) -> list[AlertFigures]:
        """Return the alerts with these ids that have not expired."""
        with self._redis.pipeline() as pipe:
            for alert_id in ids:
                pipe.hgetall(ALERT + alert_id)
            stored = pipe.execute()
        return [_figures(alert_id, fields) for alert_id, fields in zip(ids, stored, strict=True) if fields]

    def _decide(self, model: str, alert_id: str, *, by: str | None, **fields: Any) -> Alert:
        alert = self.get(model, alert_id)
        figures = alert.figures

        def change(current: Decision | None) -> Decision:
            base = current or Decision(changed_at=time.time(), figures=figures)
            changed = {"changed_at": time.time(), "changed_by": by, "figures": figures, **fields}
            if fields.get("label") == "normal":
                changed["label_score"] = max(figures.score, base.label_score)
            return base.model_copy(update=changed)

        decision = self.decisions.change(model, alert_id, change)
        return alert.model_copy(update={"decision": decision})


def _alert(figures: AlertFigures, decision: Decision | None, suppressions: Sequence[Suppression]) -> Alert:
    now = time.time()
    values = [one.value for one in figures.values]
    until = suppressed_until(suppressions, figures.template, figures.span, now=now, values=values)
    runbooks = (
        one.runbook
        for one in suppressions
        if one.until > now and one.runbook and one.matches(figures.template, figures.span)
    )
    return Alert(
        figures=figures, decision=decision, suppressed_until=until, suppression_runbook=next(runbooks, None)
    )


def covered_values(alert: Alert, values: Sequence[str] | None, *, all_values: bool) -> tuple[str, ...] | None:
    """Return the values of an alert that a label or a suppression covers; None: all, and future ones.

    Without `values` it is that of the title: a decision hides no more than what it shows.

    Raises:
        InvalidInput: the alert has no line with one of `values`.
    """
    known = [one.value for one in alert.figures.values]
    if all_values or not known:
        return None
    if values is None:
        return (alert.title_value,)
    if unknown := set(values) - set(known):
        raise InvalidInput(
            f"no line of the alert has the value {min(unknown)!r}; GET …/{alert.id}/preview lists them",
            param="values",
        )
    return tuple(dict.fromkeys(values))


def _scores_of(alert: Alert, values: Sequence[str] | None) -> dict[str, float] | None:
    """Return the highest score of each value, and of those that are labeled normal already; None: of all."""
    if values is None:
        return None
    before = alert.decision.label_values if alert.decision and alert.label == "normal" else {}
    if before is None:
        return None
    return before | {one.value: one.score for one in alert.figures.values if one.value in values}


def _id_under(model: str, figures: AlertFigures) -> str:
    """Return the id of an alert under another model's name; empty if its whole template is not kept."""
    key = AlertKey(figures.template, figures.span)
    return key.alert_id(model) if key.alert_id(figures.model) == figures.id else ""


def _figures(alert_id: str, fields: dict[str, str]) -> AlertFigures:
    values: dict[str, Any] = {"first_line_time": None, "last_line_time": None, **fields}
    for name in ("examples", "counts", "sources"):
        values[name] = json.loads(values[name])
    for example in values["examples"]:
        example["spans"] = json.loads(example["spans"])
    of_values = json.loads(values.get("values") or "{}")
    in_order = sorted(of_values.items(), key=lambda item: (-item[1]["score"], item[0]))
    values["values"] = [{"value": value, **one} for value, one in in_order]
    return AlertFigures(id=alert_id, **values)
