"""Who may import whom; each case in a fresh process, for what is imported stays imported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING = {"tensorflow", "keras", "onnx"}


def _loaded_by(module: str) -> set[str]:
    script = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("app.main", TRAINING | {"worker", "launcher", "nextchar"}),
        ("worker.main", TRAINING | {"app", "launcher", "nextchar"}),
        ("worker.pipeline", {"app", "launcher", "nextchar"}),
        ("models.runtime.engine", TRAINING | {"app", "worker", "store", "fastapi", "redis"}),
        ("models.architectures.stateful_lstm", {"app", "worker", "store", "fastapi", "redis"}),
        ("store.reconcile", TRAINING | {"app", "worker", "fastapi"}),
        ("nextchar.cli.main", TRAINING | {"app", "worker", "store", "models", "launcher"}),
    ],
)
def test_a_module_does_not_load_what_is_not_its_business(module: str, forbidden: set[str]) -> None:
    assert _loaded_by(module) & forbidden == set()
