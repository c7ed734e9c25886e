"""Training on one page, in plain NumPy: truncated back-propagation through time, with the state carried over.

The worker does the same with compiled kernels (`nextchar.worker.training`,
`nextchar.models.kernels.lstm_window`); a test compares the loss of each step. Here is one LSTM layer with
coupled gates, as in the presets, without dropout.

Shapes: B rows, T steps of a window, E embedding, H units, V vocabulary with id 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.worker.schedule import BETA_1, BETA_2, EPSILON, NOT_DECAYED, Schedule

Array = NDArray[Any]
Weights = dict[str, Array]
"""embedding (V, E), gamma (E,), beta (E,), lstm_0/kernel (E, 3H), lstm_0/recurrent (H, 3H), lstm_0/bias
(3H,), dense/kernel (H, V), dense/bias (V,)"""


def train(
    weights: Weights,
    ids: Array,
    *,
    rows: int,
    window: int,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    clip_norm: float,
) -> list[float]:
    """Train weights, in place, on a text (N,) of ids; return the loss of each step in nats per character."""
    row_length = (len(ids) - 1) // rows  # a row is a contiguous part of the text
    windows, remainder = divmod(row_length, window)
    frequencies = np.bincount(ids, minlength=len(weights["embedding"])) / len(ids)  # (V,)
    mean, mean_square = ({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    schedule, losses = Schedule(end=epochs * windows), list[float]()
    for epoch in range(epochs):
        h = c = np.zeros((rows, len(weights["lstm_0/recurrent"])))  # (B, H), only once per epoch
        begin = epoch * 31 % (remainder + 1)  # so that no character is skipped in every epoch
        for k in range(windows):
            at = begin + k * window + np.arange(window)[:, None] + row_length * np.arange(rows)  # (T, B)
            rate = learning_rate * schedule.rate(len(losses))
            loss, gradient, h, c = loss_and_gradient(weights, frequencies, ids[at], ids[at + 1], h, c)
            losses.append(loss)
            clip(gradient, clip_norm)
            adamw(weights, gradient, mean, mean_square, step=len(losses), rate=rate, decay=weight_decay)
    return losses


def loss_and_gradient(
    w: Weights, frequencies: Array, ids: Array, targets: Array, h: Array, c: Array
) -> tuple[float, Weights, Array, Array]:
    """Return the mean loss of a window, its gradient, and the state after it.

    `ids` and the characters after them, `targets`, are (T, B); the state before, h and c, (B, H). No gradient
    flows into the state: that is the truncation.
    """
    centered = w["embedding"] - frequencies @ w["embedding"]  # (V, E)
    deviation = np.sqrt(frequencies @ centered**2 + 1e-3)  # (E,)
    normal = centered / deviation  # (V, E)
    table = normal * w["gamma"] + w["beta"]  # (V, E)
    hs, cs, gates = [h], [c], []
    for x in table[ids]:  # (B, E)
        z = x @ w["lstm_0/kernel"] + hs[-1] @ w["lstm_0/recurrent"] + w["lstm_0/bias"]  # (B, 3H)
        f, g, o = np.split(z, 3, axis=1)  # (B, H) each
        f, g, o = 1 / (1 + np.exp(-f)), np.tanh(g), 1 / (1 + np.exp(-o))
        gates.append((f, g, o))
        cs.append(f * cs[-1] + (1 - f) * g)
        hs.append(o * np.tanh(cs[-1]))
    outputs = np.stack(hs[1:])  # (T, B, H)
    logits = outputs @ w["dense/kernel"] + w["dense/bias"]  # (T, B, V)
    logprobs = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)  # (T, B, V)
    of_targets = np.eye(len(table))[targets]  # (T, B, V) 1 for each target, else 0
    loss = -(logprobs * of_targets).sum() / ids.size

    d_logits = (np.exp(logprobs) - of_targets) / ids.size  # (T, B, V)
    d = {name: np.zeros_like(array) for name, array in w.items()}
    d["dense/kernel"] += np.einsum("tbh,tbv->hv", outputs, d_logits)
    d["dense/bias"] += d_logits.sum((0, 1))
    d_outputs = d_logits @ w["dense/kernel"].T  # (T, B, H)
    d_table, dh, dc = np.zeros_like(table), np.zeros_like(h), np.zeros_like(c)
    for t in reversed(range(len(ids))):
        (f, g, o), tanh_c = gates[t], np.tanh(cs[t + 1])  # (B, H) each
        dh += d_outputs[t]
        dc += dh * o * (1 - tanh_c**2)
        d_gates = dc * (cs[t] - g) * f * (1 - f), dc * (1 - f) * (1 - g**2), dh * tanh_c * o * (1 - o)
        dz = np.concatenate(d_gates, axis=1)  # (B, 3H)
        d["lstm_0/kernel"] += table[ids[t]].T @ dz
        d["lstm_0/recurrent"] += hs[t].T @ dz
        d["lstm_0/bias"] += dz.sum(0)
        np.add.at(d_table, ids[t], dz @ w["lstm_0/kernel"].T)
        dh, dc = dz @ w["lstm_0/recurrent"].T, dc * f
    d["gamma"], d["beta"] = (d_table * normal).sum(0), d_table.sum(0)
    d_normal = d_table * w["gamma"]  # (V, E)
    d_statistics = d_normal.sum(0) + normal * (d_normal * normal).sum(0)  # (V, E) of mean and deviation
    d["embedding"] = (d_normal - frequencies[:, None] * d_statistics) / deviation
    return float(loss), d, hs[-1], cs[-1]


def clip(gradient: Weights, max_norm: float) -> None:
    """Shorten a gradient, in place, to a norm over all weights of at most `max_norm`."""
    norm = np.sqrt(sum((array**2).sum() for array in gradient.values()))
    for name in gradient:
        gradient[name] *= max_norm / max(norm, max_norm)


def adamw(w: Weights, d: Weights, m: Weights, v: Weights, *, step: int, rate: float, decay: float) -> None:
    """Move weights against gradients d; m and v are the running means of these and of their squares."""
    unbiased_rate = rate * np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    for name in w:
        m[name] += (1 - BETA_1) * (d[name] - m[name])
        v[name] += (1 - BETA_2) * (d[name] ** 2 - v[name])
        if not any(word in name for word in NOT_DECAYED):
            w[name] *= 1 - rate * decay
        w[name] -= unbiased_rate * m[name] / (np.sqrt(v[name]) + EPSILON)
