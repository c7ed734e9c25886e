"""What schemathesis cannot know from the OpenAPI description: bodies that are bytes, and what events are."""

import io
import json
import tarfile
from typing import Any

import schemathesis
from hypothesis import strategies as st

_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
_records = st.fixed_dictionaries(
    {}, optional={"message": _values, "log": _values, "time": _values, "host": _values, "source": _values}
)


def _lines(records: list[Any]) -> bytes:
    return "".join(f"{json.dumps(one)}\n" for one in records).encode()


@st.composite
def _archives(draw: st.DrawFn) -> bytes:
    file = io.BytesIO()
    names = st.sampled_from(
        ["model.json", "model.onnx", "mixture.npz", "../escape", "/etc/passwd", "report.html"]
    )
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in draw(st.lists(names, max_size=4)):
            content = draw(st.binary(max_size=200) | _values.map(json.dumps).map(str.encode))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


_JSON_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")


@schemathesis.serializer("application/x-tar", *_JSON_LINES)
def as_bytes(context: Any, value: Any) -> bytes:
    """Return bytes and texts as they are, and all else as JSON."""
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


schemathesis.openapi.media_type("application/x-tar", _archives() | st.binary(max_size=2000))
schemathesis.openapi.media_type(
    _JSON_LINES[0],
    st.lists(_records | _values, max_size=8).map(_lines) | st.binary(max_size=200),
    aliases=list(_JSON_LINES[1:]),
)
schemathesis.openapi.media_type("application/x-protobuf", st.binary(max_size=200))


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Describe each event of a stream, as OpenAPI 3.1 cannot, and drop examples of bytes."""
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
                if media_type == "application/x-tar" or media_type in _JSON_LINES:
                    body.pop("example", None)  # schemathesis serializes no examples of these
                    body.pop("examples", None)
            for answer in operation["responses"].values():
                if "text/event-stream" in answer.get("content", {}):
                    answer["content"]["text/event-stream"] = {"itemSchema": _EVENT}
