"""Decisions about alerts: acknowledgements, labels and suppressions. Records in the blob store.

    alert_decisions/<model name>/<alert id>/<sequence>.json   the decision on an alert after a change, and how
                                                              the alert was then
    alert_suppressions/<model name>/<suppression id>.json     one suppression, until it is deleted

A change of an alert's decision creates the next file, which succeeds for one of several writers; the others
read again and retry. The files before it stay as the history of decisions. The first number is the time at
which the alert was first seen: an alert of a new model with the name and the template of a former one has its
id, and must not have its paths, whose records processes remember. (Older files are numbered from 0.)

Decisions outlive the alert, which Redis forgets, and single versions of the model; the model's name is what
they belong to. With its last version they are deleted or move to another name
(`nextchar.app.logs.room`).
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from pydantic import Field

from nextchar.models.anomaly.alerts import Label
from nextchar.models.anomaly.line_scores import Span
from nextchar.models.errors import Conflict, NotFound
from nextchar.models.text.line_tokens import WILDCARD
from nextchar.store.blobs import Blobs
from nextchar.store.expiring_cache import Clock, ExpiringCache
from nextchar.store.history import History, ImmutableRecord, number_of, read_record
from nextchar.store.ids import is_id, new_id

_CACHE_S = 2.0  # a decision of another process is visible after this long
_MAX_ATTEMPTS = 10
_DECISIONS = "alert_decisions"


class Example(ImmutableRecord):
    """A line of an alert."""

    line: str
    score: float
    p_value: float
    spans: tuple[Span, ...]
    time: float = Field(description="When it arrived.")
    line_time: float | None = Field(None, description="The time in the line; null if none could be read.")
    source: str = ""
    value: str = Field("", description="Its anomalous words that stand where the template has `<*>`.")


class AlertValue(ImmutableRecord):
    """The lines of an alert with one value of their AlertKey, and the rarest of them."""

    value: str
    count: int
    score: float
    estimated_p: float
    line: str


class AlertLines(ImmutableRecord):
    """What is counted of the lines of an alert, as it is sent. Times are Unix seconds."""

    id: str
    model: str = Field(description="The model's name; its versions share alerts.")
    version: int = Field(description="Version of the model that flagged the newest line.")
    template: str = Field(description="The line with `<*>` for what changes from line to line.")
    span: str = Field(description="The number of the anomalous word in the template, from 0, and the word.")
    count: int = Field(description="Lines so far.")
    first_seen: float
    last_seen: float
    first_line_time: float | None = Field(description="The earliest time in a line, if one could be read.")
    last_line_time: float | None
    score: float = Field(description="The highest score of its lines.")
    p_value: float = Field(description="The lowest p-value of its lines.")
    interval_s: float
    counts: tuple[int, ...]
    """Lines per interval of `interval_s` seconds since `first_seen`."""
    examples: tuple[Example, ...]
    """Distinct lines with the highest scores, those first; at most 5."""
    sources: tuple[str, ...] = Field(description="Where its lines come from; at most 10.")


class AlertFigures(AlertLines):
    """An alert without its decision.

    Attributes:
        estimated_p: the lowest estimated p-value of its lines, which severity is made of; None of an alert
        from before there was one. owner: the API key that sent its first line, "" if none. values: those with
        the highest scores, these first; empty of an alert of an earlier version.
    """

    template_id: str
    estimated_p: float | None = None
    owner: str = ""
    values: tuple[AlertValue, ...] = ()


class Decision(ImmutableRecord):
    """The decision on one alert after a change.

    Attributes:
        sequence: of the first change, the time at which the alert was first seen, in microseconds; then one
        more for each change. changed_by: the name of the API key that made this change; None without keys.
        label_score: with label `normal`, the highest score that the group had when it was labeled.
        label_values: with label `normal`, the values that have it, with the highest score of each; None: all
        have it. runbook: the address of instructions. figures: the alert at this change.
    """

    sequence: int = 0
    changed_at: float
    changed_by: str | None = None
    acknowledged_at: float | None = None
    acknowledged_by: str | None = None
    label: Label | None = None
    labeled_at: float | None = None
    labeled_by: str | None = None
    label_score: float = 0.0
    label_values: dict[str, float] | None = None
    runbook: str | None = None
    figures: AlertFigures


class Suppression(ImmutableRecord):
    """A suppression: alerts that match it are counted but not reported until it ends.

    `template` and `span` are patterns, in which `*` stands for any text, except in `<*>`, which stands for
    itself. `runbook` is the address of instructions. Times are Unix seconds.
    """

    id: str = Field(default_factory=lambda: new_id("suppression"))
    model: str
    template: str = Field(max_length=1000)
    span: str = "*"
    until: float
    created_at: float = Field(default_factory=time.time)
    created_by: str | None = None
    alert_id: str | None = None
    """The alert that it was made from, if it was made from one."""
    values: tuple[str, ...] | None = None
    """The values that it covers; null: all lines that match."""
    runbook: str | None = None

    def matches(self, template: str, span: str) -> bool:
        """Return whether alerts with this template and span key are suppressed.

        >>> s = Suppression(id="", model="m", template="Invalid user <*> from *", until=0, created_at=0)
        >>> s.matches("Invalid user <*> from <*>", "2:<*>"), s.matches("Invalid user", "1:user")
        (True, False)
        """
        return _matches(self.template, template) and _matches(self.span, span)

    @property
    def matches_everything(self) -> bool:
        """Whether it suppresses every alert of the model."""
        return not self.template.strip("*") and not self.span.strip("*")


class AlertDecisions:
    """The decisions and suppressions in one storage. Safe to use from several threads."""

    def __init__(self, blobs: Blobs, *, clock: Clock = time.monotonic) -> None:
        self._blobs = blobs
        self._listed: ExpiringCache[list[str]] = ExpiringCache(_CACHE_S, clock=clock)  # paths, by folder
        self._history = History(blobs, _DECISIONS, Decision, digits=8, damaged="decision_damaged")
        self._suppressions: dict[str, Suppression | None] = {}  # by path, which is used once; None: damaged

    def all(self, model: str) -> dict[str, Decision]:
        """Return the newest decision on each alert of a model's name that has one, by the alert's id."""
        newest: dict[str, str] = {}
        for path in self._paths(f"{_DECISIONS}/{model}"):  # sorted, and sequences have a fixed width
            newest[path.split("/")[2]] = path
        found = {alert_id: self._history.find(path) for alert_id, path in newest.items()}
        return {alert_id: decision for alert_id, decision in found.items() if decision}

    def change(self, model: str, alert_id: str, change: Callable[[Decision | None], Decision]) -> Decision:
        """Record the next decision on an alert: what `change` makes of the newest one.

        Raises:
            Conflict: other changes came first, again and again (code `alert_changed`).
        """
        for _ in range(_MAX_ATTEMPTS):
            paths = self._history.paths(model, alert_id)
            current = self._history.find(paths[-1]) if paths else None
            decision = change(current)
            # All processes make the same first number.
            number = number_of(paths[-1]) + 1 if paths else int(decision.figures.first_seen * 1e6)
            decision = decision.model_copy(update={"sequence": number})
            if self._history.create(number, decision, model, alert_id):
                self._listed.forget(f"{_DECISIONS}/{model}")
                return decision
        raise Conflict(f"alert {alert_id} is being changed by others; try again", code="alert_changed")

    def suppress(self, suppression: Suppression) -> Suppression:
        """Store a suppression and return it; one that is there already stays. Raises as Blobs does."""
        folder = f"alert_suppressions/{suppression.model}"
        data = suppression.model_dump_json().encode("utf-8", "backslashreplace")
        self._blobs.create(f"{folder}/{suppression.id}.json", data)
        self._listed.forget(folder)
        return suppression

    def suppressions(self, model: str) -> list[Suppression]:
        """Return the suppressions of a model's name, newest first, with those that have ended."""
        found = [self._suppression(path) for path in self._paths(f"alert_suppressions/{model}")]
        return [suppression for suppression in reversed(found) if suppression]

    def delete_suppression(self, model: str, suppression_id: str) -> None:
        """End a suppression. Raises NotFound: there is none with this id."""
        folder = f"alert_suppressions/{model}"
        path = f"{folder}/{suppression_id}.json"
        if not is_id("suppression", suppression_id) or not self._blobs.exists(path):
            raise NotFound(
                f"model {model} has no suppression {suppression_id!r}; it may have been deleted",
                code="suppression_not_found",
            )
        self._blobs.delete(path)
        self._listed.forget(folder)

    def models(self) -> set[str]:
        """Return the names of models that have decisions or suppressions."""
        return {*self._blobs.folders(_DECISIONS), *self._blobs.folders("alert_suppressions")}

    def delete_all(self, model: str) -> None:
        """Delete the decisions on the alerts of a model's name."""
        for folder in (f"{_DECISIONS}/{model}", f"alert_suppressions/{model}"):
            self._blobs.delete(*self._blobs.paths(folder))
            self._listed.forget(folder)

    def move_all(self, model: str, to: str, new_figures: Callable[[AlertFigures], AlertFigures]) -> None:
        """Move the decisions on the alerts of a model's name to another name; can be repeated.

        `new_figures` returns an alert as it is under the other name, whose own decisions stay.
        """
        ids: dict[str, str] = {}
        for path in self._blobs.paths(f"{_DECISIONS}/{model}"):
            decision = read_record(self._blobs, path, Decision)
            if decision is None:
                continue
            moved = decision.model_copy(update={"figures": new_figures(decision.figures)})
            alert_id, new_id = decision.figures.id, moved.figures.id
            if alert_id not in ids:  # the first of its records; another one there is of the other name
                first = self._history.paths(to, new_id)[:1]
                ids[alert_id] = "" if first and self._history.find(first[0]) != moved else new_id
            if ids[alert_id]:
                self._history.create(decision.sequence, moved, to, new_id)
        for suppression in self.suppressions(model):
            made_from = ids.get(suppression.alert_id or "") or None
            self.suppress(suppression.model_copy(update={"model": to, "alert_id": made_from}))
        self._listed.forget(f"{_DECISIONS}/{to}")
        self.delete_all(model)

    def _paths(self, folder: str) -> list[str]:
        return self._listed.get(folder, lambda _: self._blobs.paths(folder))

    def _suppression(self, path: str) -> Suppression | None:
        if path not in self._suppressions:
            with contextlib.suppress(FileNotFoundError):  # deleted by another process
                self._suppressions[path] = read_record(self._blobs, path, Suppression)
        return self._suppressions.get(path)


