"""The loops of dense layers in training, compiled when first imported: cross-entropy, and ReLU with dropout.

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
