"""Writing records to a local file, as JSON lines or Parquet."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from nextchar.app.services.score_stream import json_line
from nextchar.models.errors import InvalidInput

Format = Literal["jsonl", "parquet"]

_ROWS = 10_000  # of a row group of Parquet


def check_format(name: Format) -> None:
    """Raise InvalidInput if the format needs a package that is not installed."""
    if name == "parquet":
        _pyarrow()


def write_records(records: Iterable[dict[str, Any]], path: Path, *, format_: Format) -> int:
    """Write records to a new file; return how many."""
    return _write_parquet(records, path) if format_ == "parquet" else _write_lines(records, path)


def _write_lines(records: Iterable[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("wb") as file:
        for record in records:
            file.write(json_line(record))
            count += 1
    return count


def _write_parquet(records: Iterable[dict[str, Any]], path: Path) -> int:
    pyarrow, parquet = _pyarrow()
    span = {"start": pyarrow.int32(), "end": pyarrow.int32(), "bits": pyarrow.float32()}
    completion = {"text": pyarrow.string(), "finish_reason": pyarrow.string()}
    # The same for all parts of any run: a column is null where a record has no such field.
    schema = pyarrow.schema(
        {
            "file": pyarrow.string(),
            "offset": pyarrow.int64(),
            "id": pyarrow.string(),
            "text": pyarrow.string(),
            "characters": pyarrow.int32(),
            "bits_per_character": pyarrow.float64(),
            "peak_bits": pyarrow.float64(),
            "total_bits": pyarrow.float64(),
            "score": pyarrow.float64(),
            "p_value": pyarrow.float64(),
            "anomalous": pyarrow.bool_(),
            "alert_id": pyarrow.string(),
            "spans": pyarrow.list_(pyarrow.struct(span | {"expected": pyarrow.string()})),
            "completions": pyarrow.list_(pyarrow.struct(completion)),
            "truncated": pyarrow.bool_(),
            "is_utf8": pyarrow.bool_(),
            "error": pyarrow.string(),
        }
    )
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for rows in _groups(records):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            count += len(rows)
    return count


def _groups(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for record in records:
        group.append(_row(record))
        if len(group) == _ROWS:
            yield group
            group = []
    if group:
        yield group


def _row(record: dict[str, Any]) -> dict[str, Any]:
    row = {key: _without_surrogates(value) for key, value in record.items()}
    error = record.get("error")
    return row | {
        "id": None if record.get("id") is None else _without_surrogates(str(record["id"])),
        "is_utf8": "not_utf8" not in record,
        "error": error["message"] if error else None,
    }


def _without_surrogates(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _pyarrow() -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise InvalidInput(
            "Parquet needs pyarrow, which is not installed; install it with: pip install 'nextchar[ray]', or"
            " write JSON lines"
        ) from None
    return pyarrow, parquet
