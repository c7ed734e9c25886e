"""Ingested lines as they are accepted and delivered, and the figures and the stored settings of a model.

    ingest_settings/<model name>/<sequence>.json   the settings after their <sequence>-th change, by whom

A change creates the next file, which succeeds for one of several writers; the others retry. The files before
it stay as the history. Settings belong to the model's name, and follow its last version
(`nextchar.app.logs.room`).
"""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nextchar.models.errors import Conflict
from nextchar.store.blobs import Blobs
from nextchar.store.expiring_cache import Clock, ExpiringCache
from nextchar.store.history import History, ImmutableRecord, number_of, read_record

Recalibrate = Literal["never", "rolling"]
"""Whether a calibration follows the lines that are compared with it."""

_CACHE_S = 2.0  # a change by another process is visible after this long
_MAX_ATTEMPTS = 10
_FOLDER = "ingest_settings"


@dataclass(frozen=True)
class LineMeta:
    """Metadata of a line.

    Attributes:
        time: of the line, in Unix seconds, if the agent sent it. source: where the line comes from, such as a
        host. calibration: the one to use if it exists. false_alarms: the rate; None: the calibration's
        default. recalibrate: whether the calibration follows the line; None: as the model's settings say.
        owner: the API key that sent it, if one did.
    """

    time: float | None = None
    source: str | None = None
    calibration: str | None = None
    false_alarms: float | None = None
    recalibrate: Recalibrate | None = None
    owner: str | None = None

    def dump(self) -> str:
        """Return it as JSON."""
        fields = {
            "t": self.time,
            "s": self.source,
            "c": self.calibration,
            "f": self.false_alarms,
            "r": self.recalibrate and self.recalibrate == "rolling",
            "o": self.owner,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})

    @classmethod
    def load(cls, data: bytes) -> "LineMeta":
        """Read what `dump` returned."""
        fields = json.loads(data)
        is_rolling = fields.get("r")
        recalibrate: Recalibrate | None = None if is_rolling is None else "rolling" if is_rolling else "never"
        return cls(
            fields.get("t"), fields.get("s"), fields.get("c"), fields.get("f"), recalibrate, fields.get("o")
        )


@dataclass(frozen=True)
class NewLine:
    """A line to be accepted: its bytes, without a newline, and its metadata."""

    data: bytes
    meta: LineMeta


@dataclass(frozen=True)
class Batch:
    """The lines of one request for one model, and how many others of it were rejected."""

    model: str
    lines: Sequence[NewLine]
    rejected: int = 0


@dataclass(frozen=True)
class Request:
    """The identity of a request that may be sent again: a hash of its key, and one of its body."""

    key: str
    body: str


@dataclass(frozen=True)
class Accepted:
    """The result of `accept`: the number of lines; `is_repeated` if an earlier request brought them."""

    lines: int
    is_repeated: bool = False


@dataclass(frozen=True)
class Entry:
    """A line that was delivered to a consumer; or an event, whose other lines are the `further` entries."""

    id: str
    data: bytes
    meta: LineMeta
    further: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all its entries."""
        return self.id, *self.further

    @property
    def received_at(self) -> float:
        """When it was accepted, in Unix seconds."""
        return int(self.id.partition("-")[0]) / 1000


@dataclass(frozen=True)
class Consumer:
    """A process that scores lines: how many it holds now, and the seconds since it last asked for some."""

    name: str
    pending: int
    idle_s: float


@dataclass(frozen=True)
class IngestLimits:
    """Limits on waiting lines per model and on their memory in Redis for all models together."""

    max_lines: int = 200_000
    max_bytes: int = 64 << 20


Counter = Literal["accepted", "dropped", "expired", "failed", "flagged", "rejected", "scored"]

COUNTERS: tuple[Counter, ...] = ("accepted", "dropped", "expired", "failed", "flagged", "rejected")
"""Those that are stored since the first line: `scored` follows from the others."""


@dataclass(frozen=True)
class IngestStatus:
    """The figures of the lines that were sent to one model."""

    counts: Mapping[Counter, int]  # since the first line
    per_minute: Mapping[Counter, float]  # over the last minute
    waiting: int
    bytes: int
    oldest_age_s: float | None
    consumers: Sequence[Consumer]
    problem: Mapping[str, str] | None


class SettingsChange(ImmutableRecord):
    """The settings of a model's name after a change, in Unix seconds.

    `changed_by` is the name of the API key; None without keys.
    """

    recalibrate: Recalibrate
    changed_at: float
    changed_by: str | None = None


class IngestSettings:
    """The settings in one storage. Safe to use from several threads. Raises as Blobs does."""

    def __init__(self, blobs: Blobs, *, clock: Clock = time.monotonic) -> None:
        self._blobs = blobs
        self._history = History(blobs, _FOLDER, SettingsChange, digits=8, damaged="settings_damaged")
        self._newest: ExpiringCache[SettingsChange | None] = ExpiringCache(_CACHE_S, clock=clock)  # by name

    def current(self, model: str) -> SettingsChange | None:
        """Return the newest change of the settings of a model's name; None: they are the default."""
        return self._newest.get(
            model, lambda _: next(filter(None, map(self._read, reversed(self._history.paths(model)))), None)
        )

    def history(self, model: str, *, limit: int) -> list[SettingsChange]:
        """Return the newest changes of a model's name, the newest first."""
        paths = reversed(self._history.paths(model)[-limit:])
        return [found for path in paths if (found := self._read(path))]

    def change(self, model: str, recalibrate: Recalibrate, *, by: str | None) -> SettingsChange:
        """Record new settings of a model's name, if they differ; return the newest change.

        Raises:
            Conflict: other changes came first, again and again (code `settings_changed`).
        """
        for _ in range(_MAX_ATTEMPTS):
            paths = self._history.paths(model)
            newest = self._read(paths[-1]) if paths else None
            if newest and newest.recalibrate == recalibrate:
                return newest
            change = SettingsChange(recalibrate=recalibrate, changed_at=time.time(), changed_by=by)
            if self._history.create(number_of(paths[-1]) + 1 if paths else 0, change, model):
                self._newest.forget(model)
                return change
        raise Conflict(
            f"the settings of {model} are being changed by others; try again", code="settings_changed"
        )

    def models(self) -> set[str]:
        """Return the names of models that have settings."""
        return set(self._blobs.folders(_FOLDER))

    def delete_all(self, model: str) -> None:
        """Delete the settings of a model's name."""
        self._blobs.delete(*self._history.paths(model))
        self._newest.forget(model)

    def move_all(self, model: str, to: str) -> None:
        """Move the settings of a model's name to another name, whose own stay; can be repeated."""
        paths, taken = self._history.paths(model), self._history.paths(to)
        with contextlib.suppress(FileNotFoundError):  # another process has moved all and deletes them
            is_taken = bool(paths and taken) and self._blobs.read_record(paths[0]) != self._blobs.read_record(
                taken[0]
            )
            for path in () if is_taken else paths:
                self._blobs.create(self._history.path(number_of(path), to), self._blobs.read_record(path))
        self._newest.forget(to)
        self.delete_all(model)

    def _read(self, path: str) -> SettingsChange | None:
        try:
            return read_record(self._blobs, path, SettingsChange)
        except FileNotFoundError:  # deleted by another process
            return None
