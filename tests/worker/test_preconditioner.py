"""Preconditioned gradients: their rows are uncorrelated, and the kernels compute what NumPy does."""

import numpy as np
import pytest

from nextchar.worker.kernel_step import KernelPreconditioner, slices
from nextchar.worker.preconditioner import (
    START,
    Preconditioner,
    arrays_of,
    is_observed,
    is_preconditioned,
    restore,
)

H, N = 24, 60


def gradients(steps: int, *, seed: int = 0, scale: float = 1.0) -> list[np.ndarray]:
    """Return gradients (H, N) with correlated rows, the first of which are the largest."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(H, H)) * np.geomspace(1, 0.01, H)
    return [(scale * mixing @ random.normal(size=(H, N))).astype(np.float32) for _ in range(steps)]


def observed(steps: int, *, scale: float = 1.0) -> Preconditioner:
    one = Preconditioner(H)
    for step, gradient in enumerate(gradients(steps, scale=scale), 1):
        if is_observed(step):
            one.observe(gradient @ gradient.T / N, step)
    return one


def test_rows_of_preconditioned_gradients_are_uncorrelated_and_of_nearly_equal_norm() -> None:
    one = observed(96)
    later = gradients(200, seed=0)[100:]
    before = np.mean([g @ g.T / N for g in later], 0)
    after = np.mean([one.root @ g @ (one.root @ g).T / N for g in later], 0)

    def condition(matrix: np.ndarray) -> float:
        values = np.linalg.eigvalsh(matrix)
        return float(values[-1] / values[H // 4])

    assert condition(before) > 20
    assert condition(after) < 2
    assert np.trace(after) / H == pytest.approx(1, rel=0.3)


def test_the_scale_of_gradients_changes_only_that_of_the_root() -> None:
    np.testing.assert_allclose(observed(48, scale=1e-3).root * 1e-3, observed(48).root, rtol=1e-2, atol=1e-2)


def test_gradients_of_zeros_leave_the_identity() -> None:
    one = Preconditioner(H)
    for step in range(1, START + 1):
        assert not one.observe(np.zeros((H, H), np.float32), step)
    np.testing.assert_array_equal(one.root, np.eye(H))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_kernels_compute_what_numpy_does(dtype: str, tolerance: float, parts: int) -> None:
    ours, theirs = KernelPreconditioner((H, N), dtype), Preconditioner(H)
    scale = 0.5
    for step, gradient in enumerate(gradients(60), 1):
        if is_observed(step):
            theirs.observe(scale**2 * gradient @ gradient.T / N, step)
        expected = theirs.root @ gradient if is_preconditioned(step) else gradient
        found = gradient.copy()
        ours.apply(found, step=step, scale=scale, parallel=map, parts=parts)
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_restored_arrays_continue_as_the_original() -> None:
    one, other = observed(48), Preconditioner(H)
    restore([other], arrays_of([one]))
    for step, gradient in enumerate(gradients(96)[48:], 49):
        if is_observed(step):
            assert one.observe(gradient @ gradient.T / N, step) == other.observe(
                gradient @ gradient.T / N, step
            )
    np.testing.assert_array_equal(one.root, other.root)
    assert (one.root != observed(48).root).any()
    with pytest.raises(KeyError):
        restore([other], {})


def test_slices_divide_a_length() -> None:
    assert slices(7, 3) == [slice(0, 2), slice(2, 4), slice(4, 7)]
