"""Tests of the kernels once more, with each index checked against the bounds of its array."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = [
    "tests/models/kernels/test_activations.py",
    "tests/models/kernels/test_lstm_window.py",
    "tests/models/runtime/test_line_index.py",
    "tests/models/runtime/test_lstm_network.py",
    "tests/models/runtime/test_mixture.py",
    "tests/worker/test_kernel_step.py",
    "tests/worker/test_mixture_weights.py",
]
OTHERS = "not tensorflow and not generic_processor"
"""Tests that need TensorFlow, which takes long to import, or compile by themselves."""


@pytest.mark.long  # other tests once more, in kernels that are compiled anew
@pytest.mark.timeout(1200)
def test_no_kernel_reads_or_writes_outside_of_its_arrays() -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    del inherited["NUMBA_CACHE_DIR"]  # of unchecked code; conftest.py takes another folder for this setting
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", OTHERS, *FILES],
        cwd=ROOT,
        env=inherited | {"NUMBA_BOUNDSCHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout[-5000:] + tests.stderr[-2000:]


def test_checked_code_is_cached_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from nextchar.models.kernels.compile_cache import fingerprint

    monkeypatch.delenv("NUMBA_BOUNDSCHECK", raising=False)
    unchecked = fingerprint()
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    assert fingerprint() != unchecked
