"""A stateful LSTM layer: Keras's layer and weights with a faster training path on the CPU.

Stock Keras multiplies the inputs within the time loop and accumulates weight gradients step by step. Here one
product projects the inputs of all steps (`project`), and `models.kernels.tensorflow_ops` runs the steps; its
backward pass computes each weight gradient as one product over all steps. The layer is saved and loaded as
the stock layer. On a GPU `run_keras` uses Keras's implementation, which calls cuDNN and is faster still.

Under a mixed dtype policy the products are computed in 16 bits, as in stock Keras; gates and states stay
float32, unlike there.

Arrays are time-major: (T, B, …). States are arguments and results.
"""

import keras
import tensorflow as tf

from models.architectures.precision import product
from models.kernels import tensorflow_ops


class FastLSTM(keras.layers.LSTM):
    """`keras.layers.LSTM` with tanh and sigmoid; training calls `project` and `sequence`, or `run_keras`."""

    def project(self, x: tf.Tensor) -> tf.Tensor:
        """Project inputs (N, E) to their contribution to the gates (N, 4H), float32."""
        z = product(x, tf.convert_to_tensor(self.cell.kernel), self.compute_dtype)
        return z + tf.convert_to_tensor(self.cell.bias)

    def sequence(
        self, z: tf.Tensor, ids: tf.Tensor, h: tf.Tensor, c: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Run T steps from state (h, c).

        Args:
            z: (N, 4H) projected inputs; gates in Keras's order i, f, g, o.
            ids: (T, B) int32 rows of z; static shape.
            h: (B, H) the output before the first step.
            c: (B, H) the cell before the first step.

        Returns:
            All outputs (T, B, H), and the state (B, H), (B, H) after the last step.
        """
        u = tf.convert_to_tensor(self.cell.recurrent_kernel)
        return tensorflow_ops.lstm(z, ids, u, h, c, self.compute_dtype)

    def run_keras(self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Run T steps from state (h, c) by Keras's implementation: on a GPU one call of cuDNN, without XLA.

        Args:
            x: (T, B, E) inputs, not projected.
            h: (B, H) the output before the first step.
            c: (B, H) the cell before the first step.

        Returns:
            As `sequence`, float32.
        """
        hs, h, c = self(tf.transpose(x, (1, 0, 2)), initial_state=[h, c], training=True)
        return (
            tf.cast(tf.transpose(hs, (1, 0, 2)), tf.float32),
            tf.cast(h, tf.float32),
            tf.cast(c, tf.float32),
        )
