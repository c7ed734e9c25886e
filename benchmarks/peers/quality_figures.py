"""Held-out loss in the quality benchmark, by the worker's function for all contestants."""

import math
from typing import cast

from benchmarks.texts import SplitText
from nextchar.models.runtime.session import Network, StepNetwork
from nextchar.worker.evaluation import bits_per_character

_CURVE_CHARACTERS = 40_000  # held-out characters per point of a curve, as in the worker
_WARM_UP = 2000  # characters read before the final pass, as in the worker's report


def curve_nats(network: StepNetwork, halves: SplitText) -> float:
    """Return nats per character on the first part of the held-out text, read in parallel rows."""
    judged = cast(Network, network)  # only the methods of StepNetwork are used
    return math.log(2) * bits_per_character(judged, halves.held_out[:_CURVE_CHARACTERS], before=halves.train)


def nats_in_one_pass(network: StepNetwork, halves: SplitText) -> float:
    """Return nats per character on all of the held-out text, in one pass."""
    judged = cast(Network, network)
    bits = bits_per_character(judged, halves.held_out, before=halves.train, rows=1, warm_up=_WARM_UP)
    return math.log(2) * bits
