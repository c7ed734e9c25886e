import pytest

from nextchar.models.anomaly.calibration_builder import _batches
from nextchar.models.errors import TooLarge


def test_lines_are_read_in_batches_of_bounded_size() -> None:
    assert max(map(len, _batches([""] * 50_000))) <= 10_001
    assert sum(map(len, _batches(["a" * 1000] * 500))) == 500
    with pytest.raises(TooLarge, match="2,000,000 lines"):
        list(_batches("" for _ in range(2_000_001)))
