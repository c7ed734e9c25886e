"""Fits a run to its budget: how fast it trains, how many steps and evaluations the seconds allow."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nextchar.models.architectures.spec import TrainingStep
from nextchar.worker.mixing import MixedRows
from nextchar.worker.rows import Rows
from nextchar.worker.schedule import EVALUATION_CHARACTERS, MAX_EVALUATIONS, RunState, Schedule

MIN_EVALUATION_CHARACTERS = 10_000  # if a budget in seconds allows no more

_EVALUATION_FRACTION = 0.04  # the most of a budget in seconds that evaluations may take
_MIN_CURVE = 8  # evaluations of a minute: fewer are no curve, so these may take more
_MIN_CURVE_FRACTION = 0.12
_FIRST_EVALUATION_S = 2.0
_FIRST_EVALUATION_STEPS = 32  # with a budget in steps, so that the same seed gives the same model
_EVALUATION_STEPS = 25  # at least, from one evaluation to the next
_RETIME_FRACTION = 0.05  # of a budget in seconds: how often its number of steps is computed again
_MAX_MEASUREMENT_S = 5.0  # a run cannot be stopped while its speed is measured
_SMOOTHING = 0.02  # weight of the latest step in the moving average of the durations

Clock = Callable[[], float]


@dataclass(frozen=True)
class EvaluationPlan:
    """How many evaluations a run has after its first step, on how many characters, and how long each takes.

    `first` is the progress, from 0 to 1, at the first of them.
    """

    count: int
    first: float
    characters: int = EVALUATION_CHARACTERS
    seconds: float = 0.0


def plan_by_steps(steps: int) -> EvaluationPlan:
    """Return the plan for a budget of so many steps.

    >>> plan_by_steps(200).count
    8
    """
    count = max(2, min(MAX_EVALUATIONS, steps // _EVALUATION_STEPS))
    return EvaluationPlan(count, min(1 / count, _FIRST_EVALUATION_STEPS / steps))


def plan_evaluations(budget_s: float, *, first_evaluation_s: float) -> EvaluationPlan:
    """Return the plan for a budget in seconds.

    `first_evaluation_s` is how long an evaluation of MIN_EVALUATION_CHARACTERS takes.
    """
    seconds = max(first_evaluation_s, 1e-3)
    affordable = _EVALUATION_FRACTION * budget_s / seconds  # evaluations of the smallest size
    curve = min(_MIN_CURVE, int(_MIN_CURVE_FRACTION * budget_s / seconds))
    count = max(2, min(MAX_EVALUATIONS, max(curve, int(affordable)), int(budget_s / 3)))
    first = min(1 / count, _FIRST_EVALUATION_S / budget_s)
    scale = max(1.0, min(affordable / count, EVALUATION_CHARACTERS / MIN_EVALUATION_CHARACTERS))
    return EvaluationPlan(count, first, int(scale * MIN_EVALUATION_CHARACTERS), seconds * scale)


def seconds_per_step(
    step: TrainingStep, rows: Rows | MixedRows, clock: Clock, *, budget_s: float = 0.0
) -> float:
    """Measure the median duration of a step, after one that compiles; leave `step` and `rows` as they were.

    Takes at least three steps, and up to 2 % of `budget_s`.
    """
    min_duration_s = min(0.02 * budget_s, _MAX_MEASUREMENT_S)
    before = step.arrays() | rows.arrays()
    durations: list[float] = []
    began = clock()
    while len(durations) < 3 or clock() - began < min_duration_s:
        window = rows.window_at(epoch=0, index=len(durations) % rows.windows_per_epoch)
        step_began = clock()
        step.run(*window, step=0, learning_rate=0.0)
        durations.append(clock() - step_began)
        if len(durations) == 1:  # exclude compilation
            began = clock()
    step.restore(before)
    rows.restore(before)
    return float(np.median(durations[1:]))


class Pace:
    """Time and speed of a run, and the number of steps that fits its budget.

    Args:
        budget_s: the seconds to train for; None if the budget is in steps or epochs.
        clock: seconds from any origin.
    """

    def __init__(self, budget_s: float | None, clock: Clock) -> None:
        self.clock = clock
        self._step_s: float | None = None  # a moving average of the durations of steps
        self._steps = 0
        self._budget_s = budget_s
        self._created_at_s = clock()
        self._began_at_s: float | None = None  # the first step, minus the duration of earlier attempts
        self._retimed_at_s: float  # elapsed

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first step, over all attempts."""
        return 0.0 if self._began_at_s is None else self.clock() - self._began_at_s

    def start(self, *, elapsed_before_s: float) -> float:
        """Start to count time, after attempts of `elapsed_before_s`; return the seconds since creation."""
        now = self.clock()
        self._began_at_s = now - elapsed_before_s
        self._retimed_at_s = elapsed_before_s
        return now - self._created_at_s

    @property
    def steps_per_second(self) -> float | None:
        """The reciprocal of the average duration of a step; None before the first one."""
        return None if self._step_s is None else 1 / self._step_s

    def add_step(self, duration_s: float) -> None:
        """Take the duration of a step into the average, which one step at most doubles.

        Otherwise a process that was suspended during one step would plan almost no more steps.
        """
        duration_s = max(duration_s, 1e-6)
        self._steps += 1
        if self._step_s is None or self._steps <= 2:  # the first step may compile
            self._step_s = duration_s
        else:
            latest_s = min(duration_s, self._step_s / _SMOOTHING)
            self._step_s = (1 - _SMOOTHING) * self._step_s + _SMOOTHING * latest_s

    def affordable_end(self, state: RunState, step_s: float) -> int:
        """Return the step at which a budget in seconds is used up, if a step takes `step_s`."""
        evaluations_left = max(0, state.evaluations_planned + 1 - state.evaluations)
        assert self._budget_s is not None
        left_s = self._budget_s - self.elapsed_s - evaluations_left * state.evaluation_s
        return state.step + max(1, int(left_s / step_s))

    def should_retime(self) -> bool:
        """Return whether a twentieth of a budget in seconds has passed since the last call of `retimed`."""
        if self._budget_s is None:
            return False
        return self.elapsed_s - self._retimed_at_s > _RETIME_FRACTION * self._budget_s

    def retimed(self, state: RunState) -> Schedule:
        """Return the schedule, with its rest fitted to the measured speed if the budget is in seconds.

        A run that ends early keeps its schedule.
        """
        if self._budget_s is None or self._step_s is None or state.ended_early:
            return state.schedule
        self._retimed_at_s = self.elapsed_s
        end = self.affordable_end(state, self._step_s)
        return state.schedule.retimed(step=state.step, end=end)
