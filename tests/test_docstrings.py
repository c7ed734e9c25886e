"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {f"nextchar.{name}": ROOT / name for name in ("app", "launcher", "models", "store", "worker")} | {
    "benchmarks": ROOT / "benchmarks",
    "nextchar": ROOT / "clients" / "python" / "nextchar",
}


def modules_with_examples() -> list[str]:
    """Return the names of the modules whose docstrings have examples."""
    return [
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        for package, folder in FOLDERS.items()
        for path in sorted(folder.rglob("*.py"))
        if ">>> " in path.read_text()
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, "the output above has the difference"
    assert result.attempted, f"{name} has '>>> ' outside of a docstring"
