"""The texts of events that are kept to learn from, for models whose alias the settings name.

    nextchar:acceptance:texts:<name>   a stream: an entry per accepted or typed text, with its source, the
                                       version and a hash of its suggestion; trimmed by age and size, expires

The script that counts an event adds its text, so a text is kept once. A source is a hash of a client's id.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from nextchar.app.acceptance.counting import DAY_S, TEXTS

_PAGE = 1_000  # entries that are read at once


@dataclass(frozen=True)
class KeptText:
    """An accepted or typed text."""

    id: str  # of the entry: <milliseconds of Unix time>-<number>
    text: str
    type: str
    source: str
    suggestion: str
    version: int

    @property
    def order(self) -> tuple[int, int]:
        """By which texts are sorted."""
        time_ms, _, number = self.id.partition("-")
        return int(time_ms), int(number)

    @property
    def kept_at(self) -> float:
        """When it was kept, in Unix seconds."""
        return self.order[0] / 1000


@dataclass(frozen=True)
class KeptTexts:
    """The texts on one Redis, whose client decodes responses. Raises as it does."""

    redis: Redis
    days: float

    def read(self, name: str, *, after: str | None = None, source: str | None = None) -> Iterator[KeptText]:
        """Yield the texts of a model's name, the oldest first: those after an id, and of one source."""
        while True:
            found = cast(
                list[Any], self.redis.xrange(f"{TEXTS}{name}", f"({after}" if after else "-", count=_PAGE)
            )
            for entry, fields in found:
                kept = KeptText(entry, **fields | {"version": int(fields["version"])})
                if source in (None, kept.source):
                    yield kept
            if len(found) < _PAGE:
                return
            after = found[-1][0]

    def latest(self, name: str) -> list[KeptText]:
        """Return the last text of each suggestion: one that is accepted word by word has several."""
        return list({kept.suggestion: kept for kept in self.read(name)}.values())

    def trim(self, name: str, *, now_s: float) -> None:
        """Delete the texts that are too old."""
        self.redis.xtrim(f"{TEXTS}{name}", minid=int((now_s - self.days * DAY_S) * 1000), approximate=False)

    def delete(self, name: str, *, source: str | None = None) -> int:
        """Delete the texts of one source, or all; return how many."""
        ids = [kept.id for kept in self.read(name, source=source)]
        for at in range(0, len(ids), _PAGE):
            self.redis.xdel(f"{TEXTS}{name}", *ids[at : at + _PAGE])
        return len(ids)
