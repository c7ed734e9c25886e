"""Scoring the lines that agents have sent: a loop in every API process, which share the lines.

A round takes lines of each model in batches and scores them as streams of lines are scored, each line by
itself. The API keys whose lines wait have turns by the time that their lines take, and so have the models of
a key; a batch takes about TURN_S. So lines that take long delay those of others by one turn. Flagged lines
are recorded as alerts by the script that acknowledges their entries. What a process has taken and not
finished is taken over by another once the first has had it for too long.

Turns by the time that each takes: who has used the least of it is next.

The lines of an event are scored together (`nextchar.models.text.events`). A process joins those that it
takes: several processes may divide an event whose lines come in several requests.
"""

import hashlib
import logging
import os
import secrets
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from redis.exceptions import RedisError

from nextchar.app.http.threads import Check
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.recording import StreamEntries
from nextchar.app.logs.ingest.kept_lines import Neighbors, lines_key
from nextchar.app.logs.ingest.records import Entry
from nextchar.app.logs.ingest.stream import GROUP, IngestStreams
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.scoring.scored_lines import ScoredLines
from nextchar.models.anomaly.alerts import Occurrence
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer, Judged
from nextchar.models.anomaly.flag_rule import FlagRule
from nextchar.models.anomaly.line_scores import ScoreOptions, StoredCalibration
from nextchar.models.errors import DomainError, InvalidInput, NotFound, Unavailable
from nextchar.models.text.events import WAIT_S, EventStarts
from nextchar.models.text.lines import LineParser
from nextchar.store.calibrations import DEFAULT, VALIDATION, Calibrations


class TimeShares:
    """The time that those who wait for turns have used while they waited.

    One that begins to wait is taken to have used as much as the one that has used the least, and comes before
    it. So none earns a claim by being idle, and none that sends little waits for more than one turn of each
    other.
    """

    def __init__(self) -> None:
        self._used_s: dict[str, float] = {}

    def next(self, waiting: Collection[str]) -> str:
        """Return whose turn it is of those that wait now."""
        before = {name: self._used_s[name] for name in waiting if name in self._used_s}
        least_s = min(before.values(), default=0.0)
        self._used_s = {name: before.get(name, least_s) for name in waiting}
        return min(self._used_s, key=lambda name: (self._used_s[name], name in before))

    def add(self, name: str, used_s: float) -> None:
        """Add the time of a turn."""
        self._used_s[name] += used_s


log = logging.getLogger("nextchar.api")

INTERVAL_S = 0.25
"""Interval between two rounds, for which a line waits if no others did."""

TURN_S = 0.5
"""About the time that a batch takes: it has fewer lines if those of the batch before took longer."""

_ROUND_S = 5.0  # a round ends after this long, so that the health of the loop can be seen
_CLAIM_INTERVAL_S = 1.0
_HOUSEKEEPING_S = 30.0
_MAX_BATCH_LINES = 500
_MAX_BATCH_BYTES = 256 << 10  # estimated by the average of the lines that wait


@dataclass(frozen=True)
class _Scored:
    """A line, what it was scored with, and its score, which the flag rule may change."""

    entry: Entry
    scorer: CalibratedScorer
    judged: Judged


class _ClaimRenewer:
    """Called while lines are scored; keeps other processes from taking them over."""

    def __init__(
        self, streams: IngestStreams, model: str, consumer: str, ids: Sequence[str], claim_after_s: float
    ) -> None:
        self._keep = partial(streams.keep, model, consumer, ids)
        self._interval_s = claim_after_s / 4
        self._kept_at_s = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._kept_at_s > self._interval_s:
            self._keep()
            self._kept_at_s = now


@dataclass(frozen=True)
class _HeldEvent:
    """The lines so far of an event that may go on, the last of which came at `at_s` by time.monotonic."""

    lines: list[Entry]
    at_s: float


@dataclass
class _ModelState:
    """What the loop remembers of a model between rounds."""

    claim_at_s: float = 0.0  # by time.monotonic
    max_lines: int = _MAX_BATCH_LINES  # of a batch, so that it takes about TURN_S
    has_problem: bool = True  # one of an earlier process may be stored
    held: list[_HeldEvent] = field(default_factory=list)

    def resize(self, lines: int, took_s: float) -> None:
        """Set the lines of the next batch by those of one and the time that it took."""
        if took_s > TURN_S:
            self.max_lines = max(1, int(lines * TURN_S / took_s))
        elif lines >= self.max_lines and took_s < TURN_S / 2:
            self.max_lines = min(2 * self.max_lines, _MAX_BATCH_LINES)


