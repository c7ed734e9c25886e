"""The list of known faults is that of the code as it is now: `make mutants` runs the tests for them."""

import ast
from pathlib import Path

import pytest

from tests.mutants.known import KNOWN, Mutant
from tests.mutants.operators import faults_in

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", KNOWN, ids=lambda mutant: mutant.name)
def test_a_known_fault_can_be_put_into_its_file_and_has_tests(mutant: Mutant) -> None:
    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1
    ast.parse(source.replace(mutant.old, mutant.new))
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8")


def test_each_small_change_of_a_file_is_one_that_runs() -> None:
    source = '''"""1 < 2"""
def f(a: int = 3) -> bool:
    if not a and a < 1:
        raise ValueError("1 + 1")
    return a == 2 + a
'''
    found = {name: new for name, _, new in faults_in(source)}
    assert list(found) == [
        "2 3 to 4",
        "3 And to Or",
        "3 without not",
        "3 Lt to LtE",
        "3 1 to 2",
        "5 Eq to NotEq",
        "5 Add to Sub",
        "5 2 to 3",
    ]
    for name, new in found.items():
        variables: dict[str, object] = {}
        exec(new, variables)  # noqa: S102
        assert ast.dump(ast.parse(new)) != ast.dump(ast.parse(source)), name
