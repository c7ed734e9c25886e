import gzip
import json
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from redis import Redis

from nextchar.app.logs.ingest import lines as ingest_lines
from nextchar.app.logs.ingest import otlp as otlp_logs
from nextchar.app.logs.ingest.kept_lines import lines_key
from nextchar.app.logs.ingest.schemas import OtlpQuery
from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, error_of

INGEST = "/v1/models/fake/ingest"
LOGS = "/v1/logs"
JSON_LINES = "application/x-ndjson"
PROTOBUF = "application/x-protobuf"


@pytest.fixture
def settings(settings: ApiSettings) -> ApiSettings:
    """Settings of a process that leaves the scoring to others, so that the lines stay in Redis."""
    return settings.model_copy(update={"ingest_scoring": False, "max_ingest_lines": 1_000})


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)
    calibrate(service, "fake")


def calibrate(service: Service, model: str, **more: Any) -> None:
    lines = ["ab" * (1 + i % 9) for i in range(120)]
    answer = service.http.post(f"/v1/models/{model}/calibrate", json={"lines": lines} | more)
    assert answer.status_code == 201, answer.text


@pytest.fixture
def redis(service: Service) -> Redis:
    return Redis.from_url(service.settings.redis_url)


def send(service: Service, data: bytes | str, kind: str = JSON_LINES, **more: Any) -> httpx.Response:
    headers = {"Content-Type": kind, **more.pop("headers", {})}
    content = data.encode() if isinstance(data, str) else data
    return service.http.post(more.pop("path", INGEST), content=content, headers=headers, params=more)


def stored(redis: Redis, model: str = "fake") -> list[tuple[bytes, dict[str, Any]]]:
    entries: Any = redis.xrange(lines_key(model))
    return [(fields[b"line"], json.loads(fields[b"meta"])) for _, fields in entries]


def export(*bodies: str | None, resource: dict[str, str] | None = None) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    logs = request.resource_logs.add()
    for name, value in (resource or {}).items():
        pair = logs.resource.attributes.add()
        pair.key, pair.value.string_value = name, value
    scope = logs.scope_logs.add()
    for body in bodies:
        record = scope.log_records.add(time_unix_nano=1_795_563_600_000_000_000, trace_id=b"0" * 16)
        if body is not None:
            record.body.string_value = body
    return request


def message(tag: int, data: bytes) -> bytes:
    """Return a field of a message in protobuf that is a message or a string."""
    length, rest = len(data), b""
    while length > 127:
        rest, length = rest + bytes([length & 127 | 128]), length >> 7
    return bytes([tag]) + rest + bytes([length]) + data


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain", "ab\ncd\n"),
        ("text/plain; charset=utf-8", "ab\ncd"),
        ("application/x-ndjson", '{"message":"ab"}\n{"log":"cd"}\n'),
        ("application/x-ndjson", '"ab"\n\n{"MESSAGE":"cd"}'),
        ("application/json", '[{"body":"ab"},{"msg":"cd"}]'),
        ("application/json", '{"message":"ab\\ncd\\n"}'),
    ],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_lines_of_every_format_are_accepted(
    service: Service, redis: Redis, kind: str, body: str, is_compressed: bool
) -> None:
    data = gzip.compress(body.encode()) if is_compressed else body.encode()
    answer = send(service, data, kind, headers={"Content-Encoding": "gzip"} if is_compressed else {})
    assert answer.status_code == 202, answer.text
    assert answer.json() == {
        "object": "ingest",
        "model": "fake",
        "accepted": 2,
        "rejected": 0,
        "is_repeated": False,
        "errors": [],
    }
    assert [line for line, _ in stored(redis)] == [b"ab", b"cd"]


