"""The layout of packed int8 matrices."""

import numpy as np

from nextchar.models.kernels.lstm_arguments import GROUP, pack, padded_columns, padded_rows

PANEL = 16


def test_a_packed_matrix_has_every_weight_in_its_panel_and_group_and_zeros_elsewhere() -> None:
    k, n = 6, PANEL + 3
    weights = np.random.default_rng(0).integers(-127, 128, (k, n)).astype(np.int8)
    packed = pack(weights, PANEL)
    assert packed.size == padded_rows(k) * padded_columns(n, PANEL) == 8 * 2 * PANEL
    panels = packed.reshape(2, 2, PANEL, GROUP)
    for i in range(k):
        for j in range(n):
            assert panels[j // PANEL, i // GROUP, j % PANEL, i % GROUP] == weights[i, j]
    assert np.count_nonzero(packed) == np.count_nonzero(weights)
