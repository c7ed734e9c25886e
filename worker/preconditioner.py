"""A preconditioner of the gradients of recurrent weights.

An LSTM's outputs are correlated, so the gradient of the weights they are multiplied by is large in few
directions of the inputs, which AdamW, scaling each element by itself, cannot correct. So AdamW gets R G in
place of the gradient G (H, N), where A (H, H) is the running mean of G G' / N and R is A^(-1/2): the rows of
R G are nearly uncorrelated, with a mean square of nearly 1. This is the preconditioner of one side in
Shampoo (Gupta, Koren, Singer 2018: "Shampoo: Preconditioned Stochastic Tensor Optimization").
docs/engineering/training-recipes.md has the measurements.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from nextchar.models.kernels.lstm_weights import Floats

START = 10
"""The first step whose gradient is preconditioned. The moments of AdamW are set to zero before it: gradients
until then have another scale, and the first ones are by far the largest."""

_DECAY = 0.99  # of the running mean, per observation
_OBSERVED_EVERY = 4  # steps, after START
_FIRST_ROOTS = (START, 24, 48)  # the steps after which R is computed, and every 96th
_ROOT_EVERY = 96
_EPSILON = 1e-3  # added to the eigenvalues, of their mean
_ARRAYS = ("second_moment", "root")  # that a checkpoint keeps


class Preconditioner:
    """The preconditioner of one matrix, whose gradient is (H, N).

    Attributes:
        second_moment: (H, H) A times 1 - _DECAY^observations.
        root: (H, H) R; the identity before START.
    """

    def __init__(self, size: int) -> None:
        self.second_moment: Floats = np.zeros((size, size), np.float32)
        self.root: Floats = np.eye(size, dtype=np.float32)

    def observe(self, product: Floats, step: int) -> bool:
        """Take G G' / N (H, H) of a step that `is_observed`; return whether R has changed.

        Non-finite products are ignored.
        """
        if not np.isfinite(product).all():
            return False  # divergence is detected from the loss
        self.second_moment += (product - self.second_moment) * np.float32(1 - _DECAY)
        if step not in _FIRST_ROOTS and step % _ROOT_EVERY:
            return False
        late = step // _OBSERVED_EVERY - START // _OBSERVED_EVERY
        mean = self.second_moment / np.float32(1 - _DECAY ** (min(step, START) + late))
        # With several threads the bits would depend on their number, and threads that wait keep cores busy.
        with _libraries().limit(limits=1, user_api="blas"):
            values, vectors = np.linalg.eigh(mean)
            scale = values.mean()
            if not scale > 0:
                return False
            values = np.maximum(values, 0) + _EPSILON * scale
            self.root[...] = (vectors * values ** np.float32(-0.5)) @ vectors.T
        return True


@cache
def _libraries() -> ThreadpoolController:
    """Return the libraries whose threads can be limited; finding them takes milliseconds."""
    return ThreadpoolController()


def arrays_of(preconditioners: Iterable[Preconditioner]) -> dict[str, NDArray[Any]]:
    """Return copies of everything that `restore` needs, named for a checkpoint."""
    return {
        f"preconditioner/{i}/{name}": getattr(one, name).copy()
        for i, one in enumerate(preconditioners)
        for name in _ARRAYS
    }


def restore(preconditioners: Iterable[Preconditioner], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Set what `arrays_of` returned. Raises KeyError, ValueError."""
    for i, one in enumerate(preconditioners):
        for name in _ARRAYS:
            getattr(one, name)[...] = arrays[f"preconditioner/{i}/{name}"]


def is_observed(step: int) -> bool:
    """Return whether the gradient of this step, of which the first is 1, is observed."""
    return step <= START or step % _OBSERVED_EVERY == 0


def is_preconditioned(step: int) -> bool:
    """Return whether the gradient of this step is preconditioned."""
    return step >= START
