import json

import pytest

from nextchar.worker import divergence
from nextchar.worker.divergence import RECENT_STEPS, StepLosses


def losses_of(steps: int) -> StepLosses:
    losses = StepLosses()
    for step in range(steps):
        losses.add(1 / (step + 3))
    return losses


def test_the_mean_is_of_all_steps_and_the_last_ones_are_kept() -> None:
    losses = losses_of(1000)
    assert losses.mean_bits == pytest.approx(sum(1 / (step + 3) for step in range(1000)) / 1000)
    assert losses.recent_bits == [1 / (step + 3) for step in range(1000 - RECENT_STEPS, 1000)]
    assert RECENT_STEPS >= divergence._AVERAGED_STEPS
    assert StepLosses().mean_bits is None


@pytest.mark.parametrize("steps", [0, 1, 7, 1000])
def test_losses_after_a_resume_are_the_same_bits(steps: int) -> None:
    losses = losses_of(steps)
    meta = losses.to_meta()
    resumed = StepLosses.from_meta(json.loads(json.dumps(meta)))
    old = StepLosses.from_meta({"losses": [1 / (step + 3) for step in range(steps)]})
    assert resumed == old == losses
    losses.add(9.0)
    assert StepLosses.from_meta(meta) == resumed, "a checkpoint does not change"
