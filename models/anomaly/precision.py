"""Combines the surprisal of lines read in two precisions, for a calibration that is valid for both.

Streams are scored in int8 and JSON in float32, by one calibration. After masking, many lines of a log are
identical, and so are their figures: if int8 makes them slightly higher than float32 did, all these lines
would exceed the threshold at once. A calibration on the higher figures is valid for both.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nextchar.models.runtime.surprisal import LineSurprisal


def higher(first: Sequence[LineSurprisal], second: Sequence[LineSurprisal]) -> list[LineSurprisal]:
    """Return for the same lines the higher surprisal, and the higher excess over entropy, of both."""
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