def suppressed_until(
    suppressions: Sequence[Suppression], template: str, span: str, *, now: float, values: Sequence[str] = ()
) -> float | None:
    """Return until when alerts with this template and span key are suppressed; None if they are not.

    One with `values` is suppressed as long as all of them are.
    """
    active = [s for s in suppressions if s.until > now and s.matches(template, span)]
    ends = [
        max((s.until for s in active if s.values is None or value in s.values), default=None)
        for value in values or [""]
    ]
    known = [end for end in ends if end is not None]
    return min(known) if len(known) == len(ends) else None


def _matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches all of a text. Takes the leftmost place of each of its literals."""
    first, *others = _literals(pattern)
    if not text.startswith(first) or not others:
        return text == first
    at = len(first)
    for literal in others[:-1]:
        if (at := text.find(literal, at)) < 0:
            return False
        at += len(literal)
    return text.endswith(others[-1], at)


@lru_cache(maxsize=10_000)
def _literals(pattern: str) -> tuple[str, ...]:
    """Return what stands between the `*` of a pattern.

    >>> _literals("user <*> from *")
    ('user <*> from ', '')
    """
    between = [part.split("*") for part in pattern.split(WILDCARD)]
    literals = between[0]
    for part in between[1:]:
        literals[-1] += WILDCARD + part[0]
        literals += part[1:]
    return tuple(literals)
