"""Who may import whom; each case in a fresh process, for what is imported stays imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING = {"tensorflow", "keras", "onnx"}


def _loaded_by(module: str) -> set[str]:
    """Return the names of the packages that importing a module loads, and of those inside nextchar."""
    script = f"""
import sys, {module}
print(*{{name.removeprefix("nextchar.").partition(".")[0] for name in sys.modules}})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_what_sends_traces_is_loaded_only_if_they_are_on() -> None:
    script = """
import sys, nextchar.app.main, nextchar.worker.main, nextchar.worker.tasks
from nextchar.store import tracing
tracing.start("test")
with tracing.span("nothing"):
    assert tracing.traceparent() is None
# redis-py imports opentelemetry.sdk.metrics wherever it is installed.
forbidden = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "requests")
assert [name for name in sys.modules if name.startswith(forbidden)] == []
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("nextchar.app.main", TRAINING | {"worker", "launcher", "client", "cli"}),
        ("nextchar.worker.main", TRAINING | {"app", "launcher", "client", "cli"}),
        ("nextchar.worker.pipeline", {"tensorflow", "keras", "app", "launcher", "client", "cli"}),
        ("nextchar.models.runtime.engine", TRAINING | {"app", "worker", "store", "fastapi", "redis"}),
        ("nextchar.cli.main", TRAINING | {"app", "worker", "store", "models", "launcher"}),
    ],
)
def test_a_module_does_not_load_what_is_not_its_business(module: str, forbidden: set[str]) -> None:
    assert _loaded_by(module) & forbidden == set()
