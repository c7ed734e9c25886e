"""Occurrences of flagged lines, for tests of alerts."""

import time

from nextchar.models.anomaly.alerts import AlertKey, Occurrence
from nextchar.models.anomaly.spans import Span

NOW = float(int(time.time()))
GROUP = AlertKey("user <*> failed", "1:<*>")


def one(
    line: str = "user 1 failed",
    *,
    group: AlertKey = GROUP,
    model: str = "m",
    score: float = 8.0,
    p_value: float = 0.005,
    at: float = NOW,
    line_time: float | None = None,
    source: str = "",
    entry: str | None = None,
    estimated_p: float | None = None,
    owner: str = "",
) -> Occurrence:
    """Return an occurrence of the alert GROUP, by default."""
    return Occurrence(
        group,
        model=model,
        version=1,
        line=line,
        score=score,
        p_value=p_value,
        spans=[Span(5, 6, 7.5, "x")],
        time=at,
        line_time=line_time,
        source=source,
        entry=entry,
        estimated_p=p_value if estimated_p is None else estimated_p,
        owner=owner,
    )
