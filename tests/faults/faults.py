"""The faults of fault rounds: each is put in, and ended, at moments that its round's seed decides."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from tests.faults.installation import Installation, Part
from tests.faults.redis_proxy import Mode

PARTS: tuple[Part, ...] = ("child", "worker", "API", "Valkey", "launcher")

Wait = Callable[[float], None]


@dataclass
class Context:
    """What a fault gets: the installation, random numbers of its own, and where it says what it did."""

    installation: Installation
    random: random.Random
    notes: list[str] = field(default_factory=list)
    damaged: str | None = None  # the path in the store of a file that is damaged for a while
    loses_redis: bool = False

    def note(self, text: str) -> None:
        self.notes.append(text)


Fault = Callable[[Context], contextlib.AbstractContextManager[None]]
"""Entered when the fault begins, left when it ends."""


def killed(*parts: Part) -> Fault:
    """Kill processes with SIGKILL; a killed launcher is started again at the fault's end."""

    @contextlib.contextmanager
    def kill(context: Context) -> Iterator[None]:
        for part in parts:
            context.note(f"{part}: {context.installation.signal(part, signal.SIGKILL)}")
        yield
        context.installation.start()

    return kill


def stopped(part: Part) -> Fault:
    """Stop a process with SIGSTOP, and let the same one continue."""

    @contextlib.contextmanager
    def stop(context: Context) -> Iterator[None]:
        pid = context.installation.signal(part, signal.SIGSTOP)
        context.note(f"{part}: {pid}")
        yield
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return stop


@contextlib.contextmanager
def stopped_beside_a_second_worker(context: Context) -> Iterator[None]:
    """Stop the child that trains until a second worker has its job; then both run at once."""
    second = context.installation.start_second_worker()
    try:
        with stopped("child")(context):
            yield
    finally:
        second.terminate()  # it gives its job back


def redis_connections(mode: Mode) -> Fault:
    """Treat all connections to Redis so."""

    @contextlib.contextmanager
    def treat(context: Context) -> Iterator[None]:
        context.installation.proxy.set_mode(mode)
        yield
        context.installation.proxy.set_mode("pass")

    return treat


def redis_setting(name: str, value: str, usual: str) -> Fault:
    """Have Redis refuse writes."""

    @contextlib.contextmanager
    def refuse(context: Context) -> Iterator[None]:
        with context.installation.redis() as redis:
            redis.config_set(name, value)
        yield
        with context.installation.redis() as redis:
            redis.config_set(name, usual)

    return refuse


@contextlib.contextmanager
def redis_empty(context: Context) -> Iterator[None]:
    """Delete all that is in Redis."""
    context.loses_redis = True
    with context.installation.redis() as redis:
        redis.flushall()
    yield


@contextlib.contextmanager
def disk_full(context: Context) -> Iterator[None]:
    """Fill the disk of the data folder to its last byte, again and again, and free it at the end."""
    filler = context.installation.data_dir / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    yield
    filler.unlink()


@contextlib.contextmanager
def clock_jumps(context: Context) -> Iterator[None]:
    """Set the wall clock forward or back, by up to two hours; and to another time at the end."""
    for is_end in (False, True):
        offset_s = context.random.uniform(-7200, 7200)
        context.note(f"{offset_s:+.0f} s")
        context.installation.set_clock(offset_s)
        if not is_end:
            yield


@contextlib.contextmanager
def file_damaged(context: Context) -> Iterator[None]:
    """Truncate a file of the store or flip a bit in it; it is restored at the end, unless it was replaced."""
    store = context.installation.store
    files = sorted(path for path in store.rglob("*") if _is_damageable(path.relative_to(store)))
    path = context.random.choice(files)
    original, before = path.read_bytes(), path.stat()
    data = bytearray(original)
    if not data or context.random.random() < 0.5:
        data, how = data[: context.random.randrange(len(data) or 1)], "truncated"
    else:
        data[context.random.randrange(len(data))] ^= 1 << context.random.randrange(8)
        how = "bit flipped"
    context.damaged = str(path.relative_to(store))
    context.note(f"{how}: {context.damaged}")
    path.write_bytes(data)
    yield
    with contextlib.suppress(OSError):
        if path.stat().st_ino == before.st_ino:
            path.write_bytes(original)


def _is_damageable(path: Path) -> bool:
    """Whether a path in the store is that of an object (the probes of readiness come and go)."""
    return path.suffix != "" and not path.parts[0].startswith((".", "health", "probe"))


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how long it lasts, and what it needs; `is_short`: it shows in a second, too."""

    name: str
    fault: Fault
    min_s: float = 0.5
    max_s: float = 4.0
    needs_own_disk: bool = False
    is_short: bool = True


KINDS: tuple[Kind, ...] = (
    *(Kind(f"kill -9: {part}", killed(part), 0.1, 1.0) for part in PARTS),
    Kind("kill -9: all", killed("launcher", "API", "worker", "child", "Valkey"), 0.1, 3.0),
    *(Kind(f"SIGSTOP: {part}", stopped(part), 1.0, 14.0) for part in PARTS),
    Kind("SIGSTOP: child, second worker", stopped_beside_a_second_worker, 16.0, 22.0, is_short=False),
    Kind("Redis slow", redis_connections("slow"), 2.0, 8.0),
    Kind("Redis drops connections", redis_connections("refuse"), 0.5, 6.0),
    Kind("Redis hangs", redis_connections("hang"), 2.0, 12.0),
    Kind("Redis breaks off answers", redis_connections("cut"), 0.5, 4.0),
    Kind("Redis empty", redis_empty, 0.1, 0.2),
    Kind("Redis full", redis_setting("maxmemory", "1", str(256 << 20))),
    Kind("Redis read-only", redis_setting("min-replicas-to-write", "1", "0"), 1.0, 13.0),
    Kind("disk full", disk_full, 1.0, 6.0, needs_own_disk=True),
    Kind("clock jumps", clock_jumps),
    Kind("file damaged", file_damaged, 1.0, 4.0),
)


def wait_for_redis(installation: Installation, within_s: float = 30.0) -> None:
    """Wait until Valkey itself answers."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(RedisError, OSError, AssertionError), installation.redis() as redis:
            if redis.ping():
                return
        time.sleep(0.1)