@dataclass
class IngestScoring:
    """Scores the lines that wait. `run` is a round of a background loop; it runs in one thread.

    Args:
        stopping: set when the process stops; the batch that is being scored is finished.
        retention_s: lines that wait for longer are deleted; 0: never.
        claim_after_s: a process that has not finished a line for this long is taken for dead.
    """

    streams: IngestStreams
    engines: Engines
    calibrations: Calibrations
    alerts: Alerts
    scored_lines: ScoredLines
    stopping: threading.Event
    retention_s: float = 0.0
    claim_after_s: float = 30.0
    consumer: str = field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    )
    _states: dict[str, _ModelState] = field(default_factory=dict)
    _housekeeping_at_s: float = 0.0
    _turns: TimeShares = field(default_factory=TimeShares)  # of keys
    _turns_of_key: dict[str, TimeShares] = field(default_factory=dict)  # of its models

    def run(self) -> None:
        """Score lines of all models until none wait, or for some seconds. Raises RedisError."""
        deadline = time.monotonic() + _ROUND_S
        if time.monotonic() >= self._housekeeping_at_s:
            self._drop_old(self.streams.models())
        not_before: dict[str, float] = {}  # of models of which no line could be taken
        while (now := time.monotonic()) < deadline and not self.stopping.is_set():
            owners = self.streams.waiting_owners()
            owners = {model: owner for model, owner in owners.items() if not_before.get(model, now) <= now}
            if not owners:
                return
            if not self._score_batch(model := self._next(owners)):
                not_before[model] = time.monotonic() + INTERVAL_S
            self._turns.add(owners[model], time.monotonic() - now)
            self._turns_of_key[owners[model]].add(model, time.monotonic() - now)

    def _next(self, owners: Mapping[str, str]) -> str:
        """Return the model whose turn it is, of those with the keys that sent their lines."""
        key = self._turns.next(owners.values())
        self._turns_of_key = {owner: self._turns_of_key.get(owner, TimeShares()) for owner in owners.values()}
        return self._turns_of_key[key].next([model for model, owner in owners.items() if owner == key])

    def _drop_old(self, models: Iterable[str]) -> None:
        self._housekeeping_at_s = time.monotonic() + _HOUSEKEEPING_S
        for model in models:
            if self.retention_s:
                self.streams.expire(model, before=time.time() - self.retention_s)
            self.streams.remove_idle_consumers(model)
            with suppress(DomainError):  # of the storage
                if not self.streams.waiting(model) and self.engines.is_deleted(model):
                    self.streams.forget(model)

    def _score_batch(self, model: str) -> bool:
        """Score some lines of a model; return whether there may be more."""
        state = self._states.setdefault(model, _ModelState())
        try:
            with self.engines.use(model) as loaded:
                self.calibrations.required(loaded.saved)
                entries, is_behind = self._take(model, state)
                entries = _events(loaded, state, entries)
                began_s = time.monotonic()
                # Explanations take most of the time: they wait until no lines do.
                self._score_safely(model, loaded, entries, explain=not is_behind)
                state.resize(len(entries), time.monotonic() - began_s)
        except DomainError as error:  # the lines wait until it has passed
            self.streams.set_problem(model, {"code": error.code, "message": error.message})
            state.has_problem = True
            state.held = []  # they are delivered again
            return False
        if state.has_problem and entries:
            self.streams.set_problem(model, None)
            state.has_problem = False
        return bool(entries)

    def _take(self, model: str, state: _ModelState) -> tuple[list[Entry], bool]:
        """Return the next lines, and whether there are as many as a batch may have."""
        limit = self.streams.batch_lines(model, max_lines=state.max_lines, max_bytes=_MAX_BATCH_BYTES)
        if time.monotonic() >= state.claim_at_s:
            claimed = self.streams.claim(model, self.consumer, idle_s=self.claim_after_s, max_lines=limit)
            if claimed:
                return claimed, len(claimed) == limit
            state.claim_at_s = time.monotonic() + _CLAIM_INTERVAL_S
        entries = self.streams.read(model, self.consumer, max_lines=limit)
        return entries, len(entries) == limit

    def _score_safely(self, model: str, loaded: Loaded, entries: Sequence[Entry], *, explain: bool) -> None:
        """Score lines; one whose scoring fails unexpectedly is moved to the failed ones."""
        if not entries:
            return
        keep = _ClaimRenewer(
            self.streams,
            model,
            self.consumer,
            [entry_id for entry in entries for entry_id in entry.ids],
            self.claim_after_s,
        )
        try:
            scored = {one.entry.id: one for one in self._scored(loaded, entries, keep, explain=explain)}
        except (DomainError, RedisError, OSError):
            raise
        except Exception as error:
            if len(entries) == 1:
                log.exception("scoring an ingested line by %s", loaded.reference)
                self.streams.fail(model, entries[0].ids, f"{type(error).__name__} while it was scored")
                return
            for entry in entries:
                self._score_safely(model, loaded, [entry], explain=explain)
            return
        in_order = [scored[entry.id] for entry in entries]
        with self.streams.rules.lock(model):
            judged, known = self._judge(model, in_order)
            self._record(model, entries, judged)
            name = loaded.saved.card.name
            for _, neighbors in known.values():
                self.alerts.record_around(name, neighbors.changed)
            # Last: what is delivered again is judged as before.
            self.streams.rules.write(model, known, name)

    def _scored(
        self, loaded: Loaded, entries: Sequence[Entry], check: Check, *, explain: bool
    ) -> Iterator[_Scored]:
        """Yield the lines with their scores, those of each calibration and rate together."""
        parser = LineParser(loaded.vocabulary, is_json=False)
        groups: dict[tuple[str | None, float | None], list[tuple[Entry, str]]] = {}
        for entry in entries:
            key = (entry.meta.calibration, entry.meta.false_alarms)
            groups.setdefault(key, []).append((entry, parser.text_of(entry.data)))
        for (name, rate), group in groups.items():
            scorer = self._scorer(loaded, name, rate, check, explain=explain)
            texts = list(dict.fromkeys(text for _, text in group))
            lines = scorer.read(texts)
            by_text = dict(zip(texts, map(Judged, scorer.scores(lines), lines), strict=True))
            for entry, text in group:
                yield _Scored(entry, scorer, by_text[text])

    def _scorer(
        self, loaded: Loaded, name: str | None, rate: float | None, check: Check, *, explain: bool
    ) -> CalibratedScorer:
        """Return a scorer with the named calibration if one allows the rate, else the default's."""
        default = self.calibrations.required(loaded.saved)
        labels = partial(self.alerts.labels, loaded.saved.card.name)
        options = ScoreOptions("line", false_alarms=rate, fast=True, explain=explain, repeats="count")
        for calibration in (self._find_calibration(loaded, name), default):
            with suppress(InvalidInput):
                if calibration:
                    return CalibratedScorer(loaded, calibration, options, check, labels)
        # The default was replaced by one of fewer lines since the line was accepted.
        return CalibratedScorer(loaded, default, replace(options, false_alarms=None), check, labels)

    def _find_calibration(self, loaded: Loaded, name: str | None) -> StoredCalibration | None:
        """Return the named calibration, or None if there is none that can be used."""
        try:
            return self.calibrations.find(loaded.saved, name)
        except (InvalidInput, NotFound):  # not a calibration's name, such as an address; or none has it
            return None
        except Unavailable as error:
            if error.code == "storage_unavailable":
                raise
            log.warning("lines are compared with the default calibration: %s", error.message)
            return None

    def _judge(
        self, model: str, scored: Sequence[_Scored]
    ) -> tuple[list[_Scored], dict[str, tuple[FlagRule, Neighbors]]]:
        """Return the lines by the flag rule, in their order, and what is then known of them.

        The lines of each source and calibration are judged by themselves.
        """
        known: dict[str, tuple[FlagRule, Neighbors]] = {}
        judged = []
        for one in scored:
            name = _rule_name(one)
            if name not in known:
                stored, neighbors = self.streams.rules.read(model, name)
                one.scorer.resume(stored)
                assert one.scorer.rule, "lines are scored with a calibration"
                known[name] = one.scorer.rule, neighbors
            one.scorer.rule, neighbors = known[name]
            score, line, *_ = one.judged
            assert line, "it is read"
            found = one.scorer.judge(score, line, now=one.entry.received_at)
            judged.append(replace(one, judged=found))
            text = one.scorer.loaded.vocabulary.to_text(line.original)
            neighbors.add(text, found.score.alert_id if found.score.anomalous else None)
        return judged, known

    def _record(self, model: str, entries: Sequence[Entry], scored: Sequence[_Scored]) -> None:
        """Announce flagged lines, record them and repeats in alerts, and acknowledge all lines.

        Can be repeated after any error.
        """
        rare = [one for one in scored if one.judged.key]
        ids = {one.entry.id for one in rare}
        occurrences = [_occurrence(one) for one in rare]
        events = [
            (one.entry.id, _event(one, of))
            for one, of in zip(rare, occurrences, strict=True)
            if one.judged.score.anomalous
        ]
        if events:
            self.streams.flagged.announce(model, events)
        if rare:
            acknowledged = [entry_id for one in rare for entry_id in one.entry.ids]
            entries_of_rare = StreamEntries(lines_key(model), GROUP, acknowledged)
            self.alerts.record(occurrences, acknowledge=entries_of_rare)
        if normal := [an_id for entry in entries if entry.id not in ids for an_id in entry.ids]:
            self.streams.acknowledge(model, normal)
        self.streams.recent.add(model, [one.entry.data for one in scored if _is_default(one)])
        self.scored_lines.add(model.partition("@")[0], len(scored))


