import pytest

from worker.schedule import Schedule


def test_progress_is_a_straight_line_to_the_end() -> None:
    schedule = Schedule(end=10)
    assert [schedule.at(s) for s in (0, 5, 10, 11)] == [0.0, 0.5, 1.0, 1.0]


def test_a_retimed_schedule_is_continuous_and_ends_at_the_new_end() -> None:
    retimed = Schedule(end=100).retimed(step=40, end=50)
    assert retimed.at(40) == pytest.approx(0.4)
    assert retimed.at(45) == pytest.approx(0.7)
    assert retimed.at(50) == 1.0
    assert retimed.retimed(step=45, end=45).end == 46  # not in the past


def test_the_rate_rises_then_falls_and_never_reaches_zero() -> None:
    rates = [Schedule(end=1000).rate(s) for s in range(1000)]
    top = rates.index(max(rates))
    assert 20 <= top <= 40
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.02
