"""Turns by the time that each takes: who has used the least of it is next."""

from collections.abc import Collection


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
