"""Reads the JSON files of a saved model, which may be damaged or of another version."""

import json
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

from nextchar.models.errors import Unavailable


@contextmanager
def json_record(data: bytes, file: str, version: int, *, older: Container[int] = ()) -> Iterator[Any]:
    """Yield the record in a file's contents; what fails while it is used is an error of the file.

    Args:
        data: the contents.
        file: its name in the model.
        version: the format that is written.
        older: other formats that can be read.

    Raises:
        Unavailable: it is damaged (code `model_damaged`), or of a format that this program does not know
            (`model_format_unknown`).
    """
    try:
        record = json.loads(data)
        found = record["format_version"]
        if found != version and found not in older:
            raise Unavailable(
                f"{file} has format {found!r} and this program knows {version}; update nextchar",
                code="model_format_unknown",
            )
        yield record
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(f"{file} is damaged ({type(error).__name__})", code="model_damaged") from None