def test_time_source_and_calibration_of_a_line_are_kept(service: Service, redis: Redis) -> None:
    lines = [
        {"message": "ab", "timestamp": "2026-11-27T10:00:00Z", "host": "web-1", "app": "shop"},
        {"message": "cd", "@timestamp": 1795773600123, "host": {"name": "web-2"}},
        {"message": "ef", "time": "yesterday"},
        {"message": "gh", "host": 7, "app": ["no text"]},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    more = {"calibration_by": "app", "default_source": "somewhere", "false_alarms": 0.05}
    assert send(service, body, **more).json()["accepted"] == 4
    assert stored(redis) == [
        (b"ab", {"t": 1795773600.0, "s": "web-1", "c": "shop", "f": 0.05}),
        (b"cd", {"t": 1795773600.123, "s": "web-2", "f": 0.05}),
        (b"ef", {"s": "somewhere", "f": 0.05}),
        (b"gh", {"s": "7", "f": 0.05}),
    ]


def test_parameters_name_the_fields(service: Service, redis: Redis) -> None:
    line = {"message": "no", "event": {"original": "ab"}, "when": 5, "pod": "x", "host": "no"}
    send(service, json.dumps(line), line="event.original", time="when", source="pod")
    assert stored(redis) == [(b"ab", {"t": 5.0, "s": "x"})]


def test_the_good_half_of_a_batch_is_kept(service: Service, redis: Redis) -> None:
    body = b'{"message":"ab"}\n{"message":7}\nnot json\n{"text":"cd"}\n{"message":"ef"}\n' + b"[" * 100_000
    answer = send(service, body)
    assert answer.status_code == 202, answer.text
    result = answer.json()
    assert (result["accepted"], result["rejected"]) == (2, 4)
    found = [(error["line"], error["code"]) for error in result["errors"]]
    assert found == [(2, "line_not_a_string"), (3, "malformed_line"), (4, "no_line"), (6, "malformed_line")]
    assert [line for line, _ in stored(redis)] == [b"ab", b"ef"]
    assert service.http.get(INGEST).json()["rejected"] == 4


def test_invalid_bytes_and_characters_spoil_only_their_line(service: Service, redis: Redis) -> None:
    assert send(service, b"a\xffb\ncd", "text/plain").json()["accepted"] == 2
    assert send(service, '"\\ud800"').json()["accepted"] == 1
    assert [line for line, _ in stored(redis)] == [b"a\xffb", b"cd", "\ufffd".encode()]


def test_a_long_line_is_cut(service: Service, redis: Redis) -> None:
    send(service, b"a" * 300_000, "text/plain")
    assert len(stored(redis)[0][0]) == 200_000


def test_a_batch_that_is_sent_again_counts_once(service: Service, redis: Redis) -> None:
    key = {"Idempotency-Key": "batch 1"}
    first, second = (send(service, '"ab"\n"ab"', headers=key).json() for _ in range(2))
    assert (first["accepted"], first["is_repeated"]) == (2, False)
    assert (second["accepted"], second["is_repeated"]) == (2, True)
    assert error_of(send(service, '"cd"', headers=key), 409)["code"] == "idempotency_key_reused"
    assert len(stored(redis)) == 2


def test_equal_batches_without_a_key_count_each(service: Service, redis: Redis) -> None:
    send(service, '"ab"')
    send(service, '"ab"')
    assert len(stored(redis)) == 2


def test_equal_bodies_count_once_if_the_agent_asks_for_it(service: Service, redis: Redis) -> None:
    answers = [send(service, body, idempotency="body").json() for body in ('"ab"', '"ab"', '"cd"')]
    assert [answer["is_repeated"] for answer in answers] == [False, True, False]
    assert [line for line, _ in stored(redis)] == [b"ab", b"cd"]


def test_too_many_waiting_lines_are_refused_as_a_whole(service: Service, redis: Redis) -> None:
    assert send(service, '"ab"\n' * 999).status_code == 202
    answer = send(service, '"cd"\n' * 2)
    assert error_of(answer, 429)["code"] == "ingest_full"
    assert int(answer.headers["retry-after"]) >= 1
    assert len(stored(redis)) == 999
    assert send(service, '"cd"').status_code == 202


def test_waiting_lines_are_counted_and_dropped(service: Service, redis: Redis) -> None:
    send(service, '"ab"\n' * 3)
    status = service.http.get(INGEST).json()
    assert (status["waiting"], status["accepted"], status["scored"]) == (3, 3, 0)
    assert status["bytes"] > 0 and status["oldest_age_s"] >= 0 and status["problem"] is None
    assert status["per_second"]["accepted"] == pytest.approx(3 / 60, abs=0.01)
    dropped = service.http.delete(INGEST).json()
    assert dropped == {"object": "ingest.dropped", "model": "fake", "dropped": 3}
    status = service.http.get(INGEST).json()
    assert (status["waiting"], status["accepted"], status["dropped"], status["scored"]) == (0, 3, 3, 0)


def test_lines_of_a_deleted_model_are_kept_until_they_are_dropped(service: Service) -> None:
    send(service, '"ab"')
    assert service.http.delete("/v1/models/fake").status_code == 200
    assert error_of(send(service, '"ab"'), 404)["code"] == "model_not_found"
    status = service.http.get(INGEST).json()
    assert (status["waiting"], status["problem"]["code"]) == (1, "model_not_found")
    assert service.http.delete(INGEST).json()["dropped"] == 1
    assert error_of(service.http.get("/v1/models/never/ingest"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize("kind", [PROTOBUF, "application/json"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_otlp_records_are_accepted(service: Service, redis: Redis, kind: str, is_compressed: bool) -> None:
    request = export("ab", "cd", resource={"host.name": "web-1", "nextchar.model": "fake"})
    data = _encoded(request, kind)
    headers = {"Content-Encoding": "gzip"} if is_compressed else {}
    answer = send(service, gzip.compress(data) if is_compressed else data, kind, path=LOGS, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == kind
    assert not _decoded(answer).HasField("partial_success")
    meta = {"t": 1_795_563_600.0, "s": "web-1"}
    assert stored(redis) == [(b"ab", meta), (b"cd", meta)]


def _encoded(request: ExportLogsServiceRequest, kind: str) -> bytes:
    if kind == PROTOBUF:
        return request.SerializeToString()
    fields = json_format.MessageToDict(request)
    for record in fields["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
        record["traceId"] = "5b8efff798038103d269b633813fc60c"  # in hexadecimal, as OTLP has it
    return json.dumps(fields).encode()


def _decoded(answer: httpx.Response) -> ExportLogsServiceResponse:
    response = ExportLogsServiceResponse()
    if answer.headers["content-type"] == PROTOBUF:
        response.ParseFromString(answer.content)
    else:
        json_format.Parse(answer.content, response)
    return response


@pytest.mark.parametrize("kind", [PROTOBUF, "application/json"])
def test_the_good_half_of_an_otlp_batch_is_kept(service: Service, redis: Redis, kind: str) -> None:
    data = _encoded(export("ab", None, "cd"), kind)
    if kind != PROTOBUF:
        records = json.loads(data)
        records["resourceLogs"][0]["scopeLogs"][0]["logRecords"] += [7, {"body": {"stringValue": 7}}]
        data = json.dumps(records).encode()
    answer = send(service, data, kind, path=LOGS, model="fake")
    assert answer.status_code == 200, answer.text
    partial = _decoded(answer).partial_success
    assert partial.rejected_log_records == (1 if kind == PROTOBUF else 3)
    assert "record 2: the record has no body" in partial.error_message
    assert [line for line, _ in stored(redis)] == [b"ab", b"cd"]


def test_invalid_utf8_in_protobuf_spoils_only_its_record(service: Service, redis: Redis) -> None:
    data = export("abXcd", "ef").SerializeToString().replace(b"X", b"\xff")
    assert send(service, data, PROTOBUF, path=LOGS, headers={"X-Nextchar-Model": "fake"}).status_code == 200
    assert [line for line, _ in stored(redis)] == [b"ab\xffcd", b"ef"]


def test_a_structured_otlp_body_has_its_line_in_a_field(service: Service, redis: Redis) -> None:
    request = export(None)
    body = request.resource_logs[0].scope_logs[0].log_records[0].body.kvlist_value
    for name, value in (("message", "ab"), ("host", "web-3")):
        pair = body.values.add()
        pair.key, pair.value.string_value = name, value
    send(service, request.SerializeToString(), PROTOBUF, path=LOGS, model="fake")
    assert [(line, meta["s"]) for line, meta in stored(redis)] == [(b"ab", "web-3")]


def test_each_otlp_resource_goes_to_its_model(service: Service, redis: Redis) -> None:
    publish(service.models, name="other")
    calibrate(service, "other")
    request = export("ab", resource={"nextchar.model": "fake"})
    for model in ("other", "missing"):
        request.MergeFrom(export("cd", resource={"nextchar.model": model}))
    request.MergeFrom(export("ef", "gh"))
    answer = send(service, request.SerializeToString(), PROTOBUF, path=LOGS)
    partial = _decoded(answer).partial_success
    assert partial.rejected_log_records == 3
    assert "2 records name no model" in partial.error_message and "missing" in partial.error_message
    assert [line for line, _ in stored(redis)] == [b"ab"]
    assert [line for line, _ in stored(redis, "other")] == [b"cd"]


def test_an_otlp_request_without_a_model_is_refused_with_what_to_do(service: Service) -> None:
    data = export("ab").SerializeToString()
    answer = send(service, data, PROTOBUF, path=LOGS)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROTOBUF)
    assert b"X-Nextchar-Model" in answer.content and answer.content.startswith(b"\x12")
    error = error_of(send(service, _encoded(export("ab"), "json"), "application/json", path=LOGS), 422)
    assert error["code"] == "model_missing"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xff\xff", PROTOBUF),
        (b"\x0a\xff\xff\xff\xff\x0f", PROTOBUF),
        (b"\xff" * (16 << 20), PROTOBUF),
        (b"\x0a\x04\x12\x02\x12\x01", PROTOBUF),  # a record that ends after its scope
        (b"\x0b\x0c", PROTOBUF),  # a group
        (b"nope", "application/json"),
        (b'{"resourceLogs": 7}', "application/json"),
        (b'{"resourceLogs": [7]}', "application/json"),
        (b'{"resourceLogs": [{"resource": {"attributes": 7}}]}', "application/json"),
        (b"[" * 100_000, "application/json"),
    ],
)
def test_malformed_otlp_is_refused(service: Service, data: bytes, kind: str) -> None:
    answer = send(service, data, kind, path=LOGS, model="fake")
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    "data",
    [
        message(0x0A, message(0x12, b"\x12\0" * 1_000_001)),  # records
        b"\x10\0" * 1_000_001,  # numbers in a field that does not exist
    ],
)
def test_protobuf_of_too_many_records_is_refused_before_it_is_parsed(
    service: Service, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(otlp_logs, "_parse", None)
    headers = {"Content-Encoding": "gzip"}
    answer = send(service, gzip.compress(data), PROTOBUF, path=LOGS, model="fake", headers=headers)
    assert answer.status_code == 413
    assert b"at most 1,000,000 resources, scopes and records" in answer.content


@pytest.mark.parametrize(
    ("path", "kind"),
    [(LOGS, "application/json"), (INGEST, "application/json"), (INGEST, "application/x-ndjson")],
)
def test_json_of_too_many_lists_and_objects_is_refused_before_it_is_parsed(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    monkeypatch.setattr(ingest_lines, "json", None)
    data = gzip.compress(b"[" + b"[],{}," * 600_000 + b"0]")
    answer = send(service, data, kind, path=path, headers={"Content-Encoding": "gzip"})
    assert error_of(answer, 413)["code"] == "batch_too_large"


def test_the_largest_otlp_batches_are_not_refused() -> None:
    body = message(0x2A, message(0x0A, b"a"))
    record = message(0x12, body + b"\x4a\0\x52\0")
    resource = message(0x0A, b"\x0a\0" + message(0x12, b"\x0a\0" + record + b"\x1a\0") + b"\x1a\0")
    assert len(otlp_logs._split(memoryview(resource * ingest_lines.MAX_BATCH_LINES))) == 100_000
    attribute = message(0x32, message(0x0A, b"k") + message(0x12, message(0x0A, b"v")))
    record = message(0x12, body + attribute * 30)
    count = ingest_lines.MAX_BODY_BYTES // len(record)
    [(_, records)] = otlp_logs._split(memoryview(message(0x0A, message(0x12, record * count))))
    assert len(records) == count
    pair = {"key": "k", "value": {"stringValue": "v"}}
    line = json.dumps({"body": {"stringValue": "a"}, "attributes": [pair] * 30}, separators=(",", ":"))
    count = ingest_lines.MAX_BODY_BYTES // (len(line) + 1)
    assert len(ingest_lines.load_json(b"[" + b",".join([line.encode()] * count) + b"]")) == count


def test_a_huge_otlp_record_is_rejected_and_the_others_are_kept(service: Service, redis: Redis) -> None:
    huge = message(0x12, message(0x2A, message(0x0A, b"ab")) + b"\x32\0" * (2 << 20))
    data = export("ab").SerializeToString() + message(0x0A, message(0x12, huge))
    answer = send(service, data, PROTOBUF, path=LOGS, model="fake")
    partial = _decoded(answer).partial_success
    assert (answer.status_code, partial.rejected_log_records) == (200, 1)
    assert "record 2: a record and a resource have at most 4 MiB" in partial.error_message
    assert [line for line, _ in stored(redis)] == [b"ab"]
    resource = message(0x0A, message(0x0A, b"\x0a\0" * (2 << 20)) + message(0x0A, b"\x0a\0"))
    assert send(service, data + resource, PROTOBUF, path=LOGS, model="fake").status_code == 422


def test_attributes_of_a_resource_are_not_copied_for_each_record(monkeypatch: pytest.MonkeyPatch) -> None:
    class Attributes(dict[str, Any]):
        def __iter__(self) -> Any:
            pytest.fail("copied")

    read = otlp_logs._attributes
    monkeypatch.setattr(otlp_logs, "_attributes", lambda pairs: Attributes(read(pairs)))
    data = export("ab", "cd", resource={"host.name": "web-1"}).SerializeToString()
    [parsed] = otlp_logs.parse_otlp(data, PROTOBUF, OtlpQuery(), "fake").by_model.values()
    assert [line.meta.source for line in parsed.lines] == ["web-1"] * 2


def test_a_malformed_otlp_record_is_rejected_and_the_others_are_kept(service: Service, redis: Redis) -> None:
    malformed = message(0x0A, message(0x12, message(0x12, b"\x2a\x7f")))
    data = malformed + export("ab").SerializeToString()
    partial = _decoded(send(service, data, PROTOBUF, path=LOGS, model="fake")).partial_success
    assert partial.rejected_log_records == 1 and "record 1" in partial.error_message
    assert [line for line, _ in stored(redis)] == [b"ab"]


def test_parts_of_an_otlp_resource_are_merged(service: Service, redis: Redis) -> None:
    parts = [
        message(0x0A, part.resource_logs[0].resource.SerializeToString())
        for part in (export(resource={"host.name": "web-1"}), export(resource={"nextchar.model": "fake"}))
    ]
    scope = message(0x12, message(0x12, message(0x2A, message(0x0A, b"ab"))))
    for order in (parts[0] + scope + parts[1], scope + parts[1] + parts[0]):
        unknown = b"\x18\x01" + b"\x21" + b"8bytes.." + b"\x25" + b"four" + message(0x4A, b"x")
        assert send(service, message(0x0A, order + unknown), PROTOBUF, path=LOGS).status_code == 200
    assert [(line, meta["s"]) for line, meta in stored(redis)] == [(b"ab", "web-1")] * 2


def test_deeply_nested_otlp_values_do_no_harm(service: Service) -> None:
    request = export(None)
    value = request.resource_logs[0].scope_logs[0].log_records[0].body
    for _ in range(40):
        value = value.array_value.values.add()
    value.string_value = "ab"
    answer = send(service, request.SerializeToString(), PROTOBUF, path=LOGS, model="fake")
    assert _decoded(answer).partial_success.rejected_log_records == 1


def test_the_largest_number_that_a_line_can_have_is_accepted(service: Service) -> None:
    answer = service.http.get("/v1/models/fake/ingest/events", params={"after": 2**63 - 1})
    assert answer.json()["data"] == []
