"""Where compiled kernels are kept; `python -m` compiles those that it is given, before they are needed.

    python -m models.kernels.compile_cache models.kernels.lstm_training

Kernels are compiled for one processor, by one version of the compiler, from a few source files. So they are
kept in `<data folder>/compiled/<fingerprint>`, where the fingerprint changes with any of these: a folder that
several machines or versions share holds one folder for each. NUMBA_CACHE_DIR in the environment wins.

To be called before anything imports numba, which reads that variable once. Imports no numba itself.
"""

import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

log = logging.getLogger("nextchar.kernels")

RUNTIME_KERNELS = f"{__package__}.lstm_inference"
TRAINING_KERNELS = f"{__package__}.lstm_training"

_FOLDER = Path(__file__).resolve().parent
_UNUSED_S = 30 * 24 * 3600.0
_LOCKED_S = 120.0  # another process compiles for so long at most; then we do it too
_LOG_S = 2.0  # loading what was compiled before takes less


def use_cache_folder(data_dir: Path) -> None:
    """Have numba keep compiled code in the data folder, unless the environment names another folder.

    Where the folder cannot be used a warning is logged, and numba looks for another place by itself.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    if folder := machine_folder(data_dir):
        os.environ["NUMBA_CACHE_DIR"] = str(folder)


def machine_folder(data_dir: Path) -> Path | None:
    """Return the folder for what is valid on this kind of machine only, or None where it cannot be used.

    It is made where it is missing. It holds code that this process will run, so it must belong to this
    user, and nobody else may write to it. Folders of other fingerprints that have not been used for 30 days
    are deleted.
    """
    folder = data_dir.resolve() / "compiled" / fingerprint()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for private in (folder.parent, folder):
            if private.stat().st_uid == os.geteuid():
                private.chmod(stat.S_IRWXU)
            found = private.stat()
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(f"{private} belongs to another user, or others may write to it")
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)  # it is used now
    except OSError as error:
        log.warning("compiled kernels cannot be kept in %s, so they may be compiled again: %s", folder, error)
        return None
    _delete_unused(folder.parent)
    return folder


def fingerprint() -> str:
    """Return 16 hexadecimal digits that change with the kernels' source, the compiler and the processor."""
    from llvmlite import binding  # takes 40 ms

    parts = [source.read_bytes() for source in sorted(_FOLDER.glob("*.py"))]
    parts += [importlib.metadata.version(package).encode() for package in ("numba", "llvmlite", "numpy")]
    parts += [str(sys.implementation.cache_tag).encode(), binding.get_process_triple().encode()]
    parts += [binding.get_host_cpu_name().encode()]
    with contextlib.suppress(RuntimeError):  # LLVM does not know them on every system
        parts += [binding.get_host_cpu_features().flatten().encode()]
    settings = (f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
    parts += [setting.encode() for setting in sorted(settings) if not setting.startswith("NUMBA_CACHE_DIR=")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def compile_kernels(*modules: str) -> float:
    """Import these modules, which compiles them or loads what was compiled before; return the seconds.

    Processes that start at once do not compile the same module twice: one does, the others wait and load.

    Raises:
        Exception: whatever the compiler finds wrong with this machine.
    """
    began = time.monotonic()
    for module in modules:
        with _lock(module):
            _import(module)
            _note_compiled(module)
    seconds = time.monotonic() - began
    if seconds > _LOG_S:
        log.info("compiled kernels (once per machine and version; took %.1f s)", seconds)
    return seconds


def compile_in_child_process(*modules: str) -> None:
    """Compile what is missing of these modules to disk, in a process of its own, for all others to load.

    So its memory is freed, it does not hold up our threads, and a crash of the compiler ends only it. A
    failure is logged and is no error: who needs a module compiles it. What the process prints is logged here,
    in the format that this process's log has.
    """
    missing = [module for module in modules if not _is_compiled(module)]
    if not missing:
        return
    command = [sys.executable, "-m", f"{__package__}.compile_cache", *missing]
    done = subprocess.run(
        command, cwd=_FOLDER.parents[1], check=False, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    if printed := done.stderr.strip():
        log.log(logging.WARNING if done.returncode else logging.INFO, "%s", printed)
    if done.returncode:
        log.warning("kernels could not be compiled in advance (exit status %d)", done.returncode)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except (EOFError, pickle.UnpicklingError):  # numba does not expect files that are empty or cut off
        if not (folder := os.environ.get("NUMBA_CACHE_DIR")):
            raise
        log.warning("the compiled kernels in %s are damaged; compiling them again", folder)
        for path in Path(folder).glob("*/*.nb[ci]"):
            path.unlink(missing_ok=True)
        importlib.import_module(module)


def _is_compiled(module: str) -> bool:
    folder = os.environ.get("NUMBA_CACHE_DIR", "")
    return folder != "" and Path(folder, f"{module}.compiled").exists()


def _note_compiled(module: str) -> None:
    """Note that a module is compiled, once a loss of power cannot empty the files any more."""
    if _is_compiled(module) or not (given := os.environ.get("NUMBA_CACHE_DIR")):
        return
    folder = Path(given)
    with contextlib.suppress(OSError):
        for path in folder.glob("*/*.nb[ci]"):
            _sync(path)
        with contextlib.suppress(OSError):  # some file systems sync no folders
            for path in (*folder.glob("*/"), folder):
                _sync(path)
        Path(folder, f"{module}.compiled").touch()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock(module: str) -> Iterator[None]:
    """Hold a module's lock in the cache folder; without a folder, or after a while, go on without."""
    with contextlib.ExitStack() as stack:
        if folder := os.environ.get("NUMBA_CACHE_DIR"):
            with contextlib.suppress(OSError):
                _wait_for_lock(stack.enter_context(Path(folder, f"{module}.lock").open("w")))
        yield


def _wait_for_lock(file: IO[str]) -> None:
    """Lock a file until it is closed, waiting for at most _LOCKED_S while another process holds it."""
    deadline = time.monotonic() + _LOCKED_S
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.1)


def _delete_unused(folder: Path) -> None:
    for other in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(other)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compile_kernels(*sys.argv[1:])
