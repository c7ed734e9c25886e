"""The notes' fourth network: `simple_rnn` that predicts after every character, not only after the last.

Eight characters in, eight out: each window teaches eight predictions for the price of one, and is read from
zeros, as a text of its own. In training the network so sees one to eight characters; when it completes and
scores, always the last eight, for which the notes give their figure.
"""

from __future__ import annotations

from models.architectures.lazy import keras, tf
from models.architectures.simple_rnn import FIRST_STEPS, SimpleRNN, parameters
from models.architectures.spec import Architecture
from models.architectures.table import rows_of
from models.architectures.window import graph
from models.config import NetworkConfig, TrainingConfig


class SequenceRNN(SimpleRNN):
    """A SimpleRNN that returns its output at every step."""

    def initial_state(self, rows: int) -> tuple[()]:  # noqa: ARG002
        """Return nothing: every window starts from zeros."""
        return ()

    def logits(self, ids: tf.Tensor, state: tuple[()], *, seed: tf.Tensor) -> tuple[tf.Tensor, tuple[()]]:  # noqa: ARG002
        """Predict after each of ids (T, B), from those before it in this window: logits (T, B, V)."""
        t, b = ids.shape
        x = tf.reshape(rows_of(self._table(), tf.reshape(ids, (-1,))), (t, b, -1))
        h, begun = tf.zeros((b, self.config.units)), tf.zeros((b, 1))
        outputs = []
        for step in range(t):  # as many as the network's context, at most 64
            h = self._cell(x[step], h, begun)
            outputs.append(h)
        return self._predicted(tf.concat(outputs, 0), t, b), state

    def keras_model(self) -> keras.Model:
        """Return the notes' network of stock layers: ids (B, T) -> logits (B, T, V); id 0 is masked."""
        return self._stock_model(every_step=True)


def activation_floats_per_character(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return how many numbers training keeps for each character of a window: hidden units and logits."""
    return 6 * config.units + 4 * vocabulary_size


ARCHITECTURE = Architecture(
    description="An RNN that predicts after every character of its window, which it reads from zeros.",
    network=NetworkConfig(architecture="sequence_rnn", units=256, embedding=42, context=8),
    training=TrainingConfig(rows=32, window=8, learning_rate=6e-3, weight_decay=0.0),
    network_options=("units", "embedding", "context"),
    training_options=("rows", "learning_rate", "weight_decay", "clip_norm"),
    build=SequenceRNN,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    warmup_steps=FIRST_STEPS,
    reads_windows_alone=True,
    notes_nats=1.75,
    notes_measure="training loss of the eighth character",
)
