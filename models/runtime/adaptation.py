"""Dynamic evaluation: a network that learns from a stream while it reads it (Krause et al. 2018).

Only the output layer is adapted: to its weights W (H, V) comes a change D, by one step of gradient descent
on the surprisal of each character as it has been read, from the last layer's h (H,):

    D  <-  (1 - DECAY) D - RATE h (p - onehot)

So D is a weighted sum over the recent past, never longer than RATE / DECAY times the longest h: bounded,
and forgotten by and by. It is cheap, needs no gradient through time, and leaves the model alone: D belongs to
one stream. What it is worth is in docs/anomalies.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import BITS
from models.runtime.scoring import LineSurprisal, unknown_bits
from models.runtime.session import State, StepNetwork
from models.text.vocabulary import UNKNOWN_ID, Vocabulary

RATE = 0.005
DECAY = 2e-4

MOST_WEIGHTS = 1 << 18
"""The largest change, H * (V - 1) numbers, that is kept for a stream: a mebibyte."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Memory:
    """What is kept of a stream: the state (1, S) before the last newline, and the change D (H, V - 1).

    D is None where the stream has been read, but not learned from.
    """

    state: State
    change: Floats | None


def read_adapting(
    network: StepNetwork, vocabulary: Vocabulary, lines: Sequence[str], memory: Memory | None, *, units: int
) -> tuple[list[LineSurprisal], Memory]:
    """Read lines of characters one behind the other, as `models.runtime.scoring.read_on`, and learn.

    Args:
        network: of stacked LSTMs, whose states are h1 | c1 | ... | h | c.
        vocabulary: its characters.
        lines: without their newlines.
        memory: what a call before this returned; None begins anew.
        units: H, of the last layer.
    """
    state = network.initial_state() if memory is None else memory.state
    known = memory.change if memory else None
    change = np.zeros((units, network.V - 1), np.float32) if known is None else known.copy()
    ids = vocabulary.encode("\n" + "".join(line + "\n" for line in lines))
    bits, entropy = np.empty(len(ids), np.float32), np.empty(len(ids), np.float32)
    last_h = slice(state.shape[1] - 2 * units, state.shape[1] - units)
    for place, wanted in enumerate(ids[1:].tolist(), 1):
        logits, state = network.step(ids[place - 1 : place, None], state)
        h = state[0, last_h]
        z = logits[0, 0, 1:] + h @ change
        z -= z.max()
        p = np.exp(z)
        total = p.sum()
        p /= total
        log_total = np.log(total)
        entropy[place] = (log_total - p @ z) * BITS
        if wanted == UNKNOWN_ID:  # nothing to learn: it is never predicted
            bits[place] = unknown_bits(network.V)
            continue
        bits[place] = (log_total - z[wanted - 1]) * BITS
        p[wanted - 1] -= 1
        change *= 1 - DECAY
        change -= np.outer(RATE * h, p)
    return _readings(lines, bits, entropy, has_end="\n" in vocabulary.characters), Memory(state, change)


def _readings(lines: Sequence[str], bits: Floats, entropy: Floats, *, has_end: bool) -> list[LineSurprisal]:
    readings, at = [], 1
    for line in lines:
        end = at + len(line)
        tail = (True, float(bits[end]), float(entropy[end])) if has_end else ()
        readings.append(LineSurprisal(bits[at:end].copy(), entropy[at:end].copy(), *tail))
        at = end + 1
    return readings
