"""The same step written with stock Keras layers, in one tf.function, with XLA or without."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.peers.steps import CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, keras_versions, timed, windows


def prepare(
    *, layers: int, units: int, embedding: int, vocabulary: int, rows: int, window: int, jit_compile: bool
) -> Callable[[float], dict[str, Any]]:
    """Return the Turn."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((window,), batch_size=rows, dtype="int32")
    x = keras.layers.Embedding(vocabulary, embedding)(ids)
    inputs, outputs = [ids], []
    for _ in range(layers):
        before = [keras.Input((units,), batch_size=rows) for _ in "hc"]
        x, *after = keras.layers.LSTM(units, return_sequences=True, return_state=True)(
            x, initial_state=before
        )
        inputs += before
        outputs += after
    model = keras.Model(inputs, [keras.layers.Dense(vocabulary)(x), *outputs])
    optimizer = keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY, beta_2=0.99, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["bias", "embeddings"])
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def train(x: tf.Tensor, y: tf.Tensor, states: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        variables = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            logits, *after = model([x, *states], training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        clipped, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), CLIP_NORM)
        optimizer.apply(clipped, model.trainable_variables)
        return loss, after

    stream = windows(rows=rows, window=window, vocabulary=vocabulary)
    states = [tf.zeros((rows, units)) for _ in range(2 * layers)]

    def step() -> float:
        nonlocal states
        x, y = (tf.constant(part.T) for part in next(stream))
        loss, states = train(x, y, states)
        return float(loss)

    return timed(step)


def versions(**_: object) -> str:
    """Return the versions of the libraries."""
    return keras_versions()
