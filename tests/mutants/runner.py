"""Runs tests on a copy of the checkout with one fault in it.

The copy is in build/mutants, so the checkout itself never has a fault. Each run is a fork of this process,
which has imported the packages that earlier runs needed; the code of the product and its tests are imported
anew in the fork.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "mutants"
_OUTPUT = COPY / "build" / "output.txt"
_IMPORTED = COPY / "build" / "imported.json"  # by the last run, of packages of others
_OPTIONS = (
    *("-q", "-x", "-p", "no:cacheprovider", "-p", "pytest_timeout"),
    *("-p", "no:unraisableexception"),  # what a failed test has left open: pytest would end with an error
)
_POLL_S = 0.05
_READ_AT_IMPORT = ("CUDA_", "NUMBA_", "ORT_", "TF_", "XLA_")  # variables of packages


@dataclass(frozen=True)
class Mutant:
    """The source of the file at `path` with one fault; some of `tests` must fail with it."""

    name: str
    path: str
    source: str
    tests: tuple[str, ...]


def copy_checkout() -> None:
    """Make the copy, or bring it up to date; what is unchanged keeps its date and its compiled kernels."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    wanted = {file for file in files if file and (ROOT / file).exists()}
    for file in wanted:
        source, target = ROOT / file, COPY / file
        if source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(source.readlink())
        elif not target.exists() or source.read_bytes() != target.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    for target in [path for path in COPY.rglob("*.py") if "data" not in path.relative_to(COPY).parts[:1]]:
        if str(target.relative_to(COPY)) not in wanted:
            target.unlink()
    _OUTPUT.parent.mkdir(exist_ok=True)
    _IMPORTED.unlink(missing_ok=True)


def find_killer(mutant: Mutant, tests: Sequence[str], *, number: int, timeout_s: float) -> str | None:
    """Run tests on a mutant; return the one that failed, or None.

    Args:
        mutant: The fault.
        tests: Files of tests, or names of tests.
        number: Different for each mutant of a process: the date of the file, so that no compiled file of
            another mutant is taken for this one's.
        timeout_s: After it the fault counts as found.
    """
    path = COPY / mutant.path
    original, date = path.read_text(encoding="utf-8"), path.stat().st_mtime
    try:
        path.write_text(mutant.source, encoding="utf-8")
        os.utime(path, (date + number, date + number))
        status = _run_in_fork(tests, timeout_s)
    finally:
        path.write_text(original, encoding="utf-8")
        os.utime(path, (date, date))
    if status is None:
        return "(took too long)"
    if status == pytest.ExitCode.OK:
        return None
    if status < 0:
        return f"(ended by {signal.Signals(-status).name})"
    output = _OUTPUT.read_text(encoding="utf-8", errors="replace")
    failed = [line for line in output.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
    if failed:
        return failed[0].split(" - ")[0].partition(" ")[2]
    cannot_import = "ImportError while loading conftest" in output
    if status == pytest.ExitCode.INTERRUPTED or (status == pytest.ExitCode.USAGE_ERROR and cannot_import):
        return "(no test can be imported)"
    raise SystemExit(f"{mutant.name}: pytest ended with status {status}:\n{output[-3000:]}")


def _run_in_fork(tests: Sequence[str], timeout_s: float) -> int | None:
    """Return the exit status of pytest in the copy, or None if it took too long."""
    _import_packages()
    child = os.fork()
    if child == 0:
        _become_pytest(tests)
    deadline = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(_POLL_S)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # with all that the tests have left running
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _import_packages() -> None:
    """Import the packages of the last run, so that the next need not."""
    if not _IMPORTED.exists():
        return
    imported = json.loads(_IMPORTED.read_text())
    for name, value in imported["environment"].items():
        os.environ.setdefault(name, value)
    for name in imported["modules"]:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _note_packages() -> None:
    """Write what this process has imported, but for pytest's plugins, and what it decides at its import."""
    folder = str(Path(pytest.__file__).parents[1])
    files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
    modules = [name for name, file in files.items() if file.startswith(folder) and "pytest" not in name]
    environment = {name: value for name, value in os.environ.items() if name.startswith(_READ_AT_IMPORT)}
    _IMPORTED.write_text(json.dumps({"environment": environment, "modules": modules}))


def _become_pytest(tests: Sequence[str]) -> None:
    """Run pytest in the copy, and end this process with its status."""
    status = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        os.setsid()
        with _OUTPUT.open("w") as output:
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.dup2(output.fileno(), sys.stderr.fileno())
        os.chdir(COPY)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        ours = [str(COPY), str(COPY / "clients" / "python")]
        sys.path[:] = ours + [
            entry for entry in sys.path if Path(entry) not in (ROOT, ROOT / "clients" / "python")
        ]
        os.environ["PYTHONPATH"] = os.pathsep.join(ours)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        status = int(pytest.main([*_OPTIONS, *tests]))
        _note_packages()
    except SystemExit:  # of the product, while it is imported
        status = int(pytest.ExitCode.INTERRUPTED)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
