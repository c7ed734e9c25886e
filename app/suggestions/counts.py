"""Counts that are added to the lines of a model without training: how often each was chosen, bought, visited.

    line_counts/<model name>/<source>/<number>.json   all that one source has counted

Each source replaces its own counts, by the file of the next number, which is the time in milliseconds. They
belong to the model's name, so a new version has them, and follow its last version. Of a count, half is left
after each half-life. Lines that the corpus lacks become known by them, if the source says so.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

from nextchar.app.models.engines import Loaded
from nextchar.models.errors import DomainError, InvalidInput
from nextchar.models.runtime.line_index import LineIndex
from nextchar.models.runtime.suggestions import Suggester
from nextchar.store.blobs import Blobs
from nextchar.store.history import History, ImmutableRecord, number_of
from nextchar.store.models import Models

FOLDER = "line_counts"

MAX_LINES = 50_000
"""The most counts of a model's name, of all sources together."""

MAX_SOURCES = 16

LOOK_S = 0.5
"""A process looks for new counts in the background if it last looked longer ago than this."""

STALE_S = 2.0
"""A request waits for that look if the last one was longer ago than this."""

DECAY_S = 600.0
"""How often counts are halved as far as time has passed."""

_DAY_S = 86_400

log = logging.getLogger("nextchar.suggestions")


class LineCount(NamedTuple):
    """How often a line was counted at a time, in Unix seconds."""

    text: str
    number: float
    at: float


class SourceCounts(ImmutableRecord):
    """The counts of one source.

    Attributes:
        half_life_days: None: they do not decay.
        adds_lines: whether lines that the corpus lacks become known by them.
    """

    model: str
    source: str
    half_life_days: float | None
    adds_lines: bool = True
    updated_at: float
    updated_by: str | None
    lines: tuple[LineCount, ...]

    def left(self, line: LineCount, now: float) -> float:
        """Return what is left of a count at a time, in Unix seconds."""
        age_days = max(0.0, now - line.at) / _DAY_S
        return line.number * (0.5 ** (age_days / self.half_life_days) if self.half_life_days else 1.0)


def summed(sources: Sequence[SourceCounts], now: float) -> dict[str, float]:
    """Return what is left of all counts of each line."""
    values: defaultdict[str, float] = defaultdict(float)
    for source in sources:
        for line in source.lines:
            values[line.text] += source.left(line, now)
    return values


class LineCounts:
    """The counts in one storage. Safe to use from several threads."""

    def __init__(self, blobs: Blobs) -> None:
        self._history = History(blobs, FOLDER, SourceCounts, digits=13, damaged="line_counts_damaged")
        self.on_delete: list[Callable[[str, str | None], object]] = []
        """Called with the name and the source, None for all, before these are deleted."""

    def read(self, name: str) -> list[SourceCounts]:
        """Return the counts of a model's name by source, sorted; a damaged record is logged and skipped."""
        return [counts for path in self._history.newest_paths(name) if (counts := self._history.find(path))]

    def put(self, counts: SourceCounts) -> None:
        """Replace the counts of a source.

        Raises InvalidInput: there are too many with those of the other sources (code `too_many_counts`).
        """
        others = [one for one in self.read(counts.model) if one.source != counts.source]
        lines = sum(len(one.lines) for one in others) + len(counts.lines)
        if len(others) >= MAX_SOURCES or lines > MAX_LINES:
            raise InvalidInput(
                f"{counts.model} would have {lines:,} counts from {len(others) + 1} sources; it can have"
                f" {MAX_LINES:,} from {MAX_SOURCES}. Send those of the lines that count most, or delete a"
                " source",
                code="too_many_counts",
                param="lines",
            )
        self._write(counts)

    def _write(self, counts: SourceCounts) -> None:
        names = counts.model, counts.source
        before = self._history.paths(*names)
        number = max(int(counts.updated_at * 1000), number_of(before[-1]) + 1 if before else 0)
        while not self._history.create(number, counts, *names):
            number += 1
        if before:
            self._history.delete(number_of(before[-1]), *names)

    def delete(self, name: str, source: str | None = None) -> int:
        """Delete the counts of one source, or all; return how many lines they had."""
        for follow in self.on_delete:
            follow(name, source)
        found = [one for one in self.read(name) if source in (None, one.source)]
        for path in self._history.newest_paths(name, *[source] if source else []):
            self._history.delete(number_of(path), name, path.split("/")[-2])
        return sum(len(one.lines) for one in found)

    def follow(self, models: Models, name: str) -> bool:
        """Delete or move the counts of a name if it has no version any more; return whether it had some."""
        if not models.is_deleted(name):
            return False
        if renamed := models.renamed_to(name):
            known = {counts.source for counts in self.read(renamed.name)}
            for counts in self.read(name):
                if counts.source not in known:
                    self._write(counts.model_copy(update={"model": renamed.name}))
        return self.delete(name) > 0

    def sweep(self, models: Models) -> int:
        """Do so for all names; return how many had some."""
        names = {path.split("/")[1] for path in self._history.paths()}
        return sum(self.follow(models, name) for name in names)


