"""Node.js and the npm packages of `tests/node/package.json`, which a test needs or else is skipped."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "clients" / "js"
PACKAGES = ROOT / ".venv" / "node" / "node_modules"


def node(*arguments: str, cwd: Path, program: str = "node") -> str:
    """Run Node.js (or npm) in `cwd` and return its output; skip the test if it is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [path, *arguments], cwd=cwd, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def require_packages(*names: str) -> None:
    """Skip the test, by name, if an npm package is not installed."""
    for name in names:
        if not (PACKAGES / name / "package.json").exists():
            pytest.skip(f"the npm package {name} is not installed (tests/node)")
