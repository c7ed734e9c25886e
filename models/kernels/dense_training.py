"""The loops of dense layers and of the optimizer in training, compiled when first imported.

Their products are those of `packed_arrays`. A call runs in the calling thread and releases the GIL.
"""

import numpy as np

from nextchar.models.kernels.activations import exp
from nextchar.models.kernels.jit import compiled
from nextchar.models.kernels.packed_arrays import F1, F2, signatures, store


@compiled(f"float64({F1}, float32)", is_internal=True)
def _softmax(z, logit):  # type: ignore[no-untyped-def]
    """Replace logits z (V,) by probabilities; return -log of the probability that belongs to `logit`."""
    largest = z[0]
    for i in range(1, len(z)):
        largest = max(largest, z[i])
    for i in range(len(z)):
        z[i] = exp(z[i] - largest)
    total = 0.0
    for i in range(len(z)):
        total += z[i]
    inverse = np.float32(1 / total)
    for i in range(len(z)):
        z[i] *= inverse
    return np.log(total) - (logit - largest)


@compiled(*signatures(f"void({F1}, float32, X1, {F1})"), is_internal=True)
def _write_gradient(gradient, scale, d, d_bias):  # type: ignore[no-untyped-def]
    """Write a gradient (N,) times `scale` to activations, and add it to that of the biases (N,)."""
    for i in range(len(gradient)):
        gradient[i] *= scale
        d_bias[i] += gradient[i]
    for i in range(len(gradient)):
        store(d, i, gradient[i])


@compiled(*signatures(f"float64({F2}, int32[::1], float32, X, {F1})"))
def cross_entropy(logits, targets, scale, d, d_bias):  # type: ignore[no-untyped-def]
    """Return the summed loss of R predictions, in nats, and write its gradient times `scale`.

    Args:
        logits: (R, V or more); overwritten.
        targets: (R,) int32 ids.
        scale: what gradients are multiplied by.
        d: (R, V or more) activations, filled with the gradient of the logits.
        d_bias: (V,), to which the gradient of the biases is added.
    """
    loss = 0.0
    for r in range(len(targets)):
        p, target = logits[r, : len(d_bias)], targets[r]
        loss += _softmax(p, p[target])
        p[target] -= np.float32(1)
        _write_gradient(p, scale, d[r], d_bias)
    return loss


@compiled(*signatures(f"float64({F2}, {F2}, float32, X, {F1})"))
def soft_cross_entropy(logits, targets, scale, d, d_bias):  # type: ignore[no-untyped-def]
    """As `cross_entropy`, for targets (R, V) that are distributions over the ids."""
    loss = 0.0
    for r in range(len(targets)):
        p, target = logits[r, : len(d_bias)], targets[r]
        mean = np.float32(0)
        for i in range(len(p)):
            mean += target[i] * p[i]
        loss += _softmax(p, mean)
        for i in range(len(p)):
            p[i] -= target[i]
        _write_gradient(p, scale, d[r], d_bias)
    return loss


@compiled(*signatures(f"void({F2}, {F2}, X)"))
def relu(z, mask, x):  # type: ignore[no-untyped-def]
    """Write max(z, 0) times a mask to activations.

    Args:
        z: (T * B, N or more).
        mask: (B, N).
        x: (T * B, N or more), filled.
    """
    for r in range(len(x)):
        row, target, factor = z[r], x[r], mask[r % len(mask)]
        for j in range(len(factor)):
            store(target, j, max(row[j], np.float32(0)) * factor[j])


@compiled(*signatures(f"void({F2}, {F2}, {F2}, X, {F1})"))
def relu_gradient(z, mask, d_above, d, d_bias):  # type: ignore[no-untyped-def]
    """Back-propagate through `relu`.

    Args:
        z: (T * B, N or more) what `relu` was given; overwritten.
        mask: (B, N).
        d_above: (T * B, N or more) the gradient of what `relu` wrote.
        d: (T * B, N or more) activations, filled with the gradient of z.
        d_bias: (N,), to which the gradient of the biases is added.
    """
    for r in range(len(d)):
        row, above, factor = z[r, : len(d_bias)], d_above[r], mask[r % len(mask)]
        for j in range(len(row)):
            row[j] = above[j] * factor[j] if row[j] > 0 else np.float32(0)
        _write_gradient(row, np.float32(1), d[r], d_bias)


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