@dataclass
class _Applied:
    """What suggests with a loaded model; times are of `time.monotonic`.

    Attributes:
        lines: those of the corpus and the sources, with the counts of the corpus.
    """

    suggester: Suggester
    lines: LineIndex
    sources: Sequence[SourceCounts] = field(default_factory=list)
    looked_at: float = float("-inf")
    counted_at: float = 0.0
    look: Future[None] | None = None


class CountedSuggesters:
    """What suggests with loaded models and the counts that were added to their lines."""

    def __init__(self, counts: LineCounts, clock: Callable[[], float] = time.time) -> None:
        self._counts, self._clock = counts, clock
        self._applied: WeakKeyDictionary[Loaded, _Applied] = WeakKeyDictionary()
        self._changes = 0  # by this process
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="count lines")

    async def get(self, loaded: Loaded) -> Suggester:
        """Return what suggests with a model that the caller has acquired."""
        if loaded.suggester.lines is None:
            return loaded.suggester
        applied = self._applied.get(loaded)
        if applied is None:
            applied = self._applied[loaded] = _Applied(loaded.suggester, loaded.suggester.lines)
        while (age_s := time.monotonic() - applied.looked_at) > LOOK_S:
            if applied.look is None or applied.look.done():
                applied.look = self._thread.submit(self._look, loaded, applied)
            if age_s <= STALE_S:
                break
            await asyncio.shield(asyncio.wrap_future(applied.look))  # others wait for it, too
        return applied.suggester

    def look_again(self, name: str) -> None:
        """Have the next request for a model's name wait for its counts, which this process has changed."""
        self._changes += 1
        for loaded, applied in list(self._applied.items()):
            if loaded.saved.card.name == name:
                applied.looked_at = float("-inf")

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self, loaded: Loaded, applied: _Applied) -> None:
        changes, now = self._changes, time.monotonic()
        try:
            try:
                sources = self._counts.read(loaded.saved.card.name)
            except (DomainError, OSError) as error:
                log.warning("suggestions of %s follow the counts that are known: %s", loaded.reference, error)
                sources = list(applied.sources)
            self._apply(sources, loaded.suggester, applied)
        finally:
            if changes == self._changes:  # else it may have read what was there before
                applied.looked_at = now

    def _apply(self, sources: Sequence[SourceCounts], own: Suggester, applied: _Applied) -> None:
        now = time.monotonic()
        decays = any(source.half_life_days for source in sources)
        if sources == applied.sources and not (decays and now - applied.counted_at > DECAY_S):
            return
        assert own.lines is not None
        if sources != applied.sources:
            texts = (line.text for source in sources if source.adds_lines for line in source.lines)
            applied.lines = own.lines.with_lines(texts) if sources else own.lines
        counted = applied.lines.with_counts(summed(sources, self._clock())) if sources else own.lines
        applied.suggester = replace(own, lines=counted)
        applied.sources, applied.counted_at = sources, now
