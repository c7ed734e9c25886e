"""The typed model of the training report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import TypeAdapter
from typing_extensions import is_typeddict

from nextchar.models.report import Report

DOCS = Path(__file__).parents[2] / "docs"


def _fields(kind: Any) -> Iterator[str]:
    """Yield the names of all fields, nested ones included."""
    for name, hint in get_type_hints(kind).items():
        yield name
        for inner in (hint, *get_args(hint), *(a for h in get_args(hint) for a in get_args(h))):
            if is_typeddict(inner):
                yield from _fields(inner)


def test_docs_name_every_field() -> None:
    (page,) = DOCS.rglob("report.md")
    text = page.read_text(encoding="utf-8")
    assert [field for field in _fields(Report) if f"| `{field}` |" not in text] == []


@pytest.mark.parametrize(
    "stored", [{}, {"validation_bits_per_character": 2.0}, {"steps": 3, "field_of_another_version": {"a": 1}}]
)
def test_reports_of_other_versions_are_valid_and_keep_all_fields(stored: dict[str, Any]) -> None:
    assert TypeAdapter(Report).validate_python(stored) == stored
