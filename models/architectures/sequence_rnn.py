"""The fourth network of the lecture notes: `simple_rnn` with a prediction after every character.

A window of eight characters has eight targets instead of one, and is read from a zero state, independent of
other windows. So in training a prediction sees one to eight characters; in inference always the last eight,
as in the figure of the notes.
"""

from __future__ import annotations

from dataclasses import replace

from nextchar.models.architectures import simple_rnn
from nextchar.models.architectures.lazy import keras, lookup, tf
from nextchar.models.config import NetworkConfig


class SequenceRNN(simple_rnn.SimpleRNN):
    """A SimpleRNN that returns its output at every step."""

    def initial_state(self, rows: int) -> tuple[()]:  # noqa: ARG002
        """Return (): every window starts from zeros."""
        return ()

    def logits(self, ids: tf.Tensor, state: tuple[()], *, seed: tf.Tensor) -> tuple[tf.Tensor, tuple[()]]:  # noqa: ARG002
        """Predict after each of ids (T, B), from those before it in this window: logits (T, B, V)."""
        t, b = ids.shape
        x = tf.reshape(lookup(self._table(), tf.reshape(ids, (-1,))), (t, b, -1))
        known = tf.cast(ids != 0, tf.float32)[..., None]  # (T, B, 1)
        h, has_begun = tf.zeros((b, self.config.units)), tf.zeros((b, 1))
        outputs = []
        for step in range(t):  # T is the network's context, at most 64
            h = known[step] * self._cell(x[step], h, has_begun) + (1 - known[step]) * h
            outputs.append(h)
        return self._output_logits(tf.concat(outputs, 0), t, b), state

    def keras_model(self) -> keras.Model:
        """Return the network in stock Keras layers: ids (B, T) -> logits (B, T, V); id 0 is masked."""
        return self._stock_model(every_step=True)


def activation_floats_per_character(config: NetworkConfig, vocabulary_size: int) -> int:
    """Return how many floats training keeps per character of a window: hidden units and logits."""
    return 6 * config.units + 4 * vocabulary_size


ARCHITECTURE = replace(
    simple_rnn.ARCHITECTURE,
    description="An RNN that predicts after every character of an independent window.",
    network=NetworkConfig(architecture="sequence_rnn", units=256, embedding=42, context=8),
    training_options=("rows", "learning_rate", "weight_decay", "clip_norm"),
    build=SequenceRNN,
    activation_floats_per_character=activation_floats_per_character,
    has_independent_windows=True,
    notes_nats=1.75,
    notes_measure="training loss of the eighth character",
)
