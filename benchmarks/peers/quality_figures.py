"""How held-out text is judged in the quality benchmark: by the worker's own measure, the same for all."""

import math
from typing import cast

from benchmarks.texts import Halves
from models.runtime.session import Network, StepNetwork
from worker.evaluation import bits_per_character

_ON_THE_WAY = 40_000  # held-out characters that a point of a curve is measured on, as in the worker
_WARM_UP = 2000  # characters that the final pass is read after, as in the worker's report


def nats_on_the_way(network: StepNetwork, halves: Halves) -> float:
    """Return nats a character on the first part of the held-out text, read as rows side by side."""
    judged = cast(Network, network)  # of which the measure uses no more
    return math.log(2) * bits_per_character(judged, halves.held_out[:_ON_THE_WAY], before=halves.train)


def nats_in_one_pass(network: StepNetwork, halves: Halves) -> float:
    """Return nats a character on all of the held-out text, read once from its start to its end."""
    judged = cast(Network, network)
    bits = bits_per_character(judged, halves.held_out, before=halves.train, rows=1, warm_up=_WARM_UP)
    return math.log(2) * bits
