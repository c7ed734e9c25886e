"""Measures the presets that `auto` chooses from on this machine, and chooses one."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from nextchar.models.auto_preset import Candidate, Choice, choose
from nextchar.models.machine import is_out_of_memory
from nextchar.worker.mixing import SecondText
from nextchar.worker.pacing import Clock, seconds_per_step
from nextchar.worker.prepared_text import Text
from nextchar.worker.settings import PrecisionSetting
from nextchar.worker.training import prepare

_BUDGET_S = 15.0  # measure as for this budget: 0.3 seconds, and at least three steps


def choose_preset(
    candidates: Sequence[Candidate],
    text: Text,
    *,
    second: SecondText | None = None,
    cores: int = 1,
    precision: PrecisionSetting = "mixed",
    measurements: Path | None = None,
    clock: Clock = time.monotonic,
) -> Choice:
    """Return the choice among candidates, whose budgets are in seconds, by their measured seconds per step.

    The other arguments are those of `nextchar.worker.training.fit`. A large network is measured only if the
    smaller ones are fast enough, and not chosen if it does not fit in memory.
    """

    def measure(candidate: Candidate) -> float:
        try:
            prepared = prepare(
                candidate.network,
                candidate.training,
                text,
                second=second,
                cores=cores,
                precision=precision,
                measurements=measurements,
            )
            return seconds_per_step(prepared.step, prepared.rows, clock, budget_s=_BUDGET_S)
        except Exception as error:
            if candidate == candidates[0] or not is_out_of_memory(error):
                raise
            return math.inf  # too slow: the smaller one is chosen

    budget_s = candidates[0].training.budget.seconds
    assert budget_s is not None
    return choose(candidates, budget_s, len(text.train), measure)
