"""The clients' types are those of the API's schemas; after a change, run `python -m clients.generate`."""

from pathlib import Path

import pytest

from clients.generate import generated


@pytest.fixture(scope="module")
def files() -> dict[Path, str]:
    """What the generator writes."""
    return generated()


@pytest.mark.parametrize("name", ["types.py", "options.py", "nextchar.d.ts", "layout.h"])
def test_types_are_those_of_the_schemas(files: dict[Path, str], name: str) -> None:
    [file] = [file for file in files if file.name == name]
    assert file.read_text(encoding="utf-8").splitlines() == files[file].splitlines()
