"""The callbacks through which training reports, saves and stops.

Recognizes errors of the storage and the scratch folder, after which a job can be retried.
"""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nextchar.models.errors import DomainError, InvalidInput, StorageFull, Unavailable
from nextchar.models.saved_model import Card
from nextchar.store.blobs import as_domain_error
from nextchar.store.jobs import STORAGE_CODES, JobRequest
from nextchar.worker.checkpoints import Checkpoint

StopReason = Literal["cancel", "cancel_keep_best", "pause", "shutdown"]


class Stopped(BaseException):  # not an Exception: no part that may fail must catch it
    """A stop was requested while the text is prepared or a trained network is evaluated."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


def _ignore(*_: Any) -> None:
    return None


def _always(_: str) -> bool:
    return True


@dataclass(frozen=True)
class Hooks:
    """Callbacks in the training thread, which should return at once."""

    progress: Callable[[dict[str, Any]], None] = _ignore
    event: Callable[[str, dict[str, Any]], None] = _ignore  # type, data
    phase: Callable[[str], bool] = _always  # an optional part begins, "" for none; whether to compute it
    request: Callable[[JobRequest], None] = _ignore  # preset `auto` has chosen: the request with the choice
    early: Callable[[Card, Mapping[str, bytes]], None] | None = None  # takes an early model, if it is wanted
    checkpoint: Callable[[Checkpoint], None] = _ignore
    stop: Callable[[], StopReason | None] = _ignore
    checkpoint_every_s: float = 10.0

    def check(self) -> None:
        """Raise Stopped if a stop is requested, except for one that keeps the model."""
        reason = self.stop()
        if reason and reason != "cancel_keep_best":
            raise Stopped(reason)


class PreparationCheck:
    """A function to call while the text of a job is prepared; it does nothing once `is_over` is set.

    Args:
        hooks: of the job.
        has_model: whether there is a model that a stop can keep.
        max_s: how long the preparation may take; None: as long as it does.
    """

    def __init__(self, hooks: Hooks, *, has_model: bool, max_s: float | None) -> None:
        self.is_over = False
        self._hooks, self._has_model = hooks, has_model
        self._max_s, self._began_s = max_s, time.monotonic()

    def __call__(self) -> None:
        """Raise Stopped if a stop is requested, InvalidInput (code `masks_too_slow`) after `max_s`."""
        if self.is_over:
            return
        if reason := self._hooks.stop():
            if reason != "cancel_keep_best":
                raise Stopped(reason)
            if not self._has_model:
                raise Stopped("cancel")
        if self._max_s is not None and time.monotonic() - self._began_s > self._max_s:
            raise InvalidInput(
                f"after {self._max_s:,.0f} seconds the text was not masked; use simpler masks, without"
                " repetitions of expressions that match long parts of a line",
                code="masks_too_slow",
                param="masks",
            )


_STORAGE_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
        errno.ENODEV,
        errno.ETIMEDOUT,
    }
)


class ScratchFull(StorageFull):
    """The scratch folder has too little room for the texts of a job, of which none was read yet."""

    def __init__(self, scratch: Path, *, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"the job needs {needed_bytes:,} bytes in {scratch}, where {free_bytes:,} are free; free disk"
            " space there"
        )
        self.needed_bytes = needed_bytes


def storage_problem(error: Exception) -> DomainError | None:
    """Return a domain error if `error` is a temporary one of the storage or scratch folder, else None."""
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        error = as_domain_error(error)
    is_storage = isinstance(error, StorageFull | Unavailable) and error.code in STORAGE_CODES
    return error if is_storage else None  # type: ignore[return-value]
