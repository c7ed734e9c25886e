"""The compiled products and loops at sizes that fill no panel, tile or pair."""

import numpy as np
import pytest
import tensorflow as tf

from models.kernels import lstm_training, tensorflow_ops

ROUNDOFF = {"float32": 2**-22, "bfloat16": 2**-8 if lstm_training.HAS_BFLOAT16 else 2**-22}


@pytest.mark.parametrize("dtype", list(ROUNDOFF))
@pytest.mark.parametrize("rows", [1, 3, 4, 6, 7, 9, 11, 16])
def test_a_product_and_its_gradients_are_those_of_numpy(dtype: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    a, b, d = (rng.normal(size=s).astype("f") for s in ((rows, 37), (37, 70), (rows, 70)))
    with tf.GradientTape() as tape:
        variables = [tf.Variable(a), tf.Variable(b)]
        found = tensorflow_ops.product(*variables, dtype)
    gradients = tape.gradient(found, variables, output_gradients=tf.constant(d))
    for ours, x, y in zip([found, *gradients], [a, d, a.T], [b, b.T, d], strict=True):
        # Each factor is rounded once; sums are of float32.
        assert (np.abs(ours.numpy() - x @ y) <= 4 * ROUNDOFF[dtype] * (np.abs(x) @ np.abs(y)) + 1e-6).all()


def test_inputs_from_a_table_are_the_same_as_inputs_written_out() -> None:
    rng = np.random.default_rng(0)
    steps, rows, units, size = 5, 3, 7, 4
    table, u = (tf.constant(rng.normal(size=(n, 4 * units)), tf.float32) for n in (size, units))
    h, c = (tf.constant(rng.normal(size=(rows, units)), tf.float32) for _ in range(2))
    ids = tf.constant(rng.integers(0, size, (steps, rows)), tf.int32)
    written = tf.gather(table, tf.reshape(ids, (-1,)))
    places = tf.reshape(tf.range(steps * rows), (steps, rows))
    results = []
    for z, where in ((table, ids), (written, places)):
        with tf.GradientTape() as tape:
            tape.watch([z, u, h, c])
            hs, h_last, c_last = tensorflow_ops.lstm(z, where, u, h, c, "float32")
            loss = tf.reduce_sum(hs * hs) + tf.reduce_sum(h_last * c_last)
        results.append([hs, *tape.gradient(loss, [z, u, h, c])])
    from_table, from_written = results
    summed = tf.math.unsorted_segment_sum(from_written[1], tf.reshape(ids, (-1,)), size)
    from_written[1] = summed
    for ours, theirs in zip(from_table, from_written, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_is_no_number_stays_none() -> None:
    nothing = tf.fill((2, 8), np.nan)
    hs, _, _ = tensorflow_ops.lstm(
        nothing, tf.zeros((3, 1), tf.int32), tf.zeros((2, 8)), *[tf.zeros((1, 2))] * 2, "float32"
    )
    assert np.isnan(hs).all()
    assert np.isnan(tensorflow_ops.product(nothing, tf.ones((8, 2)), "bfloat16")).all()
