"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"app": ROOT, "benchmarks": ROOT, "launcher": ROOT, "models": ROOT, "store": ROOT, "worker": ROOT}
FOLDERS["nextchar"] = ROOT / "clients" / "python"


def modules_with_examples() -> list[str]:
    """Return the names of the modules whose docstrings have examples."""
    return [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for folder, root in FOLDERS.items()
        for path in sorted((root / folder).rglob("*.py"))
        if ">>> " in path.read_text()
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, "the output above has the difference"
    assert result.attempted, f"{name} has '>>> ' outside of a docstring"
