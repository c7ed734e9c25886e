"""Alerts and false alarms in a simulated month of a service's log, with and without rolling calibration.

A log is generated: messages of a service with a daily rhythm, whose users, paths and hosts are replaced
little by little; in the third week a new version has some other messages, and in the fourth there is an
incident of ten minutes. A model is trained on the week before the month with the defaults of
`nextchar.train`, and the month is scored in order, as ingested lines are. Four ways to read the result are
compared:

    lines         every flagged line is reported
    alerts        lines are grouped: the alerts of each day
    suppressed    one day after the new version, the operator suppresses its messages that were flagged
    rolling       as before, with a rolling calibration

    python -m benchmarks.month [--lines 1000] [--seconds 30] [--rate 0.01] [--drift 0.005] [--seed 0]
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import nextchar
from benchmarks.report import print_json_line, print_table
from nextchar.app.logs.alerts.decisions import Suppression
from nextchar.app.logs.ingest.recalibration import REBUILD_LINES, verdict
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer
from nextchar.models.anomaly.calibration import Calibration
from nextchar.models.anomaly.line_scores import (
    AlertReference,
    ObservedScore,
    ScoreOptions,
    censored,
    initial_sample,
)
from nextchar.models.anomaly.rolling import rebuild
from nextchar.models.anomaly.scorer import LineReading
from nextchar.store.calibrations import Calibrations
from nextchar.store.open_blobs import open_blobs

_DAY_S = 86_400.0
_START_S = 1_772_323_200.0  # 2026-03-01, UTC
_WEEKS = 4
_TRAINED_DAYS = 7
_VERSION_DAY, _INCIDENT_DAY = 14, 23  # of the month, from 0
_INCIDENT_S = 600.0
_INCIDENT_LINES = 60
_USERS, _PATHS, _HOSTS = 60, 40, 8

_MESSAGES = (  # weight, message; {u} user, {p} path, {h} host, {n} number, {m} milliseconds
    (30, "INFO request user={u} path=/{p} status=200 took={m}ms"),
    (12, "INFO cache hit key={p}:{n} size={n}"),
    (10, "INFO session opened for {u} from 10.0.{b}.{b}"),
    (9, "INFO session closed for {u} after {n}s"),
    (6, "DEBUG query on {h} returned {n} rows in {m}ms"),
    (4, "WARN slow query on {h}: {m}ms for /{p}"),
    (3, "INFO uploaded {p}.csv by {u}, {n} bytes"),
    (2, "WARN user={u} path=/{p} status=404"),
    (1, "INFO worker {n} restarted on {h}"),
)
_NIGHT = (6, "INFO backup of {h} finished, {n} files in {n}s")
_NEW_VERSION = {  # what replaces a message
    2: "INFO login accepted: {u} via gateway {h} ip=10.0.{b}.{b}",
    3: "INFO logout {u}: session lasted {n} seconds",
    7: "NOTICE no such page /{p} (asked by {u})",
}
_INCIDENT = (
    "ERROR connection to database refused: too many clients already",
    "ERROR request user={u} path=/{p} status=503 circuit breaker open",
    "FATAL out of memory: killed process {n} (postgres)",
)
_SYLLABLES = ("ka", "ro", "mi", "ten", "sol", "ba", "vi", "lu", "nor", "da", "pe", "shi", "gra", "to", "el")


@dataclass(frozen=True)
class LogLine:
    """A line, its time in seconds since the start, and what it is. `message` is its message's format."""

    time: float
    text: str
    message: str
    is_incident: bool = False
    is_new_version: bool = False


