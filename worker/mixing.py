"""Batch mixing: a second text in a share of each batch's rows, under its own targets or a teacher's.

A row of the second text is as stateful as one of the first, and knows nothing of it. With a teacher, what the
rows are trained towards is not the character that follows in the text but what another model expects there
(pseudo-labels, Lee 2013): drawn from its distribution, its likeliest character, or the distribution itself
(distillation, Hinton et al. 2015). The teacher reads the same windows, with a state of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import MixTargets
from models.errors import InvalidInput
from models.runtime.session import State, StepNetwork
from models.text.vocabulary import UNKNOWN_ID, Vocabulary
from worker.prepared_text import Ids, Text
from worker.rows import Rows

_TEACHER_STATE = "mix/teacher_state"


class Teacher:
    """A model that says what should follow each character of the second text.

    Args:
        network: the model's graph.
        vocabulary: what its ids mean.
        student: what the ids of the text, and of the targets, mean.
        targets: which form the targets take.
        rows: M, the rows that it reads at once.
        seed: of what is drawn.

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
        self._common = np.flatnonzero(self._id_of)  # the student's ids of characters that both know
        if not self._common.size:
            raise InvalidInput(
                "the teacher knows no character of the text; take one that was trained on a text like it",
                code="teacher_knows_nothing",
                param="mix.teacher",
            )
        self.unknown = "".join(np.array(list(student.characters))[self._id_of[1:] == UNKNOWN_ID])
        self._state: State = network.initial_state(rows)

    def targets(self, ids: NDArray[np.int32], *, begins: bool, at: int) -> NDArray[Any]:
        """Read a window (T, M) of the student's ids; return targets in the student's ids.

        `begins` says that the rows begin here, and `at` which window of the run it is.

        Returns:
            (T, M) int32, or for `distribution` (T, M, V) float32 whose last axis sums to 1.
        """
        if begins:
            self._state = np.zeros_like(self._state)
        logits, self._state = self._network.step(self._id_of[ids], self._state)
        known = logits[:, :, self._id_of[self._common]]  # (T, M, C)
        if self._targets == "argmax":
            return self._common[known.argmax(-1)].astype(np.int32)
        if self._targets == "sampled":
            # The largest of logits plus Gumbel noise is a draw from their softmax.
            noise = np.random.default_rng((self._seed, at)).gumbel(size=known.shape)
            return self._common[(known + noise).argmax(-1)].astype(np.int32)
        p = np.exp(known - known.max(-1, keepdims=True))
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

    An epoch is one of the first text; the second goes round at its own pace, and begins within its rows: were
    it the first text once more, for a teacher to label, the same characters would else stand side by side.
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
        """Windows in a row of the first text."""
        return self.first.windows_per_epoch

    def beginning(self, *, epoch: int, k: int) -> Iterator[slice]:
        """Yield the rows that begin anew with this window."""
        if k == 0:
            yield slice(0, self.first.rows)
        if self._second_at(epoch, k)[1] == 0:
            yield slice(self.first.rows, self.rows)

    def at(self, *, epoch: int, k: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Return window k of an epoch: inputs (T, B), and targets (T, B) or (T, B, V).

        A teacher reads on with each call: windows are to be asked for in their order.
        """
        inputs, targets = self.first.at(epoch=epoch, k=k)
        second_epoch, second_k = self._second_at(epoch, k)
        more, their_targets = self.second.at(epoch=second_epoch, k=second_k)
        if self.teacher:
            at = epoch * self.windows_per_epoch + k
            labels = self.teacher.targets(more, begins=second_k == 0, at=at)
            own = targets if labels.ndim == 2 else _one_hot(targets, labels.shape[-1])
            return np.concatenate([inputs, more], 1), np.concatenate([own, labels], 1)
        return np.concatenate([inputs, more], 1), np.concatenate([targets, their_targets], 1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a later `restore` needs to go on exactly."""
        return self.teacher.arrays() if self.teacher else {}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Set everything to what `arrays` returned."""
        if self.teacher:
            self.teacher.restore(arrays)

    def _second_at(self, epoch: int, k: int) -> tuple[int, int]:
        ahead = min(self.windows_per_epoch, self.second.windows_per_epoch) // 2
        return divmod(epoch * self.windows_per_epoch + k + ahead, self.second.windows_per_epoch)


@dataclass(frozen=True)
class SecondText:
    """What is mixed in: the ids of a text, the share of the rows it gets, and who says what follows."""

    ids: Ids
    fraction: float
    targets: MixTargets
    teacher: StepNetwork | None = None
    teacher_vocabulary: Vocabulary | None = None

    def beside(self, text: Text, *, rows: int, window: int, seed: int) -> MixedRows:
        """Return B rows of both, fewer if the first text is too small for its share of them.

        Raises:
            InvalidInput: a text is too small to have a row beside the other (code `mix_has_no_rows`), or the
                teacher knows none of its characters.
        """
        wanted = round(rows * self.fraction)
        first = Rows.cut(text.train, rows=max(1, rows - wanted), window=window)
        count = min(wanted, mixed_rows(first.rows, self.fraction))
        second = Rows.cut(self.ids, rows=max(1, count), window=first.window) if len(self.ids) > 2 else None
        if not count or not second or second.rows < count or second.window < first.window:
            raise InvalidInput(
                f"{self.fraction:g} of {rows} rows of {window}-character windows cannot be filled: the first"
                f" text has {len(text.train):,} characters to train on and the second {len(self.ids):,}; take"
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
    found = np.zeros((*ids.shape, size), np.float32)
    np.put_along_axis(found, ids[..., None], 1, -1)
    return found


def mixed_rows(own: int, fraction: float) -> int:
    """Return how many rows of the second text go with `own` rows of the first; 0 if that rounds to none.

    >>> mixed_rows(24, 0.25), mixed_rows(1, 0.25)
    (8, 0)
    """
    return round(own * fraction / (1 - fraction))
