import pytest

from nextchar.worker.schedule import Schedule, dropout


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


def test_the_rate_by_hand() -> None:
    schedule = Schedule(end=1000)
    assert schedule.rate(0) == pytest.approx(1 / 31)
    assert schedule.rate(15) == pytest.approx(16 / 31)
    assert schedule.rate(30) == 1
    assert schedule.rate(515) == pytest.approx(0.505)
    assert schedule.rate(1000) == pytest.approx(0.01)


def test_dropout_grows_with_the_epochs_beyond_four_up_to_a_half() -> None:
    rates = [dropout(epochs, weights_per_character=100) for epochs in (0, 4, 6.5, 9, 100)]
    assert rates == [0, 0, 0.25, 0.5, 0.5]
    assert dropout(5.23456, weights_per_character=12) == 0.123


def test_dropout_grows_with_the_size_of_the_network_for_the_text() -> None:
    rates = [dropout(8, weights_per_character=weights) for weights in (0, 0.1, 0.7, 2, 4, 8, 11.4)]
    assert rates == [0, 0, 0, 0.15, 0.25, 0.35, 0.4]
    assert [dropout(epochs, weights_per_character=2) for epochs in (12, 20, 100)] == [0.3, 0.5, 0.5]
