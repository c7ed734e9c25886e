"""Faults that are put into the code: each is one that runs, and is tried with tests that are there."""

import ast
from pathlib import Path

import pytest

from tests.mutants.operators import count_faults, fault
from tests.mutants.sampling import GROUPS, files_of, mirror_tests, sample

ROOT = Path(__file__).parents[1]


def test_each_small_change_of_a_file_is_one_that_runs() -> None:
    source = '''"""1 < 2"""
MAX_BYTES = 1024 * 1024
def f(a: int = 3) -> bool:
    if not a and a < 1:
        raise ValueError("1 + 1")
    return a == 2 + a
'''
    found = dict(fault(source, index) for index in range(count_faults(source)))
    assert list(found) == [
        "3 3 to 4",
        "4 And to Or",
        "4 without not",
        "4 Lt to LtE",
        "4 1 to 2",
        "6 Eq to NotEq",
        "6 Add to Sub",
        "6 2 to 3",
    ]
    for name, new in found.items():
        variables: dict[str, object] = {}
        exec(new, variables)  # noqa: S102
        assert ast.dump(ast.parse(new)) != ast.dump(ast.parse(source)), name


def test_the_size_that_follows_from_the_others_is_not_changed() -> None:
    source = "def f(a):\n    return a[-1].reshape(-1, 2)\n"
    assert [fault(source, index)[0] for index in range(count_faults(source))] == ["2 1 to 2", "2 2 to 3"]


@pytest.mark.parametrize("group", GROUPS)
def test_each_file_of_a_group_has_tests_that_are_there(group: str) -> None:
    assert all(any(ROOT.glob(pattern)) for pattern in GROUPS[group])
    for file in files_of(group):
        found = mirror_tests(file)
        assert found and all((ROOT / test.partition("::")[0]).exists() for test in found), file


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    drawn = [[mutant.name for mutant in sample("training", 5, seed=seed)] for seed in (1, 1, 2)]
    assert len(set(drawn[0])) == 5
    assert drawn[0] == drawn[1] != drawn[2]
