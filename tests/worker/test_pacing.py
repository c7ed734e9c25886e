from typing import Any

import numpy as np
import pytest

from nextchar.worker.pacing import EvaluationPlan, Pace, plan_by_steps, plan_evaluations, seconds_per_step
from nextchar.worker.schedule import RunState, Schedule


class Clock:
    """Seconds that pass only when they are added."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("budget_s", "first_evaluation_s", "plan"),
    [
        (300, 0.1, EvaluationPlan(20, 2 / 300, 40_000, 0.4)),  # as many and as large as there may be
        (300, 0.3, EvaluationPlan(20, 2 / 300, 20_000, 0.6)),  # 12 s, 4 % of the budget
        (300, 1.0, EvaluationPlan(12, 2 / 300, 10_000, 1.0)),  # as many as 12 s allow
        (60, 0.8, EvaluationPlan(8, 2 / 60, 10_000, 0.8)),  # a curve of a minute, although it takes 6.4 s
        (60, 1.2, EvaluationPlan(6, 2 / 60, 10_000, 1.2)),  # 12 % of the budget
        (30, 0.01, EvaluationPlan(10, 2 / 30, 40_000, 0.04)),  # at most one in 3 s
        (3, 0.5, EvaluationPlan(2, 0.5, 10_000, 0.5)),  # in the middle, and the last
    ],
)
def test_evaluations_take_four_percent_of_the_budget_but_a_minute_has_a_curve(
    budget_s: float, first_evaluation_s: float, plan: EvaluationPlan
) -> None:
    planned = plan_evaluations(budget_s, first_evaluation_s=first_evaluation_s)
    assert (planned.count, planned.first, planned.characters) == (plan.count, plan.first, plan.characters)
    assert planned.seconds == pytest.approx(plan.seconds)


def evaluated_steps(plan: EvaluationPlan, steps: int) -> list[int]:
    """The steps after which a run is evaluated."""
    state = RunState(
        Schedule(end=steps), evaluations=1, evaluations_planned=plan.count, first_evaluation=plan.first
    )
    due = []
    while not state.is_finished:
        state.advance(windows_per_epoch=10**9)
        if state.is_evaluation_due or state.is_finished:
            due.append(state.step)
            state.evaluations += 1
    return due


def test_a_run_is_evaluated_soon_and_then_at_equal_distances() -> None:
    assert evaluated_steps(plan_by_steps(200), 200) == [25, 50, 75, 100, 125, 150, 175, 200]
    assert evaluated_steps(plan_by_steps(1), 1) == [1]
    of_a_long_run = evaluated_steps(plan_by_steps(100_000), 100_000)
    assert (of_a_long_run[0], of_a_long_run[-1], len(of_a_long_run)) == (32, 100_000, 20)
    assert set(np.diff(of_a_long_run)) <= {5261, 5262, 5263, 5264}
    of_a_minute = evaluated_steps(plan_evaluations(60, first_evaluation_s=0.1), 600)
    assert of_a_minute[0] == 20  # 2 s
    assert len(of_a_minute) == 20


class _Step:
    """A training step that takes 60 s to compile and then these seconds, in turn; and rows of 4 windows."""

    windows_per_epoch = 4

    def __init__(self, clock: Clock, *durations_s: float) -> None:
        self._clock, self._durations_s = clock, durations_s
        self.windows: list[int] = []
        self.state = np.zeros(1)

    def window_at(self, *, epoch: int, index: int) -> tuple[int]:
        assert epoch == 0
        return (index,)

    def run(self, window: int, *, step: int, learning_rate: float) -> None:
        assert (step, learning_rate) == (0, 0)
        runs = len(self.windows)
        self._clock.now_s += self._durations_s[runs % len(self._durations_s)] if runs else 60
        self.windows.append(window)
        self.state += 1

    def arrays(self) -> dict[str, Any]:
        return {"state": self.state.copy()}

    def restore(self, arrays: dict[str, Any]) -> None:
        self.state = arrays["state"]


@pytest.mark.parametrize(("budget_s", "runs"), [(0, 3), (100, 3), (200, 5), (1000, 6)])
def test_the_speed_is_measured_for_a_fiftieth_of_the_budget_but_at_most_5_s(
    budget_s: float, runs: int
) -> None:
    clock = Clock()
    step: Any = _Step(clock, 1.0)
    assert seconds_per_step(step, step, clock, budget_s=budget_s) == 1.0
    assert step.windows == [0, 1, 2, 3, 0, 1][:runs]
    assert step.state == 0  # as it was


def test_seconds_count_from_the_first_step_over_all_attempts() -> None:
    clock = Clock()
    pace = Pace(100, clock)
    clock.now_s += 7
    assert pace.elapsed_s == 0
    assert pace.start(elapsed_before_s=10) == 7
    assert pace.elapsed_s == 10
    clock.now_s += 5
    assert pace.elapsed_s == 15


def test_seconds_are_left_for_the_evaluations_to_come() -> None:
    pace = Pace(100, Clock())
    pace.start(elapsed_before_s=15)
    state = RunState(Schedule(end=9), step=8, evaluations_planned=20, evaluations=1, evaluation_s=0.5)
    assert pace.affordable_end(state, 0.25) == 8 + 300  # 75 s: the last evaluation is in addition to 20
    state.evaluations = 21
    assert pace.affordable_end(state, 0.25) == 8 + 340
    state.evaluations = 22
    assert pace.affordable_end(state, 0.25) == 8 + 340
    pace.start(elapsed_before_s=99.9)
    assert pace.affordable_end(state, 0.25) == 9  # not in the past


def test_the_schedule_is_fitted_to_the_average_speed_at_each_twentieth_of_the_budget() -> None:
    clock = Clock()
    pace = Pace(100, clock)
    state = RunState(Schedule(end=50), step=10, evaluations=21)
    pace.start(elapsed_before_s=20)
    assert pace.retimed(state) is state.schedule  # no step has been measured
    pace.add_step(30.0)
    assert pace.steps_per_second == pytest.approx(1 / 30)
    pace.add_step(0.5)
    assert pace.steps_per_second == 2, "the first step may compile"
    pace.add_step(1.0)
    assert pace.steps_per_second == pytest.approx(1 / 0.51)
    clock.now_s += 5
    assert not pace.should_retime()
    clock.now_s += 0.5
    assert pace.should_retime()
    assert pace.retimed(state) == Schedule(end=10 + 146, step=10, progress=0.2)  # 74.5 s
    assert not pace.should_retime()


def test_a_budget_in_steps_is_never_retimed() -> None:
    clock = Clock()
    pace = Pace(None, clock)
    pace.start(elapsed_before_s=0)
    pace.add_step(0.5)
    clock.now_s += 1e6
    state = RunState(Schedule(end=50))
    assert not pace.should_retime()
    assert pace.retimed(state) is state.schedule


def test_without_a_budget_in_seconds_three_steps_are_measured() -> None:
    clock = Clock()
    step: Any = _Step(clock, 0.001)
    assert seconds_per_step(step, step, clock) == pytest.approx(0.001)
    assert step.windows == [0, 1, 2]
