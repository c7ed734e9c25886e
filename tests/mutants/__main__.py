"""Puts faults into the code, one at a time, and runs the tests that must fail: `python -m tests.mutants`.

    make mutants                                the faults of `known.py`
    make mutants ARGS="-k lease"                those whose names have a word
    make mutants ARGS="store/live.py --every 3 --tests tests/store/test_live.py"
                                                each third fault that `operators.py` finds in a file

The faults are put into a copy of the checkout in build/mutants, so the checkout itself never has one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutants.known import KNOWN, Mutant
from tests.mutants.operators import faults_in

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "mutants"
_TIMEOUT_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", help="files of the product; by default the known faults")
    parser.add_argument("-k", dest="word", default="", help="only faults whose names have this word")
    parser.add_argument("--every", type=int, default=1, help="take one fault of so many (default 1)")
    parser.add_argument("--tests", nargs="*", help="tests to run; by default those that mirror the file")
    options = parser.parse_args()
    mutants = [m for m in _chosen(options) if options.word in m.name]
    _copy()
    survivors = []
    for number, mutant in enumerate(mutants, 1):
        began = time.monotonic()
        killer = _killer(mutant)
        if killer is None:
            survivors.append(mutant)
        seconds = time.monotonic() - began
        print(f"{number}/{len(mutants)} {killer or 'SURVIVED'}: {mutant.name} ({seconds:.0f} s)", flush=True)
    killed = len(mutants) - len(survivors)
    print(f"{killed} of {len(mutants)} were found, {killed / max(1, len(mutants)):.0%}")
    for mutant in survivors:
        print(f"survived: {mutant.name}\n  {mutant.path}\n- {mutant.old.strip()}\n+ {mutant.new.strip()}")
    return 1 if survivors else 0


def _chosen(options: argparse.Namespace) -> Sequence[Mutant]:
    if not options.files:
        return [Mutant(m.name, m.path, m.old, m.new, tuple(options.tests or m.tests)) for m in KNOWN]
    return list(_found(options))


def _found(options: argparse.Namespace) -> Iterator[Mutant]:
    for file in options.files:
        tests = tuple(options.tests or [_mirror(file)])
        source = (ROOT / file).read_text(encoding="utf-8")
        for name, old, new in list(faults_in(source))[:: options.every]:
            yield Mutant(f"{file}:{name}", file, old, new, tests)


def _mirror(file: str) -> str:
    """Return the tests of a file.

    >>> _mirror("store/live.py")
    'tests/store/test_live.py'
    """
    path = Path(file)
    return str("tests" / path.with_name(f"test_{path.name}"))


def _copy() -> None:
    """Make the copy, or bring it up to date; what is unchanged keeps its date and its compiled kernels."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    wanted = {file for file in files if file and (ROOT / file).exists()}
    for file in wanted:
        source, target = ROOT / file, COPY / file
        if not target.exists() or source.read_bytes() != target.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    for target in [path for path in COPY.rglob("*.py") if "data" not in path.relative_to(COPY).parts[:1]]:
        if str(target.relative_to(COPY)) not in wanted:
            target.unlink()


def _killer(mutant: Mutant) -> str | None:
    """Run the tests on a mutant; return the one that failed, or None."""
    path = COPY / mutant.path
    original, date = path.read_text(encoding="utf-8"), path.stat().st_mtime
    if original.count(mutant.old) != 1:
        places = original.count(mutant.old)
        raise SystemExit(f"{mutant.name}: {mutant.path} has {mutant.old!r} {places} times, not once")
    environment = {**os.environ, "PYTHONPATH": f"{COPY}:{COPY / 'clients' / 'python'}"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    try:
        path.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
        done = subprocess.run(
            [*command, *mutant.tests],
            cwd=COPY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "(took too long)"
    finally:
        path.write_text(original, encoding="utf-8")
        os.utime(path, (date, date))
    if done.returncode == 0:
        return None
    failed = [
        line.split(" - ")[0]
        for line in done.stdout.splitlines()
        if line.startswith(("FAILED tests", "ERROR tests"))
    ]
    if not failed:
        raise SystemExit(f"{mutant.name}: pytest ended with status {done.returncode}:\n{done.stdout[-3000:]}")
    return failed[0].partition(" ")[2]


if __name__ == "__main__":
    sys.exit(main())