@dataclass
class Generator:
    """Generates the log, a day at a time."""

    lines_per_day: int
    replaced_per_day: float  # of users and paths; of hosts a quarter of that
    seed: int

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._users = [self._word() for _ in range(_USERS)]
        self._paths = [f"{self._word()}/{self._word()}" for _ in range(_PATHS)]
        self._hosts = [f"{self._word()}-{i:02d}" for i in range(_HOSTS)]

    def day(self, day: int) -> list[LogLine]:
        """Return the lines of a day; days of the month are counted from 0, those before are negative."""
        count = int(self._random.poisson(self.lines_per_day))
        times = self._random.random(4 * count) * _DAY_S
        busy = 0.55 - 0.45 * np.cos(times / _DAY_S * 2 * np.pi)  # the busiest hour is noon
        times = np.sort(times[self._random.random(4 * count) < busy][:count])
        lines = [self._normal(day, at) for at in times.tolist()]
        if day == _INCIDENT_DAY:
            begin = 0.6 * _DAY_S
            moments = begin + np.sort(self._random.random(_INCIDENT_LINES)) * _INCIDENT_S
            failures = (self._choice(_INCIDENT) for _ in moments)
            pairs = zip(moments.tolist(), failures, strict=True)
            lines += [self._line(day, at, message, is_incident=True) for at, message in pairs]
            lines.sort(key=lambda line: line.time)
        for names, share in ((self._users, 1.0), (self._paths, 1.0), (self._hosts, 0.25)):
            for i in range(len(names)):
                if self._random.random() < share * self.replaced_per_day:
                    names[i] = self._replacement(names[i])
        return lines

    def _normal(self, day: int, at: float) -> LogLine:
        is_night = at < 0.2 * _DAY_S
        messages = [*_MESSAGES, _NIGHT] if is_night else list(_MESSAGES)
        weights = np.array([weight for weight, _ in messages], float)
        index = int(self._random.choice(len(messages), p=weights / weights.sum()))
        if day >= _VERSION_DAY and index in _NEW_VERSION:
            return self._line(day, at, _NEW_VERSION[index], is_new_version=True)
        return self._line(day, at, messages[index][1])

    def _line(self, day: int, at: float, message: str, **what: bool) -> LogLine:
        fill = {
            "u": self._zipf(self._users),
            "p": self._zipf(self._paths),
            "h": self._choice(self._hosts),
        }
        text = message
        for name, value in fill.items():
            text = text.replace(f"{{{name}}}", value)
        for name, high in (("n", 100_000), ("m", 900), ("b", 256)):
            while f"{{{name}}}" in text:
                text = text.replace(f"{{{name}}}", str(int(self._random.integers(1, high))), 1)
        seconds = (day + _TRAINED_DAYS) * _DAY_S + at
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_START_S + seconds))
        return LogLine(
            seconds, f"{stamp} app[{int(self._random.integers(100, 9999))}]: {text}", message, **what
        )

    def _word(self) -> str:
        return "".join(self._choice(_SYLLABLES) for _ in range(int(self._random.integers(2, 4))))

    def _replacement(self, name: str) -> str:
        if "/" in name:
            return f"{name.split('/', maxsplit=1)[0]}/{self._word()}"
        return f"{self._word()}-{name[-2:]}" if "-" in name else self._word()

    def _choice(self, names: Sequence[str]) -> str:
        return names[int(self._random.integers(len(names)))]

    def _zipf(self, names: Sequence[str]) -> str:
        weights = 1 / np.arange(2, len(names) + 2)
        return names[int(self._random.choice(len(names), p=weights / weights.sum()))]


@dataclass
class Reading:
    """What one calibration, fixed or rolling, makes of the month."""

    stored: Calibration
    rate: float
    is_rolling: bool
    random: np.random.Generator
    suppressions: list[Suppression] = field(default_factory=list)
    current: Calibration = field(init=False)
    held: int = 0
    rebuilds: int = 0

    def __post_init__(self) -> None:
        self.current = self.stored
        self._sample = initial_sample(self.stored, now=0.0, random=self.random)
        self._batch: list[ObservedScore] = []

    @property
    def threshold(self) -> float:
        """The score above which lines are flagged."""
        return self.current.thresholds(self.rate)[0]

    def judge(self, line: LogLine, score: float, group: AlertReference) -> tuple[bool, bool]:
        """Return whether a line is flagged, and whether it is reported."""
        is_flagged = bool(self.current.buckets[0].p_value(np.array([score]))[0] <= self.rate)
        is_reported = is_flagged and not any(
            one.matches(group.template, group.span) for one in self.suppressions
        )
        if self.is_rolling:
            seen = censored(self.threshold) if is_flagged else score
            self._batch.append(ObservedScore(line.time, seen, 0, self.rate, group if is_flagged else None))
            if len(self._batch) >= REBUILD_LINES:
                self._rebuild(line.time)
        return is_flagged, is_reported

    def _rebuild(self, now: float) -> None:
        self.current, self._sample, result = rebuild(
            self.stored,
            self.current,
            self._sample,
            self._batch,
            verdict=partial(verdict, labels={}, suppressions=self.suppressions),
            rate=self.rate,
            now=now,
            random=self.random,
        )
        self._batch = []
        self.rebuilds += 1
        self.held += result.drift is not None


def main() -> None:
    """Simulate a month and print the results."""
    options = _arguments()
    generator = Generator(options.lines, options.drift, options.seed)
    text = "".join(f"{line.text}\n" for day in range(-_TRAINED_DAYS, 0) for line in generator.day(day))
    with nextchar.train(text, seconds=options.seconds) as model:
        stored = Calibrations(open_blobs("memory://")).find(model._saved, None)
        assert stored is not None, "there are enough lines for a calibration"
        scorer = CalibratedScorer(
            model._loaded, stored, ScoreOptions(false_alarms=options.rate, fast=True, explain=False)
        )
        found = simulate(generator, scorer, stored.calibration, options.rate, options.seed)
    _print(found, options)


