"""Progress of a run from 0 to 1, its one-cycle learning rate, and its dropout."""

import math
from dataclasses import dataclass

_WARMUP_FRACTION = 0.03  # of the run, in which the rate rises
_FINAL_RATE = 0.01  # share of the peak rate at the end

_EPOCHS_WITHOUT_DROPOUT = 4.0  # up to here dropout makes the network worse
_DROPOUT_PER_EPOCH = 0.1
_MAX_DROPOUT = 0.5
_LOG_WEIGHTS = (-0.5, 3.5)  # log2 of the weights per character from which on there is dropout, and all of it


def dropout(epochs: float, *, weights_per_character: float) -> float:
    """Return the fraction of outputs to drop when a text is read `epochs` times.

    A network that has few weights for the length of the text does not overfit it. The measurements are in
    docs/engineering/training-recipes.md.

    >>> [dropout(epochs, weights_per_character=16) for epochs in (4, 6, 20)]
    [0.0, 0.2, 0.5]
    >>> [dropout(8, weights_per_character=weights) for weights in (0.5, 2, 8)]
    [0.0, 0.15, 0.35]
    """
    none, full = _LOG_WEIGHTS
    by_size = (math.log2(max(weights_per_character, 2**none)) - none) / (full - none)
    by_epochs = _DROPOUT_PER_EPOCH * max(0.0, epochs - _EPOCHS_WITHOUT_DROPOUT)
    return round(min(by_epochs * min(by_size, 1.0), _MAX_DROPOUT), 3)


@dataclass(frozen=True)
class Schedule:
    """Linear progress from (`step`, `progress`) to (`end`, 1).

    A run with a budget in steps keeps one line. A run with a budget in seconds is retimed when the machine is
    faster or slower than measured; progress stays continuous, and a checkpoint keeps the new line.
    """

    end: int
    step: int = 0
    progress: float = 0.0

    def at(self, step: int) -> float:
        """Return the progress before step number `step`."""
        if step >= self.end:
            return 1.0
        return self.progress + (step - self.step) * (1 - self.progress) / (self.end - self.step)

    def retimed(self, *, step: int, end: int) -> "Schedule":
        """Return the schedule that continues from `step` and ends at step `end`."""
        return Schedule(end=max(end, step + 1), step=step, progress=self.at(step))

    def rate(self, step: int) -> float:
        """Return the fraction of the peak learning rate at `step`: linear warm-up, then a cosine."""
        p = self.at(step)
        if p < _WARMUP_FRACTION:
            return (p + 1e-3) / (_WARMUP_FRACTION + 1e-3)
        cosine = 0.5 * (1 + math.cos(math.pi * (p - _WARMUP_FRACTION) / (1 - _WARMUP_FRACTION)))
        return _FINAL_RATE + (1 - _FINAL_RATE) * cosine
