"""The log records of an OTLP export request, in protobuf or JSON, as lines per model.

The messages are those of `opentelemetry-proto`. In protobuf, strings are read as bytes: agents send invalid
UTF-8, which would otherwise refuse the whole request instead of being replaced in one line. Records are
parsed one after the other: an empty one has two bytes in a request, and takes 128 when parsed.
"""

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from typing import Any, cast

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from nextchar.app.logs.ingest.lines import (
    MAX_BATCH_LINES,
    LineReader,
    ParsedLines,
    batch_too_large,
    load_json,
)
from nextchar.app.logs.ingest.records import LineMeta
from nextchar.app.logs.ingest.schemas import OtlpQuery
from nextchar.models.errors import InvalidInput

PROTOBUF, JSON = "application/x-protobuf", "application/json"
"""The media types of a request; the response has the same."""

MODEL_ATTRIBUTE = "nextchar.model"
"""The attribute of a resource that names the model for its records."""

_MAX_FIELDS = 10 * MAX_BATCH_LINES  # around records; one that has its own resource and scope has seven
_MAX_MESSAGE_BYTES = 4 << 20  # of a record or resource, which takes up to 25 times as much when parsed
_MAX_DEPTH = 20  # of nested values
_MAX_STATUS_BYTES = 1_000


@dataclass(frozen=True)
class OtlpLines:
    """The lines of a request by model, and how many records name no model."""

    by_model: Mapping[str, ParsedLines]
    without_model: int


def parse_otlp(data: bytes, media_type: str, query: OtlpQuery, default_model: str | None) -> OtlpLines:
    """Return the lines of an export request.

    Raises:
        InvalidInput: the body is not such a message (code `malformed_otlp`), or a resource is too large.
        TooLarge: it has too many lines.
    """
    reader = LineReader(query)
    by_model: dict[str, ParsedLines] = {}
    without_model = 0
    for resource, read in _protobuf_records(data) if media_type == PROTOBUF else _json_records(data):
        model = resource.get(MODEL_ATTRIBUTE)
        name = (model.decode("utf-8", "replace") if isinstance(model, bytes) else model) or default_model
        if not isinstance(name, str):
            without_model += 1
            continue
        by_model.setdefault(name, ParsedLines()).add(partial(_line, reader, resource, read))
    return OtlpLines(by_model, without_model)


def response_of(rejected: int, message: str, media_type: str) -> bytes:
    """Return the ExportLogsServiceResponse, with partial_success if records were rejected."""
    response = logs_service_pb2.ExportLogsServiceResponse()
    if rejected or message:
        response.partial_success.rejected_log_records = rejected
        response.partial_success.error_message = message
    if media_type == PROTOBUF:
        return bytes(response.SerializeToString())
    return str(json_format.MessageToJson(response, indent=None)).encode()


def status_of(message: str) -> bytes:
    r"""Return an error as google.rpc.Status in protobuf, as OTLP/HTTP requires of responses to protobuf.

    >>> status_of("no")
    b'\x12\x82\x00no'
    """
    text = message.encode()[:_MAX_STATUS_BYTES].decode(errors="ignore").encode()
    # Field 2, a string, and its length as a varint of two bytes.
    return b"\x12" + bytes([len(text) & 127 | 128, len(text) >> 7]) + text


def _line(
    reader: LineReader, resource: dict[str, Any], read: Callable[[], Message]
) -> tuple[bytes, LineMeta]:
    record: Any = read()
    fields = ChainMap(_attributes(record.attributes), resource)  # not copied: a resource can have 100,000
    body = _value(record.body)
    if body is None:
        raise InvalidInput("the record has no body", code="no_line")
    nanoseconds = record.time_unix_nano or record.observed_time_unix_nano
    data, meta = reader.line(body, fields)
    if nanoseconds and not reader.query.time:
        meta = replace(meta, time=nanoseconds / 1e9)
    return data, meta


def _protobuf_records(data: bytes) -> Iterator[tuple[dict[str, Any], Callable[[], Message]]]:
    try:
        split = _split(memoryview(data))
    except (DecodeError, IndexError):
        raise _malformed("the body is not an ExportLogsServiceRequest in protobuf") from None
    resource_class, record_class = _classes_of_bytes()
    for resource, records in split:
        attributes = _attributes(_parse(resource_class, resource).attributes)
        for record in records:
            yield attributes, partial(_parse, record_class, record)


