"""A random sample of the faults that `operators.py` derives, from the files where a fault costs most."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.operators import count_faults, fault
from tests.mutants.runner import Mutant

ROOT = Path(__file__).parents[2]

GROUPS = {
    "store": ("store/*.py",),
    "models/runtime": ("models/runtime/*.py",),
    "models/anomaly": ("models/anomaly/*.py",),
    "training": (
        "worker/attempt.py",
        "worker/checkpoints.py",
        "worker/evaluation.py",
        "worker/kernel_step.py",
        "worker/pacing.py",
        "worker/rows.py",
        "worker/schedule.py",
        "worker/trainer.py",
        "worker/training.py",
    ),
    "keys and limits": (
        "app/access/keys.py",
        "app/access/permissions.py",
        "app/access/auth.py",
        "app/http/bodies.py",
        "app/http/connections.py",
        "app/http/incoming_body.py",
        "app/http/middleware.py",
        "app/operations/metrics.py",
        "app/http/limits.py",
        "app/http/threads.py",
    ),
}
"""The patterns of the files of each group."""


_OUTWARD_TESTS = {
    "app/access/auth.py": ("tests/app/access/test_concurrency.py",),
    "app/access/permissions.py": ("tests/app/access/test_auth.py", "tests/app/access/test_quotas.py"),
    "app/http/incoming_body.py": ("tests/app/corpora/test_transfer.py",),
    "app/http/limits.py": ("tests/app/access/test_concurrency.py", "tests/app/access/test_quotas.py"),
    "models/anomaly/stream_scorer.py": ("tests/app/scoring/test_score_stream.py",),
    "models/runtime/suggestions.py": ("tests/app/suggestions/test_routes.py",),
    "store/gunzip.py": ("tests/app/corpora/test_routes.py", "tests/app/scoring/test_line_streams.py"),
    "worker/attempt.py": ("tests/worker/test_tasks.py",),
}
"""Tests that prove what a file does and do not import it."""


def mirror_tests(file: str) -> tuple[str, ...]:
    """Return the tests that must find the faults of a file: files, and the examples in its docstrings.

    Of the folder of its tests these are the one of its name and those that import it; and _OUTWARD_TESTS.

    >>> mirror_tests("store/live.py")[0], mirror_tests("store/gunzip.py")[-1]
    ('tests/store/test_durability.py', 'tests/app/scoring/test_line_streams.py')
    """
    path = Path(file)
    *packages, name = ("nextchar", *path.with_suffix("").parts)
    package = r"\.".join(packages)
    imports = re.compile(rf"\bfrom {package}(\.{name} import|.* import .*\b{name}\b)")
    of_folder = sorted((ROOT / "tests" / path.parent).glob("test_*.py"))
    own = [one for one in of_folder if one.stem == f"test_{name}" or imports.search(one.read_text("utf-8"))]
    tests = *(str(one.relative_to(ROOT)) for one in own), *_OUTWARD_TESTS.get(file, ())
    if ">>> " not in (ROOT / file).read_text(encoding="utf-8"):
        return tests
    module = ".".join((*packages, name))
    return (f"tests/test_docstrings.py::test_examples_give_what_they_say[{module}]", *tests)


def files_of(group: str) -> list[str]:
    """Return the files of a group that have any faults to derive."""
    found = sorted(path for pattern in GROUPS[group] for path in ROOT.glob(pattern))
    return [str(path.relative_to(ROOT)) for path in found if count_faults(path.read_text(encoding="utf-8"))]


def sample(group: str, size: int, *, seed: int) -> Iterator[Mutant]:
    """Yield `size` faults of a group, each equally likely, without repetition."""
    places = [
        (file, index)
        for file in files_of(group)
        for index in range(count_faults((ROOT / file).read_text(encoding="utf-8")))
    ]
    for file, index in sorted(random.Random(f"{seed} {group}").sample(places, min(size, len(places)))):
        source = (ROOT / file).read_text(encoding="utf-8")
        name, new = fault(source, index)
        yield Mutant(f"{file}:{name}", file, new, mirror_tests(file))
