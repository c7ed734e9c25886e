"""Puts faults into the code, one at a time, and runs the tests that must fail: `python -m tests.mutants`.

make mutants                                ten faults at random of each group of `sampling.py`
make mutants ARGS="--sample 30 --seed 2"    other 30 of each
make mutants ARGS="store/live.py --every 3 --tests tests/store/test_live.py"
                                            each third fault that `operators.py` finds in a file
"""

import argparse
import ast
import difflib
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.mutants.operators import count_faults, fault
from tests.mutants.runner import ROOT, Mutant, copy_checkout, find_killer
from tests.mutants.sampling import GROUPS, mirror_tests, sample


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", help="files of the product; by default a sample")
    parser.add_argument("--every", type=int, default=1, help="take one fault of so many (default 1)")
    parser.add_argument("--sample", type=int, default=10, help="so many faults of each group, at random")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default 1)")
    parser.add_argument("--groups", nargs="*", choices=[*GROUPS], default=[*GROUPS], help="of the sample")
    parser.add_argument("--tests", nargs="*", help="tests to run; by default those that mirror the file")
    parser.add_argument("--timeout-s", type=float, default=600, help="for the tests of a fault (default 600)")
    options = parser.parse_args()
    mutants = list(_chosen(options))
    copy_checkout()
    survivors = []
    found: Counter[str] = Counter()
    for number, (group, mutant) in enumerate(mutants, 1):
        began = time.monotonic()
        tests = options.tests or mutant.tests
        killer = find_killer(mutant, tests, number=number, timeout_s=options.timeout_s)
        if killer is None:
            survivors.append(mutant)
        else:
            found[group] += 1
        seconds = time.monotonic() - began
        print(f"{number}/{len(mutants)} {killer or 'SURVIVED'}: {mutant.name} ({seconds:.0f} s)", flush=True)
    for group, count in Counter(group for group, _ in mutants).items():
        print(f"{group}: {found[group]} of {count} were found, {found[group] / count:.0%}")
    for mutant in survivors:
        print(f"survived: {mutant.name} in {mutant.path}", *_difference(mutant), sep="\n")
    return 1 if survivors else 0


def _chosen(options: argparse.Namespace) -> Iterator[tuple[str, Mutant]]:
    """Yield the faults to try, each with the group in whose score it counts."""
    for file in options.files:
        source = (ROOT / file).read_text(encoding="utf-8")
        for index in range(0, count_faults(source), options.every):
            name, new = fault(source, index)
            yield file, Mutant(f"{file}:{name}", file, new, mirror_tests(file))
    for group in () if options.files else options.groups:
        for mutant in sample(group, options.sample, seed=options.seed):
            yield group, mutant


def _difference(mutant: Mutant) -> Iterator[str]:
    """Yield the lines that differ, without comments and layout."""
    old = ast.unparse(ast.parse((ROOT / mutant.path).read_text(encoding="utf-8")))
    for line in difflib.unified_diff(old.splitlines(), mutant.source.splitlines(), n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            yield f"  {line}"


if __name__ == "__main__":
    sys.exit(main())
