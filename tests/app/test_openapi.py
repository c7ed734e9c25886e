"""The API has the recorded shape: the calls, parameters, bodies and responses that clients rely on.

After a deliberate change, record it: `python -m tests.app.test_openapi`.
"""

import json
from pathlib import Path
from typing import Any

from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings

_RECORDED = Path(__file__).parents[1] / "fixtures" / "openapi.txt"
_WORDS = {"description", "summary", "title", "examples", "example", "tags"}
"""Parts of the document that can change without breaking a client."""


def shape() -> str:
    """Return one line for each operation and each schema of the OpenAPI document."""
    document = create_app(ApiSettings()).openapi()
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    parts = operations | document["components"]["schemas"]
    return "".join(
        f"{name} {json.dumps(_without_words(parts[name]), sort_keys=True)}\n" for name in sorted(parts)
    )


def _without_words(node: Any, *, holds_names: bool = False) -> Any:
    """Return a part of the document without its words, which can also be names of properties."""
    if isinstance(node, list):
        return [_without_words(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    return {
        name: _without_words(value, holds_names=name == "properties")
        for name, value in node.items()
        if holds_names or name not in _WORDS
    }


def test_the_api_has_the_recorded_shape() -> None:
    assert shape().splitlines() == _RECORDED.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    _RECORDED.write_text(shape(), encoding="utf-8")
