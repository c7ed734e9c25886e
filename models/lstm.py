"""The fast stateful LSTM: Keras's layer with Keras's weights, and a training path made for long text.

Stock Keras multiplies the input inside the time loop and adds up the weight gradients step by step.
Here the caller hoists the input product over all steps (`project`), the loop holds only what must be
sequential, and the backward pass is written out so that each weight gradient is one product over all
steps. The layer saves, loads and runs elsewhere as the stock layer it is. On a GPU cuDNN is faster still:
`by_keras` hands over to Keras, which calls it.

Under a mixed dtype policy the products are done in 16 bits. Gates and states stay float32, where stock Keras
has them in 16 bits too.

Time-major throughout: (T, B, …). States enter as arguments and leave as results.
"""

from typing import Any

import keras
import tensorflow as tf

from models.architectures.precision import product


class FastLSTM(keras.layers.LSTM):
    """`keras.layers.LSTM` with tanh and sigmoid; training calls `project` and `sequence`, or `by_keras`."""

    def project(self, x: tf.Tensor) -> tf.Tensor:
        """Return the input's share of the gates: (N, E) -> (N, 4H) float32, for any number N of inputs."""
        z = product(x, tf.convert_to_tensor(self.cell.kernel), self.compute_dtype)
        return z + tf.convert_to_tensor(self.cell.bias)

    def sequence(self, z: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Run T steps from state (h, c).

        Args:
            z: (T, B, 4H) projected inputs, T known when traced; gates in Keras's order i, f, g, o.
            h: (B, H) the output before the first step.
            c: (B, H) the cell before the first step.

        Returns:
            All outputs (T, B, H), and the state (B, H), (B, H) after the last step.
        """
        return _lstm(z, tf.cast(tf.convert_to_tensor(self.cell.recurrent_kernel), self.compute_dtype), h, c)

    def by_keras(self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Run T steps from state (h, c) as Keras does: on a GPU that is one call of cuDNN, without XLA.

        Args:
            x: (T, B, E) inputs, not projected.
            h: (B, H) the output before the first step.
            c: (B, H) the cell before the first step.

        Returns:
            What `sequence` does, float32.
        """
        hs, h, c = self(tf.transpose(x, (1, 0, 2)), initial_state=[h, c], training=True)
        return (
            tf.cast(tf.transpose(hs, (1, 0, 2)), tf.float32),
            tf.cast(h, tf.float32),
            tf.cast(c, tf.float32),
        )


@tf.custom_gradient
def _lstm(z: tf.Tensor, u: tf.Tensor, h0: tf.Tensor, c0: tf.Tensor) -> Any:
    """All is float32 but u, whose type is that of the products."""
    steps, rows, units = z.shape[0], z.shape[1], u.shape[0]

    def array(width: int) -> tf.TensorArray:
        return tf.TensorArray(tf.float32, steps, element_shape=(rows, width))

    def forward(t: tf.Tensor, h: tf.Tensor, c: tf.Tensor, gates: Any, cs: Any, hs: Any) -> Any:
        i, f, g, o = tf.split(z[t] + product(h, u, u.dtype), 4, axis=1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        c = f * c + i * g
        h = o * tf.tanh(c)
        return t + 1, h, c, gates.write(t, tf.concat([i, f, g, o], 1)), cs.write(t, c), hs.write(t, h)

    _, h_last, c_last, gates, cs, hs = tf.while_loop(
        lambda t, *_: t < steps,
        forward,
        (0, h0, c0, array(4 * units), array(units), array(units)),
        maximum_iterations=steps,
    )
    gates, cs, hs = gates.stack(), cs.stack(), hs.stack()

    def gradient(d_hs: tf.Tensor, d_h_last: tf.Tensor, d_c_last: tf.Tensor) -> tuple[tf.Tensor, ...]:
        c_before = tf.concat([c0[None], cs[:-1]], 0)
        u_transposed = tf.transpose(u)

        def backward(t: tf.Tensor, dh: tf.Tensor, dc: tf.Tensor, dzs: Any) -> Any:
            i, f, g, o = tf.split(gates[t], 4, axis=1)
            tanh_c = tf.tanh(cs[t])
            dh = dh + d_hs[t]
            dc = dc + dh * o * (1 - tanh_c * tanh_c)
            dz = tf.concat(
                [
                    dc * g * i * (1 - i),
                    dc * c_before[t] * f * (1 - f),
                    dc * i * (1 - g * g),
                    dh * tanh_c * o * (1 - o),
                ],
                1,
            )
            return t - 1, product(dz, u_transposed, u.dtype), dc * f, dzs.write(t, dz)

        _, dh0, dc0, dzs = tf.while_loop(
            lambda t, *_: t >= 0,
            backward,
            (steps - 1, d_h_last, d_c_last, array(4 * units)),
            maximum_iterations=steps,
        )
        dz = dzs.stack()
        h_before = tf.concat([h0[None], hs[:-1]], 0)
        # One product over all steps and rows, instead of T small ones added up.
        flat_h, flat_dz = tf.reshape(h_before, (-1, units)), tf.reshape(dz, (-1, 4 * units))
        du = tf.matmul(tf.cast(flat_h, u.dtype), tf.cast(flat_dz, u.dtype), transpose_a=True)
        return dz, du, dh0, dc0

    return (hs, h_last, c_last), gradient