def _events(loaded: Loaded, state: _ModelState, entries: Sequence[Entry]) -> list[Entry]:
    """Return the events of the lines that were held and of new ones, those of each source by themselves.

    The last of each source is held until a line has come that does not belong to it, or for WAIT_S.
    """
    held, state.held = state.held, []
    lines = [line for event in held for line in event.lines] + list(entries)
    opener = loaded.scorer.opener
    if opener is None:
        return lines
    parser = LineParser(loaded.vocabulary, is_json=False)
    starts: defaultdict[str | None, EventStarts] = defaultdict(partial(EventStarts, opener))
    newest: dict[str | None, list[Entry]] = {}  # event of each source
    events: list[list[Entry]] = []
    for line in lines:
        source = line.meta.source
        if starts[source].add(parser.text_of(line.data)):
            newest[source] = []
            events.append(newest[source])
        newest[source].append(line)
    now_s, came_at_s = time.monotonic(), {event.lines[-1].id: event.at_s for event in held}
    for event in newest.values():
        at_s = came_at_s.get(event[-1].id, now_s)
        if now_s - at_s < WAIT_S:
            state.held.append(_HeldEvent(event, at_s))
            events.remove(event)
    return [
        replace(
            event[0],
            data=b"\n".join(line.data for line in event),
            further=tuple(line.id for line in event[1:]),
        )
        for event in events
    ]


