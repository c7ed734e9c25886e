"""A line that was read in two precisions as one reading, to calibrate with.

Streams are scored in int8 and JSON in float32, by one calibration. Under masks many lines of a log are alike
to the letter, and so are their figures: where int8 makes these a little higher than any that float32 gave,
all these lines would be above the threshold at once. A calibration of the higher figures holds for both.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.runtime.scoring import LineSurprisal


def higher(first: Sequence[LineSurprisal], second: Sequence[LineSurprisal]) -> list[LineSurprisal]:
    """Return readings of the same lines with the higher surprisal, and the higher excess, of both."""
    return [_higher(a, b) for a, b in zip(first, second, strict=True)]


def _higher(a: LineSurprisal, b: LineSurprisal) -> LineSurprisal:
    bits = np.maximum(a.bits, b.bits)
    end_bits = max(a.end_bits, b.end_bits)
    return replace(
        a,
        bits=bits,
        entropy=bits - np.maximum(a.bits - a.entropy, b.bits - b.entropy),
        end_bits=end_bits,
        end_entropy=end_bits - max(a.end_bits - a.end_entropy, b.end_bits - b.end_entropy),
    )
