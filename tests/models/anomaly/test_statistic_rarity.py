import numpy as np

from models.anomaly.statistic_rarity import leave_one_out_rarity, rarity


def test_each_calibration_line_is_compared_with_the_others_alone() -> None:
    random = np.random.default_rng(0)
    values = random.exponential(1.0, (12, 3))
    values[3] = values[7]  # a line that is there twice is as high as its twin
    ordered, spread = np.sort(values.T), values.std(0)
    found = leave_one_out_rarity(values, ordered, spread)
    for i, line in enumerate(values):
        others = np.sort(np.delete(values, i, 0).T)
        np.testing.assert_allclose(found[i], rarity(line[None], others, spread)[0])
