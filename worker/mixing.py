"""Batch mixing: part of each batch's rows come from a second text, with its own targets or a teacher's.

Rows of both texts are stateful. With a teacher, the targets of the second text's rows are not its next
characters but another model's predictions (pseudo-labels, Lee 2013): a draw from the teacher's distribution,
its likeliest character, or the distribution itself (distillation, Hinton et al. 2015). The teacher reads the
same windows, with a state of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.config import MixTargets
from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.session import State, StepNetwork
from nextchar.models.text.vocabulary import UNKNOWN_ID, Vocabulary
from nextchar.worker.prepared_text import Ids, Text
from nextchar.worker.rows import Rows

_TEACHER_STATE = "mix/teacher_state"  # the array's name in a checkpoint


class Teacher:
    """A model whose predictions are the targets of the second text.

    Args:
        network: the model's graph.
        vocabulary: the teacher's.
        student: the vocabulary of the text and of the targets.
        targets: the form of the targets.
        rows: M, the rows read at once.
        seed: for sampled targets.

    Raises:
        InvalidInput: teacher and student have no character in common (code `teacher_knows_nothing`).
    """

    def __init__(
        self,
        network: StepNetwork,
        vocabulary: Vocabulary,
        *,
        student: Vocabulary,
        targets: MixTargets,
        rows: int,
        seed: int,
    ) -> None:
        self._network, self._targets, self._seed = network, targets, seed
        self._id_of = np.concatenate([[UNKNOWN_ID], vocabulary.encode(student.characters)]).astype(np.int32)
        self._common = np.flatnonzero(self._id_of)  # (C,) the student's ids of the shared characters
        if not self._common.size:
            raise InvalidInput(
                "the teacher knows no character of the text; use one that was trained on a similar text",
                code="teacher_knows_nothing",
                param="mix.teacher",
            )
        self._state: State = network.initial_state(rows)

    def targets(self, ids: NDArray[np.int32], *, is_start: bool, window_number: int) -> NDArray[Any]:
        """Read a window (T, M) of the student's ids; return targets in the student's ids.

        `is_start` resets the state first; `window_number` counts the windows of the run.

        Returns:
            (T, M) int32, or for `distribution` (T, M, V) float32 whose last axis sums to 1.
        """
        if is_start:
            self._state = np.zeros_like(self._state)
        logits, self._state = self._network.step(self._id_of[ids], self._state)
        common = logits[:, :, self._id_of[self._common]]  # (T, M, C)
        if self._targets == "argmax":
            return self._common[common.argmax(-1)].astype(np.int32)
        if self._targets == "sampled":
            # Gumbel-max trick: the argmax of logits plus Gumbel noise is a draw from their softmax.
            noise = np.random.default_rng((self._seed, window_number)).gumbel(size=common.shape)
            return self._common[(common + noise).argmax(-1)].astype(np.int32)
        p = np.exp(common - common.max(-1, keepdims=True))
        full = np.zeros((*ids.shape, len(self._id_of)), np.float32)
        full[:, :, self._common] = p / p.sum(-1, keepdims=True)
        return full

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state, for a checkpoint."""
        return {_TEACHER_STATE: self._state.copy()}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set the state to what `arrays` returned."""
        self._state = arrays[_TEACHER_STATE].copy()


@dataclass(frozen=True)
class MixedRows:
    """The rows of two texts side by side: those of the first, then those of the second.

    An epoch is an epoch of the first text; the second text repeats at its own pace. It starts in the middle
    of its rows, so that a text mixed with itself does not have the same characters twice in a batch.
    """

    first: Rows
    second: Rows
    teacher: Teacher | None = None

    @property
    def rows(self) -> int:
        """B, of both texts."""
        return self.first.rows + self.second.rows

    @property
    def window(self) -> int:
        """T."""
        return self.first.window

    @property
    def windows_per_epoch(self) -> int:
        """Windows per row of the first text."""
        return self.first.windows_per_epoch

    def starting_rows(self, *, epoch: int, index: int) -> Iterator[slice]:
        """Yield the rows whose states are reset before this window."""
        if index == 0:
            yield slice(0, self.first.rows)
        if self._second_position(epoch, index)[1] == 0:
            yield slice(self.first.rows, self.rows)

    def window_at(self, *, epoch: int, index: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Return a window of an epoch: inputs (T, B), and targets (T, B) or (T, B, V).

        Each call advances the teacher's state, so windows must be read in order.
        """
        targets: NDArray[Any]
        inputs, targets = self.first.window_at(epoch=epoch, index=index)
        second_epoch, second_index = self._second_position(epoch, index)
        second_inputs, second_targets = self.second.window_at(epoch=second_epoch, index=second_index)
        if self.teacher:
            number = epoch * self.windows_per_epoch + index
            second_targets = self.teacher.targets(
                second_inputs, is_start=second_index == 0, window_number=number
            )
            if second_targets.ndim == 3:
                targets = _one_hot(targets, second_targets.shape[-1])
        return np.concatenate([inputs, second_inputs], 1), np.concatenate([targets, second_targets], 1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state that `restore` takes."""
        return self.teacher.arrays() if self.teacher else {}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set the state to what `arrays` returned."""
        if self.teacher:
            self.teacher.restore(arrays)

    def _second_position(self, epoch: int, index: int) -> tuple[int, int]:
        """Return the epoch of the second text, and the index of its window."""
        offset = min(self.windows_per_epoch, self.second.windows_per_epoch) // 2
        return divmod(epoch * self.windows_per_epoch + index + offset, self.second.windows_per_epoch)


@dataclass(frozen=True)
class SecondText:
    """The text to mix in: its ids, its share of the rows, and its targets."""

    ids: Ids
    fraction: float
    targets: MixTargets
    teacher: StepNetwork | None = None
    teacher_vocabulary: Vocabulary | None = None

    def mix_into(self, text: Text, *, rows: int, window: int, seed: int) -> MixedRows:
        """Return B rows of both texts; fewer if the first text is too small for its share.

        Raises:
            InvalidInput: a text is too small for a row of its own (code `mix_has_no_rows`), or the teacher
                knows none of its characters.
        """
        max_count = round(rows * self.fraction)
        first = Rows.cut(text.train, rows=max(1, rows - max_count), window=window)
        count = min(max_count, mixed_rows(first.rows, self.fraction))
        second = Rows.cut(self.ids, rows=max(1, count), window=first.window) if len(self.ids) > 2 else None
        if not count or not second or second.rows < count or second.window < first.window:
            raise InvalidInput(
                f"{self.fraction:g} of {rows} rows of {window}-character windows cannot be filled: the first"
                f" text has {len(text.train):,} characters to train on and the second {len(self.ids):,}; use"
                " a larger text, fewer rows or another fraction",
                code="mix_has_no_rows",
                param="mix.fraction",
            )
        teacher = None
        if self.teacher:
            assert self.teacher_vocabulary
            teacher = Teacher(
                self.teacher,
                self.teacher_vocabulary,
                student=text.vocabulary,
                targets=self.targets,
                rows=count,
                seed=seed,
            )
        return MixedRows(first, second, teacher)


def _one_hot(ids: NDArray[np.int32], size: int) -> NDArray[np.float32]:
    one_hot = np.zeros((*ids.shape, size), np.float32)
    np.put_along_axis(one_hot, ids[..., None], 1, -1)
    return one_hot


def mixed_rows(first_rows: int, fraction: float) -> int:
    """Return how many rows of the second text go with `first_rows` of the first; it may round to 0.

    >>> mixed_rows(24, 0.25), mixed_rows(1, 0.25)
    (8, 0)
    """
    return round(first_rows * fraction / (1 - fraction))
