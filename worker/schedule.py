"""Progress of a run from 0 to 1, its one-cycle learning rate, its dropout, and its early end.

The settings of AdamW, which every training step uses (Loshchilov and Hutter 2019).

The state of a training run, without its arrays. A checkpoint keeps it as JSON.

A run has diverged if its loss is not finite, or far above what it began with. Early stopping: a run whose
held-out loss has turned ends with a short cooldown from its best weights. The rule and what it is worth are
in docs/engineering/training-recipes.md#early-stopping.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from nextchar.models.errors import InvalidInput

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
    evaluations_planned: int = MAX_EVALUATIONS
    evaluation_characters: int = EVALUATION_CHARACTERS
    ended_early: str | None = None  # why, since the run is in its cooldown; see `Cooldown`
    evaluation_s: float = 0.0  # duration of one evaluation, if a budget in seconds must reserve time for them
    curve: list[dict[str, Any]] = field(default_factory=list)  # the metrics of each evaluation

    @property
    def is_finished(self) -> bool:
        """Whether the budget is used up."""
        return self.step >= self.schedule.end

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the run has reached its next planned evaluation; in its cooldown, the end of a quarter."""
        if self.ended_early:  # progress rises so fast that those planned would come at nearly every step
            done, steps = self.step - self.schedule.step, self.schedule.end - self.schedule.step
            return done * COOLDOWN_EVALUATIONS // steps > (done - 1) * COOLDOWN_EVALUATIONS // steps
        return int(self.schedule.at(self.step) * self.evaluations_planned) >= self.evaluations

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


MAX_RETRIES = 3

_MAX_LOSS_RATIO = 1.5  # to the first loss, or that of a uniform prediction
_MIN_CHARACTERS = 32  # the loss of a smaller step is too noisy: several steps are averaged
_AVERAGED_STEPS = 32


class Diverged(InvalidInput):
    """The loss diverged again after every rollback and at every lower learning rate."""

    code = "diverged"


@dataclass(frozen=True)
class LossBound:
    """The highest loss that a healthy run can have."""

    vocabulary_size: int
    characters_per_step: int

    def nats(self, state: RunState) -> float:
        """Return the bound in nats per character."""
        # The loss of a uniform prediction counts too: a warm start begins far below it.
        uniform = float(np.log(self.vocabulary_size))
        return _MAX_LOSS_RATIO * max(state.first_loss or 1.0, uniform, 1.0)

    def is_exceeded(self, loss: float, previous_bits: Sequence[float], state: RunState) -> bool:
        """Return whether a step's `loss`, in nats per character, means divergence.

        `previous_bits` are the losses of the steps before, in bits per character.
        """
        count = 1 if self.characters_per_step >= _MIN_CHARACTERS else _AVERAGED_STEPS
        previous = previous_bits[len(previous_bits) - count + 1 :]
        latest = [bits * float(np.log(2)) for bits in previous] + [loss]
        if len(latest) < count:
            return not np.isfinite(loss)
        return not np.mean(latest) <= self.nats(state)  # also if it is NaN


RECENT_STEPS = 50
"""Of these the losses are kept: for the progress, and for `LossBound`, which needs fewer."""


@dataclass
class StepLosses:
    """The losses of steps, in bits per character. Its size does not depend on their number."""

    recent_bits: list[float] = field(default_factory=list)
    sum_bits: float = 0.0
    count: int = 0

    def add(self, bits: float) -> None:
        """Add the loss of a step."""
        self.recent_bits.append(bits)
        del self.recent_bits[:-RECENT_STEPS]
        self.sum_bits += bits
        self.count += 1

    @property
    def mean_bits(self) -> float | None:
        """The mean of all losses, None if there are none."""
        return self.sum_bits / self.count if self.count else None

    def to_meta(self) -> dict[str, Any]:
        """Return the losses as the JSON values of a checkpoint."""
        return {"losses": self.recent_bits[:], "loss_sum": self.sum_bits, "loss_count": self.count}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Self:
        """Return the losses of a checkpoint. An old one has all of them in `losses`, and no sum and count."""
        losses = cls()
        for bits in meta["losses"]:
            losses.add(bits)
        losses.sum_bits = meta.get("loss_sum", losses.sum_bits)
        losses.count = meta.get("loss_count", losses.count)
        return losses


PATIENCE = (
    4  # evaluations in a row without a new best, and in each median; a fifth of a run with all evaluations
)

_MIN_EPOCHS = 4  # a text that was read less often is not overfitted: the loss only goes up and down
_COOLDOWN_FRACTION = 0.1  # of the steps that were made


@dataclass(frozen=True)
class Cooldown:
    """The end of a run that stops early: the rest of the learning rate's decay, in a few steps."""

    schedule: Schedule
    sentence: str


def cooldown(state: RunState) -> Cooldown | None:
    """Return the cooldown that a run should end with, from its best weights; None: it continues.

    Call it after an evaluation. A run continues while held-out loss still falls now and then, while the
    median of four evaluations falls, while the text was read less than four times, if the cooldown would
    take longer than the rest of the budget, and in its cooldown.
    """
    if state.ended_early or state.evaluations_since_best < PATIENCE or state.epoch < _MIN_EPOCHS:
        return None
    bits = [evaluation["validation_bits_per_character"] for evaluation in state.curve[1:]]
    before, since = bits[-2 * PATIENCE : -PATIENCE], bits[-PATIENCE:]
    if before and statistics.median(since) <= statistics.median(before):
        return None  # the best was an exception: at a high rate the loss goes up and down
    end = state.step + max(1, round(_COOLDOWN_FRACTION * state.step))
    if end >= state.schedule.end:
        return None
    sentence = (
        f"ended early: held-out loss was best at step {state.best_step:,} ({state.best_bits:.3f} bits per"
        f" character), and worse at {state.evaluations_since_best} evaluations since; the last"
        f" {end - state.step:,} steps continue from those weights with a falling rate and end at step {end:,}"
        f" instead of {state.schedule.end:,}"
    )
    # The rate falls from what it was at the best step.
    progress = max(0.0, state.schedule.at(state.best_step))
    return Cooldown(Schedule(end=end, step=state.step, progress=progress), sentence)
