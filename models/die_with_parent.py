"""Runs a program that is killed when its parent process dies, even by kill -9.

    python die_with_parent.py PARENT_PID PROGRAM [ARGUMENT ...]

Linux does this by prctl. Elsewhere a watcher process checks every half second; it is forked twice, so that
the program has no unknown child. Imports only what starts fast.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str], *, platform: str = sys.platform) -> None:
    """Bind this process to `parent` and replace it by `command`; does not return. Raises OSError."""
    bind_to_parent(parent, platform=platform)
    os.execvp(command[0], command)


def bound(*command: str) -> list[str]:
    """Return the command that runs a command so that it is killed when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def bind_to_parent(parent: int, *, platform: str = sys.platform) -> None:
    """Have this process killed when `parent`, its parent, dies; ends it if that has happened already."""
    if platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    else:
        _start_watcher(parent)
    if os.getppid() != parent:  # the parent died before prctl
        raise SystemExit(1)


def _start_watcher(parent: int) -> None:
    program = os.getpid()
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    os.setsid()
    if os.fork() == 0:
        # The watcher must not keep open locks or pipes of the program.
        os.closerange(0, 1024)
        while _is_alive(parent) and _is_alive(program):
            time.sleep(0.5)
        with contextlib.suppress(ProcessLookupError):
            os.kill(program, signal.SIGKILL)
    os._exit(0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
