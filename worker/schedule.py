"""How far a run is and how fast it learns there: progress from 0 to 1, and a one-cycle rate over it."""

import math
from dataclasses import dataclass

_WARM_UP = 0.03  # share of the run in which the rate rises
_FINAL = 0.01  # share of the peak rate that is left at the end

_READ_WELL = 4.0  # passes over a text up to which dropout does harm
_DROPOUT_A_PASS = 0.1
_MOST_DROPOUT = 0.5


def dropout(epochs: float) -> float:
    """Return the share of outputs to drop for so many passes over a text. docs/training.md has the study.

    >>> dropout(4), dropout(6), dropout(20)
    (0.0, 0.2, 0.5)
    """
    return round(min(max(0.0, _DROPOUT_A_PASS * (epochs - _READ_WELL)), _MOST_DROPOUT), 3)


@dataclass(frozen=True)
class Schedule:
    """A straight line of progress from (`step`, `progress`) to (`end`, 1).

    A run counted in steps has one line. A run counted in seconds bends it when the machine turns out
    faster or slower than measured; the bend is continuous, and a checkpoint keeps it.
    """

    end: int
    step: int = 0
    progress: float = 0.0

    def at(self, step: int) -> float:
        """Return the progress of the run before its `step`-th step."""
        if step >= self.end:
            return 1.0
        return self.progress + (step - self.step) * (1 - self.progress) / (self.end - self.step)

    def bent(self, *, step: int, end: int) -> "Schedule":
        """Return the schedule that goes on from `step` and ends at step `end`."""
        return Schedule(end=max(end, step + 1), step=step, progress=self.at(step))

    def rate(self, step: int) -> float:
        """Return the share of the peak learning rate at `step`: linear warm-up, then a cosine to the end."""
        p = self.at(step)
        if p < _WARM_UP:
            return (p + 1e-3) / (_WARM_UP + 1e-3)
        cosine = 0.5 * (1 + math.cos(math.pi * (p - _WARM_UP) / (1 - _WARM_UP)))
        return _FINAL + (1 - _FINAL) * cosine
