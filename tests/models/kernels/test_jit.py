"""Compiled functions that call each other."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import config

from nextchar.models.kernels.jit import compiled

ROOT = Path(__file__).parents[3]

MODULE = """
import os
import numpy as np
from nextchar.models.kernels.jit import compiled

FACTOR = int(os.environ["FACTOR"])

@compiled("int64(int64)", variant=str(FACTOR), is_internal=True)
def multiply(x):
    return x * FACTOR

@compiled("int64(int64)")
def multiply_and_add(x):
    return multiply(x) + 1

print(multiply_and_add(10), sum(multiply_and_add.stats.cache_hits.values()))
"""


def test_cached_code_calls_the_variant_of_its_process(tmp_path: Path) -> None:
    (tmp_path / "module_of_test.py").write_text(MODULE)

    def printed(factor: int) -> str:
        environment = os.environ | {
            "FACTOR": str(factor),
            "NUMBA_CACHE_DIR": str(tmp_path),
            "PYTHONPATH": str(tmp_path),
        }
        command = [sys.executable, "-c", "import module_of_test"]
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert printed(2) == "21 0"
    assert printed(3) == "31 1"
    assert printed(2) == "21 1"


@pytest.mark.parametrize(("folder", "hits"), [("0123456789abcdef", "21 1"), ("of_the_user", "21 0")])
def test_code_of_a_fingerprint_is_found_by_an_installation_at_another_path(
    tmp_path: Path, folder: str, hits: str
) -> None:
    """In the folder of a fingerprint the path of the sources does not matter, elsewhere it does."""
    program = (
        "import nextchar.models.kernels.jit as jit; jit._FOLDER = jit.Path({0!r}); import module_of_test"
    )

    def printed(installation: str) -> str:
        sources = tmp_path / installation
        sources.mkdir()
        (sources / "module_of_test.py").write_text(MODULE)
        environment = os.environ | {
            "FACTOR": "2",
            "NUMBA_CACHE_DIR": str(tmp_path / folder),
            "PYTHONPATH": str(sources),
        }
        return subprocess.run(
            [sys.executable, "-c", program.format(str(sources.resolve()))],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    assert printed("one") == "21 0"
    assert printed("other") == hits


def test_a_compiled_function_contains_no_copy_of_one_that_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "ZipCacheLocator")  # no cache

    @compiled("void(int64[::1])", is_internal=True)
    def write_a_rare_number(x):  # type: ignore[no-untyped-def]
        x[0] = 0x123456789ABC

    @compiled("void(int64[::1])")
    def caller(x):  # type: ignore[no-untyped-def]
        write_a_rare_number(x)

    (code,) = caller.inspect_llvm().values()
    assert str(0x123456789ABC) not in code
    x = np.zeros(1, np.int64)
    caller(x)
    assert x[0] == 0x123456789ABC
