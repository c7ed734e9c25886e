"""Surprisal of invented lines, for tests that need no network."""

from collections.abc import Sequence

import numpy as np

from nextchar.models.runtime.surprisal import LineSurprisal


def surprisal(
    bits: Sequence[float], entropy: Sequence[float] | None = None, *, end: float | None = None
) -> LineSurprisal:
    """A line whose characters have `bits`, and `entropy` or none."""
    expected = np.zeros(len(bits)) if entropy is None else np.array(entropy)
    return LineSurprisal(
        np.array(bits, np.float32), expected.astype(np.float32), has_end=end is not None, end_bits=end or 0.0
    )


def random_lines(random: np.random.Generator, count: int, *, scale: float = 1.0) -> list[LineSurprisal]:
    """Lines of 5 to 60 characters with exponentially distributed bits."""
    return [
        surprisal(random.exponential(scale, n), np.full(n, 0.5), end=0.1)
        for n in random.integers(5, 60, count)
    ]
