"""The cache of compiled kernels, and a command that compiles kernels in advance.

    python -m nextchar.models.kernels.compile_cache nextchar.models.kernels.lstm_training variants

Machine code is valid for one processor type, compiler version and set of sources, so it is cached in
`~/.cache/nextchar/compiled/<fingerprint>`, whose fingerprint depends on all of them: once for a user of a
machine, wherever the data is. Where the user's cache folder cannot be written, as in a container, the data
folder has it, which machines and versions can share. If the environment variable NUMBA_CACHE_DIR is set, it
is cached in `<NUMBA_CACHE_DIR>/nextchar-kernels-<fingerprint>`.

Numba reads that variable when it is imported, so call `use_cache_folder` before anything imports it.
"""

import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from nextchar.models.die_with_parent import bound
from nextchar.models.kernels import prebuilt, variants

log = logging.getLogger("nextchar.kernels")

RUNTIME_KERNELS = f"{__package__}.lstm_inference"
MIXTURE_KERNELS = f"{__package__}.mixture"
TABLE_KERNELS = f"{__package__}.mixture_tables"
GENERATION_KERNELS = f"{__package__}.mixture_generation"
SEARCH_KERNELS = f"{__package__}.line_search"
TRAINING_KERNELS = f"{__package__}.lstm_training"
DENSE_KERNELS = f"{__package__}.dense_training"
WEIGHTS_KERNELS = f"{__package__}.mixture_training"

SERVING = (RUNTIME_KERNELS, TABLE_KERNELS, MIXTURE_KERNELS, GENERATION_KERNELS, SEARCH_KERNELS)
"""The kernels that API processes need."""

TRAINING = (TRAINING_KERNELS, DENSE_KERNELS, TABLE_KERNELS, MIXTURE_KERNELS, WEIGHTS_KERNELS)
"""The kernels that training needs."""

_KERNELS = tuple(dict.fromkeys((*SERVING, *TRAINING)))
_VARIANTS = "variants"  # the name of the lock, and beside names of modules: measure them
_FOLDER = Path(__file__).resolve().parent
_UNUSED_S = 30 * 24 * 3600.0
_LOCK_TIMEOUT_S = 120.0  # longer than compiling takes; after it, this process compiles, too
_LOG_S = 2.0  # longer than importing takes; a shorter compilation is not worth a line
_WITH_FINGERPRINT = re.compile(r"(nextchar-kernels-)?[0-9a-f]{16}")


def use_cache_folder(data_dir: Path | None) -> None:
    """Set NUMBA_CACHE_DIR to a folder of this fingerprint, in the folder that it names or `machine_folder`.

    Child processes inherit it and keep it. If no folder can be used, a warning is logged and numba uses its
    default.
    """
    if folder := _cache_folder(data_dir):
        os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _cache_folder(data_dir: Path | None) -> Path | None:
    given = os.environ.get("NUMBA_CACHE_DIR")
    if not given:
        return machine_folder(data_dir)
    folder = Path(given).resolve()
    if is_of_fingerprint(folder):  # which takes 40 ms and 40 MB
        return folder
    folder /= f"nextchar-kernels-{fingerprint()}"
    if not _make_private(folder):
        return None
    _delete_unused(folder.parent.glob("nextchar-kernels-*"))
    return folder


def is_of_fingerprint(folder: Path) -> bool:
    """Return whether a folder is for these sources alone: set by `use_cache_folder`, or prebuilt."""
    return _WITH_FINGERPRINT.fullmatch(folder.name) is not None or folder.parent == prebuilt.FOLDER


def machine_folder(data_dir: Path | None) -> Path | None:
    """Create and return the folder for data that is valid for this type of machine only.

    It is in the user's cache folder, or if that cannot be written in the data folder, if there is one.
    Folders of other fingerprints are deleted after 30 days without use.

    Returns:
        None, after a logged warning, if neither can be used.
    """
    folders = [
        root / "compiled" / fingerprint() for root in (_user_cache(), data_dir and data_dir.resolve()) if root
    ]
    for folder in folders:
        if _make_private(folder.parent, folder):
            _delete_unused(folder.parent.iterdir())
            return folder
    places = " or ".join(map(str, folders))
    log.warning("compiled kernels cannot be cached in %s; every process may compile them", places)
    return None


def _user_cache() -> Path | None:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nextchar"
    except RuntimeError:  # the user has no home
        return None


def _make_private(*folders: Path) -> bool:
    """Create folders and mark the last one as used; return whether it can be used, and log why if not.

    It holds code that this process will run, so each must belong to this user and be writable by no other.
    """
    folder = folders[-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for private in folders:
            if private.stat().st_uid == os.geteuid():
                private.chmod(stat.S_IRWXU)
            status = private.stat()
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(f"{private} belongs to another user or is writable by others")
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)
        prebuilt.copy_kernels(folder)
    except OSError as error:
        log.info("compiled kernels cannot be cached in %s: %s", folder, error)
        return False
    return True


