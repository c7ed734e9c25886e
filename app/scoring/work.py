"""Threads of the calls that score: each kind has its own, so that none waits for a longer kind."""

import anyio

from nextchar.app.http.threads import LimitedWork

_SCORE_THREADS = 8
_LINE_THREADS = 4


class ScoringWork:
    """The threads of one application.

    Attributes:
        short: for short scores and small batches of streamed lines.
        lines: for batches of many streamed lines.
        long: scores of many lines or of streams.
    """

    def __init__(self) -> None:
        self.short = anyio.CapacityLimiter(_SCORE_THREADS)
        self.lines = anyio.CapacityLimiter(_LINE_THREADS)
        self.long = LimitedWork("long scores", running=2, waiting=32, retry_after_s=5)
        self.calibrating = LimitedWork("calibrations", running=2, waiting=4, retry_after_s=30)
        self.evaluating = LimitedWork(
            "evaluations", running=1, waiting=2, retry_after_s=30, code="evaluation_busy"
        )

    def close(self) -> None:
        """End long work."""
        for work in (self.long, self.calibrating, self.evaluating):
            work.close()
