"""The fast stateful LSTM: Keras's layer with Keras's weights, and a training path made for long text.

Stock Keras multiplies the input inside the time loop and adds up the weight gradients step by step.
Here the caller hoists the input product over all steps (`project`), and the steps are run by the kernels of
`models.kernels.tensorflow_ops`, whose backward pass makes each weight gradient as one product over all steps.
The layer saves, loads and runs elsewhere as the stock layer it is. On a GPU cuDNN is faster still: `by_keras`
hands over to Keras, which calls it.

Under a mixed dtype policy the products are done in 16 bits. Gates and states stay float32, where stock Keras
has them in 16 bits too.

Time-major throughout: (T, B, …). States enter as arguments and leave as results.
"""

import keras
import tensorflow as tf

from models.architectures.precision import product
from models.kernels import tensorflow_ops


class FastLSTM(keras.layers.LSTM):
    """`keras.layers.LSTM` with tanh and sigmoid; training calls `project` and `sequence`, or `by_keras`."""

    def project(self, x: tf.Tensor) -> tf.Tensor:
        """Return the input's share of the gates: (N, E) -> (N, 4H) float32, for any number N of inputs."""
        z = product(x, tf.convert_to_tensor(self.cell.kernel), self.compute_dtype)
        return z + tf.convert_to_tensor(self.cell.bias)

    def sequence(
        self, z: tf.Tensor, ids: tf.Tensor, h: tf.Tensor, c: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Run T steps from state (h, c).

        Args:
            z: (N, 4H) projected inputs; gates in Keras's order i, f, g, o.
            ids: (T, B) int32, which of them comes where; T and B known when traced.
            h: (B, H) the output before the first step.
            c: (B, H) the cell before the first step.

        Returns:
            All outputs (T, B, H), and the state (B, H), (B, H) after the last step.
        """
        u = tf.convert_to_tensor(self.cell.recurrent_kernel)
        return tensorflow_ops.lstm(z, ids, u, h, c, self.compute_dtype)

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
