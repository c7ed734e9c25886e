"""Dynamic evaluation: a network that learns from a stream while it reads it (Krause et al. 2018).

Only the output layer is adapted. A delta D is added to its weights W (H, V) and updated after each character
by one step of gradient descent on its surprisal, from the last layer's h (H,):

    D  <-  (1 - DECAY) D - RATE h (p - onehot)

D is a weighted sum over the recent past; its norm is at most RATE / DECAY times the largest norm of h, and
old terms decay. This is cheap, needs no gradient through time, and does not change the model: D belongs to
one stream. docs/engineering/anomaly-study.md reports its effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import BITS
from models.runtime.session import State, StepNetwork
from models.runtime.surprisal import LineSurprisal, split_by_line
from models.text.vocabulary import UNKNOWN_ID, Vocabulary, unknown_bits

RATE = 0.005
DECAY = 2e-4

MAX_WEIGHTS = 1 << 18
"""The largest delta, H * (V - 1) numbers, that is kept per stream: a mebibyte."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class StreamPosition:
    """Where a stream of lines stands, from one call to the next.

    Attributes:
        state: (1, S) before the newline in front of the next line; None at the beginning.
        delta: (H, V - 1), what was learned from the stream; None if it was read without learning.
    """

    state: State | None = None
    delta: Floats | None = None


def read_adapting(
    network: StepNetwork,
    vocabulary: Vocabulary,
    lines: Sequence[str],
    position: StreamPosition,
    *,
    units: int,
) -> tuple[list[LineSurprisal], StreamPosition]:
    """Read lines one after the other, as `models.runtime.surprisal.stream_surprisal`, and learn from them.

    Args:
        network: stacked LSTMs, with the state h1 | c1 | ... | h | c.
        vocabulary: its characters.
        lines: without their newlines.
        position: what the previous call returned.
        units: H, of the last layer.
    """
    state = network.initial_state() if position.state is None else position.state
    shape = (units, network.V - 1)
    delta = np.zeros(shape, np.float32) if position.delta is None else position.delta.reshape(shape).copy()
    ids = vocabulary.encode("\n" + "".join(line + "\n" for line in lines))
    bits, entropy = np.empty(len(ids) - 1, np.float32), np.empty(len(ids) - 1, np.float32)
    last_h = slice(state.shape[1] - 2 * units, state.shape[1] - units)
    for i, target in enumerate(ids[1:].tolist()):
        logits, state = network.step(ids[i : i + 1, None], state)
        h = state[0, last_h]
        z = logits[0, 0, 1:] + h @ delta
        z -= z.max()
        p = np.exp(z)
        total = p.sum()
        p /= total
        log_total = np.log(total)
        entropy[i] = (log_total - p @ z) * BITS
        if target == UNKNOWN_ID:  # never predicted, so nothing can be learned
            bits[i] = unknown_bits(network.V)
            continue
        bits[i] = (log_total - z[target - 1]) * BITS
        p[target - 1] -= 1
        delta *= 1 - DECAY
        delta -= np.outer(RATE * h, p)
    surprisals = split_by_line(lines, bits, entropy, has_end="\n" in vocabulary.characters)
    return surprisals, StreamPosition(state, delta)