def _rule_name(one: _Scored) -> str:
    """Return a name for the lines that are judged together: of one source, with one calibration and rate."""
    calibration = one.scorer.calibration
    assert calibration is not None, "lines are scored with one"
    parts = (one.scorer.loaded.reference, calibration.name, f"{one.scorer.rate}", one.entry.meta.source or "")
    return hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _is_default(one: _Scored) -> bool:
    calibration = one.scorer.calibration
    assert calibration is not None, "lines are scored with one"
    return calibration.name in (DEFAULT, VALIDATION)


def _occurrence(one: _Scored) -> Occurrence:
    meta, arrived = one.entry.meta, one.entry.received_at
    sent = {"line_time": meta.time} if meta.time is not None else {}
    known = {"source": meta.source or "", "entry": one.entry.id, "owner": meta.owner or "", **sent}
    return one.scorer.occurrence(one.judged, arrived=arrived, **known)


def _event(one: _Scored, occurrence: Occurrence) -> dict[str, Any]:
    """Return what live views show of a flagged line; see `FlaggedLine`."""
    calibration = one.scorer.calibration
    assert calibration is not None, "only lines with a calibration are flagged"
    kept = occurrence.dump()
    return {
        "at": round(time.time(), 3),
        "received_at": one.entry.received_at,
        "time": occurrence.line_time,
        "source": one.entry.meta.source,
        "model": one.scorer.loaded.reference,
        "calibration": calibration.name,
        "alert_id": occurrence.alert_id,
        "score": one.judged.score.score,
        **{name: kept[name] for name in ("line", "p_value", "spans")},
    }
