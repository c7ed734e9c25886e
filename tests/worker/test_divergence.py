import math

import pytest

from nextchar.worker.schedule import LossBound, RunState, Schedule

BIT = math.log(2)


def _state(first_loss: float | None = None) -> RunState:
    return RunState(Schedule(end=10), first_loss=first_loss)


def test_the_bound_is_half_above_the_first_loss_a_uniform_prediction_and_a_nat() -> None:
    assert LossBound(5, 100).nats(_state()) == pytest.approx(1.5 * math.log(5))
    assert LossBound(5, 100).nats(_state(first_loss=4)) == 6
    assert LossBound(5, 100).nats(_state(first_loss=0.1)) == pytest.approx(1.5 * math.log(5))
    assert LossBound(2, 100).nats(_state()) == 1.5


@pytest.mark.parametrize(
    ("loss", "is_exceeded"), [(1.5, False), (1.51, True), (math.nan, True), (math.inf, True)]
)
def test_a_large_step_is_judged_by_its_own_loss(loss: float, is_exceeded: bool) -> None:
    for previous_bits in ([], [0.1] * 50, [99.0] * 50):
        assert LossBound(2, 32).is_exceeded(loss, previous_bits, _state()) == is_exceeded


def test_small_steps_are_judged_by_the_average_of_the_last_32() -> None:
    bound = LossBound(2, 31)
    assert not bound.is_exceeded(1e9, [1.0] * 30, _state())  # too few
    assert bound.is_exceeded(math.nan, [1.0] * 30, _state())
    assert bound.is_exceeded(1.6, [1.6 / BIT] * 31, _state())
    assert not bound.is_exceeded(1.4, [1.4 / BIT] * 31, _state())
    assert bound.is_exceeded(0.0, [1.5 / BIT * 33, *[0.0] * 30], _state())  # the first of the last 32
    assert not bound.is_exceeded(0.0, [1.5 / BIT * 33, *[0.0] * 31], _state())
    assert bound.is_exceeded(1.5 * 33, [0.0] * 31, _state())
    assert not bound.is_exceeded(1.5 * 31, [0.0] * 31, _state())
