"""A fake of cuDNN's LSTM for machines without a GPU, with its parameter layout."""

from __future__ import annotations

from typing import Any

import pytest

from nextchar.models.architectures.lazy import tf


class FakeCudnn:
    """Replaces TensorFlow's cuDNN operation and records its calls.

    The layout of `params` is cuDNN's: for each gate the transposed kernel, then for each the transposed
    recurrent kernel, then two biases for each; gates in the order i, f, g, o.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, *, input_h: tf.Tensor, input_c: tf.Tensor, params: tf.Tensor, **options: Any
    ) -> tuple[tf.Tensor, ...]:
        """Run `input` (B, T, E) from (B, 1, H), (B, 1, H)."""
        xs = options.pop("input")
        self.calls.append({"shape": tuple(xs.shape), "dtype": xs.dtype.name, **options})
        e, n = xs.shape[2], input_h.shape[2]
        sizes = [4 * n * e, 4 * n * n, 8 * n]
        w, u, biases = tf.split(params, sizes)
        w, u = tf.reshape(w, (4 * n, e)), tf.reshape(u, (4 * n, n))
        b = tf.add_n(tf.split(biases, 2))
        h, c, hs = input_h[:, 0], input_c[:, 0], []
        for x in tf.unstack(xs, axis=1):
            z = tf.matmul(x, w, transpose_b=True) + tf.matmul(h, u, transpose_b=True) + b
            i, f, g, o = tf.split(z, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            hs.append(h)
        unused = tf.zeros(())
        return tf.stack(hs, 1), h[:, None], c[:, None], unused, unused


def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCudnn:
    """Make TensorFlow report a GPU, and replace its cuDNN operation."""
    cudnn, real = FakeCudnn(), tf.config.list_logical_devices

    def devices(kind: str | None = None) -> list[Any]:
        return [tf.config.LogicalDevice("/device:GPU:0", "GPU")] if kind == "GPU" else real(kind)

    monkeypatch.setattr(tf.config, "list_logical_devices", devices)
    monkeypatch.setattr(tf.raw_ops, "CudnnRNNV3", cudnn)
    return cudnn
