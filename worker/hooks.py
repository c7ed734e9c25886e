"""The callbacks through which training reports, saves and stops."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from store.jobs import JobRequest
from worker.checkpoints import Checkpoint

StopReason = Literal["cancel", "cancel_keep_best", "pause", "shutdown"]


class Stopped(BaseException):  # not an Exception: no part that may fail must catch it
    """A stop was requested while a trained network is evaluated."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


def _ignore(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """Callbacks in the training thread, which should return at once."""

    progress: Callable[[dict[str, Any]], None] = _ignore
    event: Callable[[str, dict[str, Any]], None] = _ignore  # type, data
    request: Callable[[JobRequest], None] = _ignore  # preset `auto` has chosen: the request with the choice
    checkpoint: Callable[[Checkpoint], None] = _ignore
    stop: Callable[[], StopReason | None] = _ignore
    checkpoint_every_s: float = 10.0

    def check(self) -> None:
        """Raise Stopped if a stop is requested, except for one that keeps the model."""
        reason = self.stop()
        if reason and reason != "cancel_keep_best":
            raise Stopped(reason)
