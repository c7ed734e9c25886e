"""Where `nextchar watch` has got to in each log, kept in a file from one run to the next.

    $XDG_STATE_HOME/nextchar/watch/<hash of server, model and path>.json

A file is replaced as a whole. While a log is watched its file is locked, so that no second command sends the
same lines.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextchar.cli.followed_file import Position
from nextchar.errors import NextcharError

_VERSION = 1


@dataclass(frozen=True)
class WatchState:
    """How far a log was sent, and the number of the last flagged line that was printed.

    `sending_to` is the offset of the end of a request that may have been sent; it is sent again as it was.
    """

    position: Position | None = None
    sending_to: int | None = None
    printed: int | None = None


class StateFile:
    """The state of one log. Raises NextcharError if another command watches it; as a context manager."""

    def __init__(self, server: str, model: str, path: Path) -> None:
        import fcntl  # which Windows has not, and only this command needs

        name = hashlib.sha256("\n".join((server, model, str(path))).encode(errors="surrogateescape"))
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._about = {"server": server, "model": model, "path": os.fsdecode(path)}
        self._path = folder / f"{name.hexdigest()[:32]}.json"
        self._lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise NextcharError(f"another `nextchar watch` sends {path} to {model}; stop it first") from None

    def close(self) -> None:
        """Let another command watch the log."""
        os.close(self._lock)

    def load(self) -> WatchState:
        """Return what was saved; an empty state if nothing was, or if it cannot be read."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            fields: dict[str, Any] = json.loads(self._path.read_bytes())
            if fields["version"] == _VERSION:
                position = fields["position"]
                return WatchState(
                    Position(**position) if position else None, fields["sending_to"], fields["printed"]
                )
        return WatchState()

    def save(self, state: WatchState) -> None:
        """Replace what was saved, and sync it."""
        fields = {"version": _VERSION, **self._about, **asdict(state)}
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(json.dumps(fields).encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


def _folder() -> Path:
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "state"
    return base / "nextchar" / "watch"
