"""The optimizer AdamW and the average of gradients, compiled when first imported."""

import numpy as np

from nextchar.models.kernels.jit import compiled
from nextchar.models.kernels.packed_arrays import F1, F2

_LANES = 16


@compiled(f"float64({F2}, {F1}, int64, int64)")
def average(parts, mean, first, last):  # type: ignore[no-untyped-def]
    """Write the mean of `parts` (R, N) to mean[first:last]; return the sum of its squares."""
    inverse = np.float32(1 / len(parts))
    mean = mean[first:last]
    for i in range(len(mean)):
        mean[i] = 0
    for r in range(len(parts)):
        part = parts[r, first:last]
        for i in range(len(mean)):
            mean[i] += part[i] * inverse
    squares = np.zeros(_LANES)  # summed in lanes, which the compiler vectorizes without reordering a sum
    whole = len(mean) // _LANES * _LANES
    for i in range(0, whole, _LANES):
        lanes = mean[i : i + _LANES]
        for j in range(_LANES):
            squares[j] += np.float64(lanes[j]) * np.float64(lanes[j])
    total = 0.0
    for i in range(whole, len(mean)):
        total += np.float64(mean[i]) * np.float64(mean[i])
    for j in range(_LANES):
        total += squares[j]
    return total


@compiled(f"void({F1}, {F1}, {F1}, {F1}, float32, float32, float32, float32, float32, float32)")
def adamw(values, gradient, m, v, scale, rate, decay, beta_1, beta_2, epsilon):  # type: ignore[no-untyped-def]
    """Take a step of AdamW (Loshchilov and Hutter 2019), as Keras does; all arrays are (N,).

    Args:
        values: the weights.
        gradient: their gradient.
        m: its running mean.
        v: the running mean of its squares.
        scale: what the gradient is multiplied by, for clipping.
        rate: the learning rate, corrected for the bias of m and v.
        decay: the share that weights lose.
        beta_1: the decay of m.
        beta_2: the decay of v.
        epsilon: added to the root of v.
    """
    one = np.float32(1)
    for i in range(len(values)):
        g = gradient[i] * scale
        m[i] += (g - m[i]) * (one - beta_1)
        v[i] += (g * g - v[i]) * (one - beta_2)
        values[i] -= values[i] * decay
        values[i] -= m[i] * rate / (np.sqrt(v[i]) + epsilon)
