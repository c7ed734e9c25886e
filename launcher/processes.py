"""Child processes that cannot outlive us, and the ends of their logs. Knows nothing of what they do."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_WRAPPER = Path(__file__).with_name("die_with_parent.py")
LOG_BYTES = 10_000_000
"""A log larger than this is set aside as <name>.1, at the start and while its process runs."""


class LauncherError(Exception):
    """Something keeps the stack from running, with a sentence the user can act on."""


def start_bound(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdin: bytes = b"",
    keep_open: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a program that is killed when the calling thread ends, however it ends.

    Its output is appended to `log`. It has its own session, so Ctrl-C in the terminal reaches us alone
    and we decide in which order things stop. `keep_open` are file descriptors it inherits.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WRAPPER), str(os.getpid()), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            start_new_session=True,
            pass_fds=keep_open,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died already; whoever waits for it will say so
        process.stdin.write(stdin)
        process.stdin.close()
    return process


def prepare_log(log: Path) -> None:
    """Make a log's folder, and start a new log if the old one has grown large."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(_older(log))


def rotate(log: Path) -> None:
    """Copy a log that is being appended to, to <name>.1, and empty it.

    Whoever writes keeps the file open, in append mode: so its next line goes to the beginning. A line written
    in the microseconds between the end of the copy and the emptying is lost; but no writer ever waits for us.
    On a disk without room for the copy, a log of twice LOG_BYTES is emptied without one.

    Raises:
        OSError: the log could not be copied, and was left as it is.
    """
    older = _older(log)
    older.unlink(missing_ok=True)  # first: it may be the room that the copy needs
    try:
        with log.open("rb") as source, older.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.truncate(log, 0)
    except OSError:
        older.unlink(missing_ok=True)
        if log.stat().st_size < 2 * LOG_BYTES:
            raise
        os.truncate(log, 0)


def _older(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def stop(process: "subprocess.Popen[bytes]", *, grace_s: float) -> None:
    """Ask a process to end (SIGTERM) and kill it if it has not after `grace_s` seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def last_lines(log: Path, count: int = 15) -> str:
    """Return the last lines of a log, indented; at most the last 10,000 bytes are looked at."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        lines = []
    return "\n".join("    " + line for line in lines) or "    (nothing)"
