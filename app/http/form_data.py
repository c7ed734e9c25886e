"""Streaming extraction of a file from multipart/form-data."""

from collections.abc import Sequence
from functools import partial

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import parse_options_header

from nextchar.models.errors import InvalidInput

_MAX_VALUE_BYTES = 1000


class FormText:
    """Extracts the field `file` from multipart/form-data, piece by piece.

    Only the short fields named in `others` may accompany it; their values and the file's name are kept.
    """

    def __init__(self, boundary: bytes, *, others: Sequence[str] = ()) -> None:
        if not boundary:
            raise _invalid_form("its Content-Type names no boundary")
        self._text: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._field = b""
        self._value = b""
        self._has_file = False
        self.has_ended = False
        self._others = others
        self._current_field = "file"
        self.values: dict[str, bytes] = {}
        self.filename = ""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": partial(self._collect, "_field"),
                    "on_header_value": partial(self._collect, "_value"),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:  # the boundary is too long
            raise _invalid_form(str(error)) from None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the file's bytes in the next bytes of the form. Raises InvalidInput for an invalid form."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise _invalid_form(str(error)) from None
        text = self._text[:]
        self._text.clear()
        return text

    def finish(self) -> None:
        """Check that the form is complete and has the field. Raises InvalidInput."""
        if not self.has_ended:
            raise _invalid_form("it ends too early")
        if not self._has_file:
            raise InvalidInput(
                "the form has no field named file; send the text in it", code="form_broken", param="file"
            )

    def _collect(self, attribute: str, data: bytes, start: int, end: int) -> None:
        setattr(self, attribute, getattr(self, attribute) + data[start:end])

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("latin-1")
        is_other = name in self._others and name not in self.values
        if not is_other and (name != "file" or self._has_file):
            also = "; options go into the query, as ?name=NAME"
            if self._others:
                also = f", and each of {', '.join(self._others)} once"
            raise InvalidInput(
                f"the form has a field {name!r}; it must have one field named file, with the text{also}",
                code="form_broken",
                param=name or "body",
            )
        self._current_field = name
        if is_other:
            self.values[name] = b""
        else:
            self._has_file = True
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_field == "file":
            self._text.append(bytes(data[start:end]))
            return
        self.values[self._current_field] += data[start:end]
        if len(self.values[self._current_field]) > _MAX_VALUE_BYTES:
            raise InvalidInput(
                f"the form's field {self._current_field} is longer than {_MAX_VALUE_BYTES} bytes",
                code="form_broken",
                param=self._current_field,
            )

    def _end(self) -> None:
        self.has_ended = True


def _invalid_form(why: str) -> InvalidInput:
    return InvalidInput(f"the body is not valid multipart/form-data: {why}", code="form_broken", param="body")
