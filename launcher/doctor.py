"""Examines this machine: what the service would use here, and what would stop it."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from redis import exceptions

from nextchar.app.core_settings import machine_memory_bytes
from nextchar.launcher.processes import LauncherError
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.valkey import server_binary
from nextchar.models import installed_version
from nextchar.models.kernels import variants
from nextchar.models.kernels.compile_cache import (
    SERVING,
    TRAINING,
    compile_in_child_process,
    use_cache_folder,
)
from nextchar.models.kernels.instruction_sets import available_levels, highest_level
from nextchar.models.machine import available_cores, processor
from nextchar.store.queue import connect

_MIN_FREE_BYTES = 2 << 30
_MIN_MEMORY_BYTES = 2 << 30
_SLOW_FSYNC_S = 0.05


class Finding(NamedTuple):
    """One line of the examination."""

    name: str
    state: Literal["ok", "warning", "error"]
    detail: str
    """What was found; for a warning or an error also what to do."""


def examine(settings: LauncherSettings) -> Iterator[Finding]:
    """Yield what is found, part by part; kernels that are not on disk are compiled, which takes seconds."""
    yield _software()
    yield _processor()
    yield _memory()
    yield from _gpus()
    yield _data_folder(settings.data_dir)
    yield _redis(settings)
    use_cache_folder(settings.data_dir)
    compile_in_child_process(*SERVING, *TRAINING)
    yield from _kernels()


def _software() -> Finding:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    detail = (
        f"nextchar {installed_version()}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    )
    if not supported:
        return Finding("software", "error", f"{detail}; use Python 3.11, 3.12 or 3.13")
    return Finding("software", "ok", detail)


def _processor() -> Finding:
    limit = os.environ.get("NEXTCHAR_ISA", "auto")
    levels = ", ".join(available_levels()) or "unknown"
    detail = f"{processor()}, {available_cores()} cores for this process; has {levels}"
    if limit not in {"", "auto"}:
        detail += f"; NEXTCHAR_ISA limits it to {highest_level()}"
    return Finding("processor", "ok", detail)


def _memory() -> Finding:
    total = machine_memory_bytes()
    detail = f"{total / 2**30:.1f} GiB"
    if total < _MIN_MEMORY_BYTES:
        return Finding("memory", "warning", f"{detail}; training needs about 2 GiB, so use small networks")
    return Finding("memory", "ok", detail)


def _gpus() -> Iterator[Finding]:
    """Yield nothing on a machine without GPUs. TensorFlow is slow to import: it gets its own process."""
    program = (
        "from nextchar.worker.devices import gpu_problem, gpus; print(gpu_problem() or ', '.join(gpus()))"
    )
    command = [sys.executable, "-c", program]
    asked = subprocess.run(command, cwd=variants.IMPORT_FOLDER, capture_output=True, text=True, check=False)
    if found := asked.stdout.strip():
        is_seen = found.startswith("GPU:")
        yield Finding("GPU", "ok" if is_seen else "warning", f"training uses {found}" if is_seen else found)


def _data_folder(folder: Path) -> Finding:
    folder = folder.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            seconds = time.perf_counter() - started
        free = shutil.disk_usage(folder).free
    except OSError as error:
        problem = f"{folder} cannot be written: {error.strerror or error}; set NEXTCHAR_DATA_DIR to another"
        return Finding("data folder", "error", problem)
    detail = f"{folder}, {free / 2**30:.1f} GiB free, a synced write takes {seconds * 1e3:.1f} ms"
    if free < _MIN_FREE_BYTES:
        return Finding("data folder", "warning", f"{detail}; free some space, or uploads will be refused")
    if seconds > _SLOW_FSYNC_S:
        return Finding("data folder", "warning", f"{detail}; on this disk uploads and checkpoints are slow")
    return Finding("data folder", "ok", detail)


def _redis(settings: LauncherSettings) -> Finding:
    url = settings.given_redis_url
    if url is None:
        try:
            return Finding("redis", "ok", f"none is set, so `nextchar serve` starts {server_binary()}")
        except LauncherError as error:
            return Finding("redis", "error", str(error))
    try:
        with connect(url) as redis:
            redis.ping()
    except (exceptions.RedisError, OSError, ValueError) as error:
        return Finding(
            "redis",
            "error",
            f"the Redis at NEXTCHAR_REDIS_URL does not respond: {error}; start it, or unset it",
        )
    return Finding("redis", "ok", "the Redis at NEXTCHAR_REDIS_URL responds")


def _kernels() -> Iterator[Finding]:
    measurements = variants.load()
    used = variants.chosen(measurements)
    if not used:
        problem = "they could not be measured, see the log above; the widest variant is used without a check"
        yield Finding("kernels", "warning", problem)
    for product in dict.fromkeys(one.product for one in measurements):
        rivals = [one for one in measurements if one.product == product]
        described = "; ".join(variants.described(one) for one in rivals)
        has_failed = any(one.failure for one in rivals)
        yield Finding(
            f"{product} kernels",
            "warning" if has_failed else "ok",
            f"{used.get(product, 'generic')}; measured: {described}",
        )
