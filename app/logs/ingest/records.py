"""Ingested lines as they are accepted and delivered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LineMeta:
    """Metadata of a line.

    Attributes:
        time: of the line, in Unix seconds, if the agent sent it. source: where the line comes from, such as a
        host. calibration: the one to use if it exists. false_alarms: the rate; None: the calibration's
        default. owner: the API key that sent it, if one did.
    """

    time: float | None = None
    source: str | None = None
    calibration: str | None = None
    false_alarms: float | None = None
    owner: str | None = None

    def dump(self) -> str:
        """Return it as JSON."""
        fields = {
            "t": self.time,
            "s": self.source,
            "c": self.calibration,
            "f": self.false_alarms,
            "o": self.owner,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})

    @classmethod
    def load(cls, data: bytes) -> "LineMeta":
        """Read what `dump` returned."""
        fields = json.loads(data)
        return cls(*map(fields.get, "tscfo"))


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
class IngestLimits:
    """Limits on waiting lines per model and on their memory in Redis for all models together."""

    max_lines: int = 200_000
    max_bytes: int = 64 << 20


COUNTERS = ("accepted", "dropped", "expired", "failed", "flagged", "rejected")
"""Those that are stored since the first line: `scored` follows from the others."""
