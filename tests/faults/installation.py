"""A whole installation that is to be broken: its processes by name, its Redis, disk and clock."""

import contextlib
import os
import secrets
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Literal, Self

import httpx
from redis import Redis

from nextchar.launcher.processes import start_bound
from nextchar.launcher.stack import free_port
from nextchar.launcher.valkey import running_url
from nextchar.models.kernels.compile_cache import use_cache_folder
from tests.faults.redis_proxy import RedisProxy
from tests.faults.serve import WORKER_SETTINGS

Part = Literal["child", "worker", "API", "Valkey", "launcher"]

ROOT = Path(__file__).parents[2]
DISK_BYTES = 400 << 20
START_S = 120.0

_COMMANDS: dict[str, str] = {
    "API": "nextchar.app.main",
    "worker": "nextchar.worker.main",
    "Valkey": "valkey-server",
}
_SEARCH_PATH = [ROOT / "tests" / "faults" / "clock", ROOT, ROOT / "clients" / "python"]


class Installation:
    """API, worker and Valkey under a launcher, as a context manager, in `folder`.

    The data folder is a file system of its own, of DISK_BYTES, if this process may mount one. The thread that
    enters must live as long as the installation: all processes die with it.
    """

    def __init__(self, folder: Path) -> None:
        use_cache_folder(ROOT / "data")  # compiled kernels are shared with other tests
        self.data_dir, self._clock = folder / "data", folder / "clock"
        self.has_own_disk = False
        self._launcher: subprocess.Popen[bytes] | None = None
        self._log = folder / "launcher.log"
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        valkey = self.data_dir / "valkey"
        self.proxy = RedisProxy(valkey / "valkey.sock")
        self._password = secrets.token_hex(32)

    def __enter__(self) -> Self:
        self.data_dir.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.data_dir)]
        if sys.platform == "linux" and os.geteuid() == 0:
            self.has_own_disk = subprocess.run(mount, check=False, capture_output=True).returncode == 0
        try:
            (self.data_dir / "valkey").mkdir(mode=0o700)
            (self.data_dir / "valkey" / "password").write_text(self._password + "\n")
            self.set_clock(0.0)
            self.proxy.__enter__()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._launcher:
            for part in ("child", "worker", "API", "Valkey"):
                self.signal(part, signal.SIGCONT)
            self._launcher.send_signal(signal.SIGCONT)
            self._launcher.kill()
            self._launcher.wait()
        self.proxy.__exit__()
        if self.has_own_disk:
            subprocess.run(["umount", "--lazy", self.data_dir], check=True)  # some process may still end
        shutil.rmtree(self.data_dir, ignore_errors=True)

    @property
    def store(self) -> Path:
        """The folder of the records."""
        return self.data_dir / "store"

    def start(self) -> None:
        """Start the launcher, unless it runs."""
        if self._launcher and self._launcher.poll() is None:
            return
        command = [
            sys.executable,
            "-m",
            "tests.faults.serve",
            str(self.data_dir),
            str(self.port),
            self._redis_url,
        ]
        self._launcher = start_bound(command, log=self._log, environment=self._environment, directory=ROOT)

    def start_second_worker(self) -> "subprocess.Popen[bytes]":
        """Start a worker in addition to the launcher's, and return its process."""
        settings = WORKER_SETTINGS | {
            "NEXTCHAR_DATA_DIR": str(self.data_dir),
            "NEXTCHAR_REDIS_URL": self._redis_url,
        }
        return start_bound(
            [sys.executable, "-m", "nextchar.worker.main"],
            log=self.data_dir / "logs" / "second-worker.log",
            environment=self._environment | settings,
            directory=ROOT,
        )

    @property
    def _redis_url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.proxy.port}/0"

    @property
    def _environment(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith("NEXTCHAR_")} | {
            "PYTHONPATH": os.pathsep.join(map(str, _SEARCH_PATH)),
            "TEST_CLOCK": str(self._clock),
            "CUDA_VISIBLE_DEVICES": "-1",
        }

    def is_ready(self) -> bool:
        """Whether the API answers that it is ready, or that something else is degraded."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def pid(self, part: Part) -> int | None:
        """Return the process id of a part, if it runs now."""
        assert self._launcher is not None, "not started"
        if part == "launcher":
            return self._launcher.pid if self._launcher.poll() is None else None
        if part == "child":
            worker = self.pid("worker")
            return next(iter(_children(worker)), None) if worker else None
        programs = [p for p in _children(self._launcher.pid) if _COMMANDS[part] in _read(p, "cmdline")]
        # There is a second worker, of batches.
        return next((p for p in programs if "NEXTCHAR_QUEUE=batches" not in _read(p, "environ")), None)

    def signal(self, part: Part, number: signal.Signals) -> int | None:
        """Send a signal to a part; return its process id if it ran."""
        pid = self.pid(part)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if part == "launcher" and number == signal.SIGKILL and self._launcher:
            self._launcher.wait()
        return pid

    def redis(self) -> Redis:
        """Return a client that does not go through the proxy."""
        url = running_url(self.data_dir)
        assert url, "Valkey does not run"
        return Redis.from_url(url, decode_responses=True)

    def set_clock(self, offset_s: float) -> None:
        """Set how far the wall clock of all Python processes is ahead."""
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("<d", offset_s))


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [
            int(child)
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    return []


def _read(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
