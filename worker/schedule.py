"""Progress of a run from 0 to 1, its one-cycle learning rate, and its dropout.

The settings of AdamW, which every training step uses (Loshchilov and Hutter 2019).

The state of a training run, without its arrays. A checkpoint keeps it as JSON.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

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


BETA_1 = 0.9
BETA_2 = 0.99
EPSILON = 1e-8
NOT_DECAYED = ("bias", "gamma", "beta", "embedding")
"""Weights with one of these words in their names are not decayed."""


MAX_EVALUATIONS = 20
EVALUATION_CHARACTERS = 40_000  # of held-out text; the report at the end reads more
COOLDOWN_EVALUATIONS = 4  # with the one at its end

_ROUNDING = 1e-9

_STORED_NAMES = {"window_index": "k"}  # by field, where a checkpoint has another name


@dataclass
class RunState:
    """Everything that changes during training, except arrays."""

    schedule: Schedule
    step: int = 0
    epoch: int = 0
    window_index: int = 0  # of the next window in its epoch
    elapsed_s: float = 0.0
    rate_scale: float = 1.0  # halved at each rollback
    dropout: float | None = None  # None: the network's configuration fixes it
    retries: int = 0  # rollbacks so far
    first_loss: float | None = None  # nats per character
    best_bits: float = float("inf")
    best_step: int = 0
    evaluations: int = 0  # done
    evaluations_since_best: int = 0
    evaluations_planned: int = MAX_EVALUATIONS  # after the first step, with the one at the end
    first_evaluation: float = 1 / MAX_EVALUATIONS  # the progress at the first of them
    evaluation_characters: int = EVALUATION_CHARACTERS
    ended_early: str | None = None  # why, since the run is in its cooldown; see nextchar.worker.divergence
    evaluation_s: float = 0.0  # duration of one evaluation, if a budget in seconds must reserve time for them
    curve: list[dict[str, Any]] = field(default_factory=list)  # the metrics of each evaluation

    @property
    def is_finished(self) -> bool:
        """Whether the budget is used up."""
        return self.step >= self.schedule.end

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the run has reached its next planned evaluation; in its cooldown, the end of a quarter.

        The first is at `first_evaluation`, the others at equal distances from there to the end.
        """
        if self.ended_early:  # progress rises so fast that those planned would come at nearly every step
            done, steps = self.step - self.schedule.step, self.schedule.end - self.schedule.step
            return done * COOLDOWN_EVALUATIONS // steps > (done - 1) * COOLDOWN_EVALUATIONS // steps
        distance = (1 - self.first_evaluation) / max(1, self.evaluations_planned - 1)
        due = self.first_evaluation + (self.evaluations - 1) * distance
        return self.schedule.at(self.step) >= due - _ROUNDING

    def advance(self, *, windows_per_epoch: int) -> None:
        """Advance to the next step and its window."""
        self.step += 1
        self.window_index += 1
        if self.window_index == windows_per_epoch:
            self.epoch, self.window_index = self.epoch + 1, 0

    def to_meta(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {_STORED_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "RunState":
        """Return the state that `to_meta` returned `meta` for."""
        field_names = {stored: name for name, stored in _STORED_NAMES.items()}
        values = {field_names.get(name, name): value for name, value in meta.items()}
        own = {"schedule": Schedule(**values["schedule"]), "curve": list(values["curve"])}
        return cls(**{**values, **own})
