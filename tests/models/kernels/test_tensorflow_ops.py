"""The kernels, at sizes that are no multiple of a panel, a tile or a pair."""

import numpy as np
import pytest
import tensorflow as tf

from models.kernels import lstm_training, tensorflow_ops

ROUNDOFF = {"float32": 2**-22, "bfloat16": 2**-8 if lstm_training.HAS_BFLOAT16 else 2**-22}


@pytest.mark.parametrize("dtype", list(ROUNDOFF))
@pytest.mark.parametrize("rows", [1, 3, 4, 6, 7, 9, 11, 16])
def test_a_product_and_its_gradients_equal_numpy(dtype: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    a, b, d = (rng.normal(size=s).astype("f") for s in ((rows, 37), (37, 70), (rows, 70)))
    with tf.GradientTape() as tape:
        variables = [tf.Variable(a), tf.Variable(b)]
        result = tensorflow_ops.product(*variables, dtype)
    gradients = tape.gradient(result, variables, output_gradients=tf.constant(d))
    for actual, x, y in zip([result, *gradients], [a, d, a.T], [b, b.T, d], strict=True):
        # Each factor is rounded once; sums are float32.
        assert (np.abs(actual.numpy() - x @ y) <= 4 * ROUNDOFF[dtype] * (np.abs(x) @ np.abs(y)) + 1e-6).all()


def test_inputs_from_a_table_equal_materialized_inputs() -> None:
    rng = np.random.default_rng(0)
    steps, rows, units, size = 5, 3, 7, 4
    table, u = (tf.constant(rng.normal(size=(n, 4 * units)), tf.float32) for n in (size, units))
    h, c = (tf.constant(rng.normal(size=(rows, units)), tf.float32) for _ in range(2))
    ids = tf.constant(rng.integers(0, size, (steps, rows)), tf.int32)
    materialized = tf.gather(table, tf.reshape(ids, (-1,)))
    positions = tf.reshape(tf.range(steps * rows), (steps, rows))
    results = []
    for z, rows_of_z in ((table, ids), (materialized, positions)):
        with tf.GradientTape() as tape:
            tape.watch([z, u, h, c])
            hs, h_last, c_last = tensorflow_ops.lstm(z, rows_of_z, u, h, c, "float32")
            loss = tf.reduce_sum(hs * hs) + tf.reduce_sum(h_last * c_last)
        results.append([hs, *tape.gradient(loss, [z, u, h, c])])
    from_table, from_materialized = results
    summed = tf.math.unsorted_segment_sum(from_materialized[1], tf.reshape(ids, (-1,)), size)
    from_materialized[1] = summed
    for actual, expected in zip(from_table, from_materialized, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_nan_propagates() -> None:
    nans = tf.fill((2, 8), np.nan)
    hs, _, _ = tensorflow_ops.lstm(
        nans, tf.zeros((3, 1), tf.int32), tf.zeros((2, 8)), *[tf.zeros((1, 2))] * 2, "float32"
    )
    assert np.isnan(hs).all()
    assert np.isnan(tensorflow_ops.product(nans, tf.ones((8, 2)), "bfloat16")).all()
