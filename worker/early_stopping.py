"""Early stopping: a run whose held-out loss has turned ends with a short cooldown from its best weights.

The rule and what it is worth are in docs/engineering/training-recipes.md#early-stopping.
"""

import statistics
from dataclasses import dataclass

from nextchar.worker.run_state import RunState
from nextchar.worker.schedule import Schedule

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
