"""Adds to the counts of a model's lines how often they were accepted, as one of its sources of counts.

Only texts that are lines of the newest version, or were added by another source, leave Redis: what else
people accept may be about them.
"""

import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from redis import Redis

from nextchar.app.acceptance.counting import DAY_S, LINES, PREFIX
from nextchar.app.suggestions.counts import LineCount, LineCounts, SourceCounts
from nextchar.models.errors import DomainError
from nextchar.models.text import line_file
from nextchar.models.text.line_file import Lines
from nextchar.store import lease
from nextchar.store.models import Models

SOURCE = "accepted"
"""The name of this source of counts."""

INTERVAL_S = 30.0

_LEASE = f"{PREFIX}lines_lease"
_LEASE_S = 300
_MAX_LINES = 10_000

log = logging.getLogger("nextchar.acceptance")


@dataclass(frozen=True)
class AcceptedLines:
    """The accepted lines of the models `names`, whose counts decay. Raises as `redis` does. Blocking."""

    redis: Redis
    names: Sequence[str]
    half_life_days: float
    counts: LineCounts
    models: Models
    clock: Callable[[], float] = time.time
    token: str = field(default_factory=secrets.token_hex)

    def run(self) -> None:
        """Replace the counts of all models that have changed, in one process at a time."""
        if not (self.names and lease.acquire_or_renew(self.redis, _LEASE, self.token, _LEASE_S)):
            return
        for name in self.names:
            try:
                self._replace(name)
            except DomainError as error:
                log.warning("accepted lines of %s are counted later: %s", name, error)

    def forget(self, name: str, source: str | None) -> None:
        """Delete what was accepted of a model's name, if that source is deleted, or all are."""
        if source in (None, SOURCE) and (keys := self._keys(name)):
            self.redis.delete(*keys)

    def _replace(self, name: str) -> None:
        today = int(self.clock() // DAY_S)
        left: defaultdict[str, float] = defaultdict(float)
        for key in self._keys(name):
            age_days = max(0, today - int(key.rpartition(":")[2]))
            for text, number in cast(dict[str, str], self.redis.hgetall(key)).items():
                left[text] += int(number) * 0.5 ** (age_days / self.half_life_days)
        at = today * DAY_S
        lines = tuple(LineCount(text, number, at) for text, number in self._known(name, left))
        before = next((one for one in self.counts.read(name) if one.source == SOURCE), None)
        counts = SourceCounts(
            model=name,
            source=SOURCE,
            half_life_days=self.half_life_days,
            adds_lines=False,
            updated_at=self.clock(),
            updated_by=None,
            lines=lines,
        )
        if lines and not (before and counts == before.model_copy(update={"updated_at": counts.updated_at})):
            self.counts.put(counts)

    def _known(self, name: str, left: Mapping[str, float]) -> list[tuple[str, float]]:
        """Return the texts that are lines, those of largest count first."""
        if not left or not self.models.is_listed(name):
            return []
        saved = self.models.get(name)
        if line_file.FILE not in saved.card.files:
            return []
        lines = Lines.load(saved.mapped(line_file.FILE))
        added = [one.text for source in self.counts.read(name) if source.adds_lines for one in source.lines]
        known = lines.with_lines(text for text in added if not lines.is_withheld(text)).find(left)
        found = [item for item, line in zip(left.items(), known, strict=True) if line >= 0]
        return sorted(found, key=lambda item: (-item[1], item[0]))[:_MAX_LINES]

    def _keys(self, name: str) -> list[str]:
        return sorted(self.redis.scan_iter(f"{LINES}{name}:*", count=10_000))