def fingerprint() -> str:
    """Return 16 hexadecimal digits that depend on the kernels' sources, the compiler and the processor."""
    from llvmlite import binding  # takes 40 ms

    parts = [source.read_bytes() for source in sorted(_FOLDER.glob("*.py"))]
    parts += [importlib.metadata.version(package).encode() for package in ("numba", "llvmlite", "numpy")]
    parts += [str(sys.implementation.cache_tag).encode(), binding.get_process_triple().encode()]
    parts += [binding.get_host_cpu_name().encode()]
    with contextlib.suppress(RuntimeError):  # unknown to LLVM on some systems
        parts += [binding.get_host_cpu_features().flatten().encode()]
    settings = (f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
    parts += [setting.encode() for setting in sorted(settings) if not setting.startswith("NUMBA_CACHE_DIR=")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def compile_kernels(*modules: str) -> float:
    """Import modules, which compiles their kernels or loads them from the cache; return the seconds taken.

    Of processes that start at the same time one compiles a module; the others wait and load it.

    Raises:
        Exception: the compiler failed on this machine.
    """
    started = time.monotonic()
    is_new = not all(is_compiled(module) for module in modules)
    _choose_variants(modules)
    for module in modules:
        with _lock(module):
            importlib.import_module(module)
            mark_compiled(module)
    seconds = time.monotonic() - started
    if is_new and seconds > _LOG_S:
        log.info("compiled kernels in %.1f s (once per machine and version)", seconds)
    return seconds


def needs_compiling(data_dir: Path) -> bool:
    """Return whether kernels are not in the cache yet, so that the first processes compile them."""
    folder = _cache_folder(data_dir)
    return not all(folder and _mark(folder, module).exists() for module in _KERNELS)


def is_compiling() -> bool:
    """Return whether a process of this machine compiles or measures kernels that are not in the cache yet."""
    if not (folder := os.environ.get("NUMBA_CACHE_DIR")):
        return False
    names = [module for module in _KERNELS if not is_compiled(module)]
    if not variants.is_complete():
        names.append(_VARIANTS)
    return any(_is_locked(Path(folder, f"{name}.lock")) for name in names)


def _choose_variants(modules: Iterable[str]) -> None:
    """Find the variants of the products that these modules use, unless they are known.

    Float32 results depend on the variant, so it is final before the first training. int8 results do not, so a
    first completion need not wait until all are measured.
    """
    if TRAINING_KERNELS in modules:
        with _lock(_VARIANTS):
            variants.measure()
    elif RUNTIME_KERNELS in modules and not variants.is_checked("int8"):
        with _lock(_VARIANTS):
            variants.check("int8")


def compile_in_child_process(
    *modules: str, measures_variants: bool = True, may_outlive: bool = False
) -> None:
    """Compile those of these modules that are not in the cache in a child process, then measure all variants.

    So the compiler's memory is freed, it does not block this process's threads, and a crash of it ends only
    the child. A failure is logged and raises nothing: the process that needs a module compiles it. What the
    child prints is logged in the format of this process. It is killed if this process dies, unless it
    `may_outlive` it.
    """
    missing = [module for module in modules if not is_compiled(module)]
    if measures_variants and not variants.is_complete():
        missing.append(_VARIANTS)
    if not missing:
        return
    command = [sys.executable, "-m", f"{__package__}.compile_cache", *missing]
    if not may_outlive:
        command = bound(*command)
    try:
        child = subprocess.run(
            command,
            cwd=variants.IMPORT_FOLDER,
            check=False,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:  # no more processes may be started, for example
        log.warning("kernels could not be compiled in advance: %s", error)
        return
    if printed := child.stderr.strip():
        log.log(logging.WARNING if child.returncode else logging.INFO, "%s", printed)
    if child.returncode:
        log.warning("kernels could not be compiled in advance (exit status %d)", child.returncode)


def is_compiled(module: str) -> bool:
    """Return whether the kernels of a module are in the cache."""
    folder = os.environ.get("NUMBA_CACHE_DIR", "")
    return folder != "" and _mark(folder, module).exists()


def _mark(folder: str | Path, module: str) -> Path:
    return Path(folder, f"{module}.compiled")


def mark_compiled(module: str) -> None:
    """Mark a module as compiled, once its files are synced and survive a power failure."""
    if is_compiled(module) or not (cache_dir := os.environ.get("NUMBA_CACHE_DIR")):
        return
    folder = Path(cache_dir)
    with contextlib.suppress(OSError):
        for path in folder.glob("*/*.nb[ci]"):
            _sync(path)
        with contextlib.suppress(OSError):  # not supported by every file system
            for path in (*folder.glob("*/"), folder):
                _sync(path)
        _mark(folder, module).touch()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock(module: str) -> Iterator[None]:
    """Hold a module's lock in the cache folder; proceed without it if there is none, or after a timeout."""
    with contextlib.ExitStack() as stack:
        if folder := os.environ.get("NUMBA_CACHE_DIR"):
            with contextlib.suppress(OSError):
                _wait_for_lock(stack.enter_context(Path(folder, f"{module}.lock").open("w")))
        yield


def _wait_for_lock(file: IO[str]) -> None:
    """Lock a file until it is closed; return without the lock after _LOCK_TIMEOUT_S."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.1)


def _is_locked(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _delete_unused(folders: Iterable[Path]) -> None:
    for other in folders:
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(other)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compile_kernels(*(name for name in sys.argv[1:] if name != _VARIANTS))
    if _VARIANTS in sys.argv:
        with _lock(_VARIANTS):
            variants.measure()
