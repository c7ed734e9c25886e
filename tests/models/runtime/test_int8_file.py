import numpy as np

from models.runtime import int8_file


def test_a_column_of_zeros_is_quantized_to_zeros() -> None:
    weights = np.array([[0.0, 1.0], [0.0, -2.0]], np.float32)
    quantized, scale = int8_file._quantized(weights)
    np.testing.assert_array_equal(quantized, [[0, 64], [0, -127]])
    np.testing.assert_allclose(quantized * scale, weights, atol=0.01)