def simulate(
    generator: Generator, scorer: CalibratedScorer, stored: Calibration, rate: float, seed: int
) -> dict[str, Any]:
    """Return the figures of each day and week."""
    # The score is the same function for both; only what it is compared with differs.
    readings = {
        name: Reading(stored, rate, name == "rolling", np.random.default_rng(seed))
        for name in ("fixed", "rolling")
    }
    days: list[Day] = []
    incident: dict[str, int] = {}
    for number in range(7 * _WEEKS):
        day = Day()
        for line, read, score in _scored(scorer, generator.day(number)):
            day.add(line)
            lowest = min(reading.threshold for reading in readings.values()) - 1.0
            group = _group(scorer, read) if score >= lowest else _NO_GROUP
            for name, reading in readings.items():
                flagged, reported = reading.judge(line, score, group)
                if flagged:
                    day.flag(line, name, group)
                if reported:
                    day.flag(line, f"{name}_reported", group)
                if flagged and line.is_incident:
                    incident.setdefault(name, day.incident_lines)
        if number == _VERSION_DAY:
            for reading in readings.values():
                reading.suppressions = [_suppression(message) for message in sorted(day.new_messages)]
        day.threshold = readings["rolling"].threshold
        days.append(day)
    rolling = readings["rolling"]
    return {
        "days": [day.figures() for day in days],
        "incident_found_after": incident,
        "fixed_threshold": round(readings["fixed"].threshold, 3),
        "rebuilds": rolling.rebuilds,
        "held": rolling.held,
    }


_NO_GROUP = AlertReference("", "", "")
_NAMES = ("fixed", "fixed_reported", "rolling", "rolling_reported")


@dataclass
class Day:
    """What was counted on one day: normal lines, and for each of _NAMES flagged lines and alerts."""

    lines: int = 0
    incident_lines: int = 0
    threshold: float = 0.0  # of the rolling calibration, at the end of the day
    flagged: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_NAMES, 0))  # normal lines
    alerts: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in _NAMES})
    new_messages: set[str] = field(default_factory=set)  # flagged ones of the new version

    def add(self, line: LogLine) -> None:
        """Count a line."""
        self.lines += not line.is_incident
        self.incident_lines += line.is_incident

    def flag(self, line: LogLine, name: str, group: AlertReference) -> None:
        """Count a flagged line."""
        self.flagged[name] += not line.is_incident
        self.alerts[name].add(group.alert_id)
        if line.is_new_version:
            self.new_messages.add(line.message)

    def figures(self) -> dict[str, float]:
        """Return the counts."""
        alerts = {f"alerts_{name}": len(ids) for name, ids in self.alerts.items()}
        return {"lines": self.lines, "threshold": round(self.threshold, 3), **self.flagged, **alerts}


def _scored(
    scorer: CalibratedScorer, lines: Sequence[LogLine]
) -> Iterator[tuple[LogLine, LineReading, float]]:
    read = scorer.read([line.text for line in lines])
    assert scorer.calibration is not None
    scores, _ = scorer.calibration.calibration.score([line.surprisal for line in read])
    yield from zip(lines, read, scores.tolist(), strict=True)


def _group(scorer: CalibratedScorer, line: LineReading) -> AlertReference:
    group = scorer.group(line)
    return AlertReference(group.alert_id("month"), group.template, group.span, group.value)


def _suppression(message: str) -> Suppression:
    """Return what an operator would write for a message of the new version: its fields are `*`."""
    pattern = message.replace("10.0.{b}.{b}", "*")
    for name in "uphnmb":
        pattern = pattern.replace(f"{{{name}}}", "*")
    return Suppression(id=message, model="month", template=f"*{pattern}", until=float("inf"), created_at=0.0)


def _print(found: dict[str, Any], options: argparse.Namespace) -> None:
    spans = {str(week + 1): range(7 * week, 7 * week + 7) for week in range(_WEEKS)}
    spans["3, after the new version's first day"] = range(_VERSION_DAY + 1, _VERSION_DAY + 7)
    weeks = []
    for label, numbers in sorted(spans.items()):
        days = [found["days"][number] for number in numbers]
        total = {name: sum(day[name] for day in days) for name in days[0] if name != "threshold"}
        weeks.append({"week": label, "days": len(days), **total})
    names = ("fixed", "alerts_fixed", "alerts_fixed_reported", "alerts_rolling_reported")
    rows = [
        [week["week"], *(f"{week[name] / week['days']:.1f}" for name in names)]
        + [f"{week[name] / week['lines']:.2%}" for name in ("fixed", "fixed_reported", "rolling_reported")]
        for week in weeks
    ]
    print("Per day: flagged lines; alerts; alerts not suppressed; the same with rolling calibration.")
    print("Then the share of normal lines that were flagged, and of those reported.\n")
    print_table(
        ["week", "lines", "alerts", "suppressed", "rolling", "flagged", "reported", "rolling, reported"], rows
    )
    after = {name: f"line {at}" for name, at in found["incident_found_after"].items()}
    print(f"\nThe incident is found at: {after or 'no line'}; asked rate {options.rate:g}.")
    print(f"Rolling: {found['rebuilds']} batches, of which {found['held']} were held because of drift.")
    print_json_line(
        "month",
        lines=options.lines,
        seconds=options.seconds,
        rate=options.rate,
        drift=options.drift,
        weeks=weeks,
        **found,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-month", description="Alerts and false alarms in a simulated month of a log."
    )
    parser.add_argument("--lines", type=int, default=1000, help="per day")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training")
    parser.add_argument("--rate", type=float, default=0.01, help="the false-alarm rate")
    parser.add_argument(
        "--drift", type=float, default=0.005, help="users and paths replaced per day, a share"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
