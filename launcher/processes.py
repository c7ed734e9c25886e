"""Child processes that die with this process, their log files, and signals."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from nextchar.models.die_with_parent import bound

LOG_BYTES = 10_000_000
"""A log larger than this is rotated to <name>.1."""


class LauncherError(Exception):
    """The stack cannot run; the message says what to do."""


def cannot_write(data_dir: Path, error: OSError) -> LauncherError:
    """Return the error for a data folder that cannot be written."""
    return LauncherError(
        f"cannot write to the data folder {data_dir}: {error.strerror}; "
        "make it writable or set NEXTCHAR_DATA_DIR to another folder"
    )


def handle(numbers: Iterable[int], handler: Callable[[int, FrameType | None], Any]) -> None:
    """Call `handler` on each of these signals, but for those that are ignored, as SIGHUP is under nohup."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def start_bound(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdin: bytes = b"",
    keep_open: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a program that is killed when the calling thread ends.

    Its output is appended to `log`. It has its own session, so Ctrl-C in the terminal reaches only this
    process, which stops its children in order. The program inherits the file descriptors `keep_open`.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            bound(*command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            start_new_session=True,
            pass_fds=keep_open,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has already exited; its exit status is checked later
        process.stdin.write(stdin)
        process.stdin.close()
    return process


def prepare_log(log: Path) -> None:
    """Create the folder of a log, and rotate the log if it is large."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(_rotated(log))


def rotate(log: Path) -> None:
    """Copy a log that is in use to <name>.1, and truncate it.

    The writer has the file open in append mode, so its next line goes to the start. A line written between
    the copy and the truncation is lost. Without space for the copy, a log of twice LOG_BYTES is truncated
    without one.

    Raises:
        OSError: the log could not be copied, and is unchanged.
    """
    rotated = _rotated(log)
    rotated.unlink(missing_ok=True)  # first, to make room for the copy
    try:
        with log.open("rb") as source, rotated.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.truncate(log, 0)
    except OSError:
        rotated.unlink(missing_ok=True)
        if log.stat().st_size < 2 * LOG_BYTES:
            raise
        os.truncate(log, 0)


def _rotated(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def stop(process: "subprocess.Popen[bytes]", *, grace_s: float) -> None:
    """Terminate a process (SIGTERM), and kill it after `grace_s` seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def last_lines(log: Path, count: int = 15) -> str:
    """Return the last lines of a log, indented, from at most its last 10,000 bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        lines = []
    return "\n".join("    " + line for line in lines) or "    (nothing)"
