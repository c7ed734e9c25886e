"""The rule, and runs that end early."""

from dataclasses import replace

import numpy as np
import pytest

from nextchar.models.config import Budget
from nextchar.worker.prepared_text import Text
from nextchar.worker.schedule import RunState, Schedule, cooldown
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit
from tests.worker.test_training import NETWORK, TEXT, Recorder, _training, _weights

# The end is another text: what is learned of the beginning soon makes it worse.
_WORDS = "the cat sat on the mat; the dog sat on the log. " * 12 + "mat log dog cat the sat on; " * 4
OTHER_END = Text.split(_WORDS, validation_fraction=112 / len(_WORDS))
OVERFITTING = _training(learning_rate=3e-2, weight_decay=0.0, budget=Budget(steps=600), early_stopping=True)

# Evaluated at each twentieth of 200 steps; the best was at step 60.
TURNED = RunState(Schedule(end=200), step=100, epoch=4, best_step=60, best_bits=2.5, evaluations_since_best=4)


def test_the_cooldown_takes_a_tenth_of_the_steps_so_far_from_the_rate_of_the_best_step() -> None:
    end = cooldown(TURNED)
    assert end is not None
    assert (end.schedule.step, end.schedule.end) == (100, 110)
    assert end.schedule.rate(100) == TURNED.schedule.rate(60)
    assert end.schedule.rate(110) == TURNED.schedule.rate(200)
    assert end.sentence == (
        "ended early: held-out loss was best at step 60 (2.500 bits per character), and worse at 4"
        " evaluations since; the last 10 steps continue from those weights with a falling rate and end at"
        " step 110 instead of 200"
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"evaluations_since_best": 3}, id="held-out loss may still fall"),
        pytest.param({"epoch": 3}, id="the text was not read often"),
        pytest.param({"step": 182}, id="nothing is saved"),
        pytest.param({"ended_early": "ended early: …"}, id="it is in its cooldown"),
    ],
)
def test_a_run_continues(change: dict) -> None:
    assert cooldown(replace(TURNED, **change)) is None


@pytest.mark.parametrize(
    ("bits", "has_turned"),
    [
        pytest.param([2.02, 2.08, 1.97, 1.89, 1.95, 1.99, 1.95, 1.96], False, id="an exceptional evaluation"),
        pytest.param([2.52, 2.52, 2.52, 2.48, 2.52, 2.55, 2.54, 2.58], True, id="the loss rises"),
        pytest.param([2.59, 2.58, 2.56, 2.57, 2.60, 2.69, 2.75], True, id="it rises soon"),
        pytest.param([2.1, 2.2, 2.3, 2.4], True, id="it only rises"),
    ],
)
def test_a_run_ends_once_the_median_of_four_evaluations_rises(bits: list[float], has_turned: bool) -> None:
    curve = [{"validation_bits_per_character": one} for one in (6.5, *bits)]
    assert (cooldown(replace(TURNED, curve=curve)) is not None) == has_turned


def test_a_cooldown_is_evaluated_at_its_quarters_however_many_evaluations_were_planned() -> None:
    end = cooldown(replace(TURNED, step=400, schedule=Schedule(end=800)))
    assert end is not None and (end.schedule.step, end.schedule.end) == (400, 440)
    state = replace(TURNED, schedule=end.schedule, ended_early=end.sentence, evaluations=10)
    due = [step for step in range(401, 441) if replace(state, step=step).is_evaluation_due]
    assert due == [410, 420, 430, 440]
    short = replace(state, schedule=Schedule(end=402, step=400))
    assert [step for step in (401, 402) if replace(short, step=step).is_evaluation_due] == [401, 402]


def test_a_run_that_overfits_ends_early_and_says_so() -> None:
    recorder = Recorder()
    whole = fit(NETWORK, OVERFITTING.model_copy(update={"early_stopping": False}), OTHER_END)
    result = fit(NETWORK, OVERFITTING, OTHER_END, hooks=recorder.hooks)
    assert whole.ended_early is None and whole.steps == 600
    assert result.stopped is None
    assert result.steps < 500
    assert result.best_bits <= whole.best_bits
    assert result.ended_early and result.ended_early.startswith(
        "ended early: held-out loss was best at step "
    )
    assert [m["text"] for m in recorder.of_type("message")].count(result.ended_early) == 1
    last = recorder.progress[-1]
    assert (last["step"], last["steps"], last["ended_early"]) == (
        result.steps,
        result.steps,
        result.ended_early,
    )
    rates = [m["learning_rate"] for m in recorder.of_type("metrics")]
    assert rates[-1] == pytest.approx(0.01 * 3e-2)


def test_a_run_that_ends_early_and_is_killed_ends_with_the_same_bits() -> None:
    recorder = Recorder()
    expected = fit(NETWORK, OVERFITTING, OTHER_END, hooks=recorder.hooks)
    in_cooldown = [c for c in recorder.checkpoints if c.meta["run"]["ended_early"]]
    assert len(in_cooldown) >= 2
    before = next(c for c in reversed(recorder.checkpoints) if not c.meta["run"]["ended_early"])
    for checkpoint in (before, in_cooldown[0], in_cooldown[1]):
        again = Recorder()
        resumed = fit(NETWORK, OVERFITTING, OTHER_END, resume=checkpoint, hooks=again.hooks)
        assert (resumed.steps, resumed.best_step) == (expected.steps, expected.best_step)
        assert resumed.ended_early == expected.ended_early
        assert _bits(resumed) == _bits(expected)
        for ours, theirs in zip(_weights(resumed), _weights(expected), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def _bits(result: Result) -> list[tuple[int, float]]:
    return [(point["step"], point["validation_bits_per_character"]) for point in result.curve]


def test_a_run_whose_loss_keeps_falling_is_the_same_with_early_stopping() -> None:
    ours = fit(NETWORK, _training(early_stopping=True), TEXT)
    theirs = fit(NETWORK, _training(), TEXT)
    assert (ours.ended_early, ours.steps, ours.best_step) == (None, theirs.steps, theirs.best_step)
    for one, other in zip(_weights(ours), _weights(theirs), strict=True):
        np.testing.assert_array_equal(one, other)