def _split(request: memoryview) -> list[tuple[bytes, list[bytes]]]:
    """Return each resource of a request with its log records, not parsed.

    Raises:
        DecodeError, IndexError: it is malformed.
        TooLarge: it has too many of them.
    """
    split: list[tuple[bytes, list[bytes]]] = []
    counter = count(1)
    for number, resource_logs in _fields(request, counter):
        if number != 1:  # resource_logs
            continue
        resource = bytearray()
        records: list[bytes] = []
        for inner, value in _fields(resource_logs, counter):
            if inner == 1:  # resource; the parts of a message are merged
                resource += value
            elif inner == 2:  # scope_logs, with its log_records
                records += (bytes(record) for field, record in _fields(value, counter) if field == 2)
        split.append((bytes(resource), records))
    return split


def _fields(message: memoryview, counter: Iterator[int]) -> Iterator[tuple[int, memoryview]]:
    """Yield number and bytes of each field that is a string or a message; `counter` counts all fields."""
    at = 0
    while at < len(message):
        if next(counter) > _MAX_FIELDS:
            raise batch_too_large(f"{_MAX_FIELDS:,} resources, scopes and records")
        tag, at = _varint(message, at)
        wire_type = tag & 7
        if wire_type == 0:
            _, at = _varint(message, at)
        elif wire_type == 1:
            at += 8
        elif wire_type == 2:
            length, at = _varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        elif wire_type == 5:
            at += 4
        else:
            raise DecodeError("a group, or no wire type")
    if at > len(message):
        raise DecodeError("a field ends after its message")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a varint and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise DecodeError("a varint of more than ten bytes")


def _parse(kind: type[Message], data: bytes) -> Any:
    if len(data) > _MAX_MESSAGE_BYTES:
        raise InvalidInput(
            f"a record and a resource have at most {_MAX_MESSAGE_BYTES >> 20} MiB", code="record_too_large"
        )
    try:
        return kind.FromString(data)
    except DecodeError:
        raise _malformed("a record or resource is not valid protobuf") from None


def _json_records(data: bytes) -> Iterator[tuple[dict[str, Any], Callable[[], Message]]]:
    try:
        request = load_json(data)
    except (ValueError, RecursionError):
        raise _malformed("the body is not JSON") from None
    for resource_logs in _list_of(request, "resourceLogs", "resource_logs"):
        scopes = _list_of(resource_logs, "scopeLogs", "scope_logs")
        resource = resource_pb2.Resource()
        try:
            json_format.ParseDict(resource_logs.get("resource") or {}, resource, ignore_unknown_fields=True)
        except (json_format.ParseError, TypeError, ValueError, RecursionError) as error:
            raise _malformed(f"a resource cannot be read: {str(error)[:200]}") from None
        attributes = _attributes(resource.attributes)
        for scope_logs in scopes:
            for record in _list_of(scope_logs, "logRecords", "log_records"):
                yield attributes, partial(_record_of_json, record)


def _record_of_json(record: Any) -> Message:
    if not isinstance(record, dict):
        raise InvalidInput("the record is not an object", code="malformed_line")
    # Ids are in hexadecimal, where protobuf's JSON has base64; they are not needed.
    fields = {
        name: v for name, v in record.items() if name not in ("traceId", "spanId", "trace_id", "span_id")
    }
    try:
        return json_format.ParseDict(fields, logs_pb2.LogRecord(), ignore_unknown_fields=True)
    except (json_format.ParseError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the record cannot be read: {str(error)[:200]}", code="malformed_line") from None


def _list_of(value: Any, name: str, other_name: str) -> list[Any]:
    if not isinstance(value, dict):
        raise _malformed(f"what should have {name} is not an object")
    found = value.get(name, value.get(other_name)) or []
    if not isinstance(found, list):
        raise _malformed(f"{name} is not a list")
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    return {_text(pair.key): _value(pair.value) for pair in pairs}


def _value(any_value: Any, depth: int = 0) -> Any:
    """Return an AnyValue as Python's; None for nothing, and for what is nested too deeply."""
    kind = any_value.WhichOneof("value")
    if kind is None or depth > _MAX_DEPTH:
        return None
    value = getattr(any_value, kind)
    if kind == "kvlist_value":
        return {_text(pair.key): _value(pair.value, depth + 1) for pair in value.values}
    if kind == "array_value":
        return [_value(one, depth + 1) for one in value.values]
    return value


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@cache
def _classes_of_bytes() -> tuple[type[Message], type[Message]]:
    """Return the classes of resources and log records whose strings are bytes, the same on the wire."""
    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, logs_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            for one in message.field:
                if one.type == one.TYPE_STRING:
                    one.type = one.TYPE_BYTES
        pool.Add(file)
    names = (kind.DESCRIPTOR.full_name for kind in (resource_pb2.Resource, logs_pb2.LogRecord))
    resource, record = (message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)
    return cast(type[Message], resource), cast(type[Message], record)


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(why, code="malformed_otlp", param="body")
