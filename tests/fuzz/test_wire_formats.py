"""What the OpenAPI description does not describe: bodies that are streams, and answers that are resumed."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from nextchar.app.rooms import ApiSettings
from nextchar.store.jobs import JobStatus
from tests.app.fakes import publish
from tests.app.service import Service, read_stream, serving

fuzzed = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)

_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=6,
)
_lines = st.lists(
    st.binary(max_size=40)
    | _values.map(json.dumps).map(str.encode)
    | st.sampled_from(
        [b"", b"\r", b"\x00", b"\xff\xfe", b"[" * 3000, b'{"line": "ab", "line": 3}', b"ab" * 4000]
    ),
    max_size=12,
)
_JSON_LINES = "application/x-ndjson"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("service")
    with serving(
        ApiSettings(
            data_dir=folder, redis_url=redis_url, port=0, max_corpus_bytes=100_000, ingest_scoring=False
        )
    ) as running:
        publish(running.models)
        made = running.http.post(
            "/v1/models/fake/calibrate", json={"lines": ["ab" * (1 + i % 9) for i in range(120)]}
        )
        assert made.status_code == 201, made.text
        yield running


def check(answer: httpx.Response, *expected: int) -> None:
    """Check that an answer has one of the expected statuses, and that an error has its shape."""
    assert answer.status_code in expected, (answer.status_code, answer.text[:500])
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"], answer.text


@fuzzed
@given(
    lines=_lines,
    ends=st.booleans(),
    kind=st.sampled_from(["text/plain", _JSON_LINES]),
    packed=st.sampled_from(["no", "yes", "cut", "twice", "false"]),
)
def test_streams_of_lines_have_an_answer_for_each_line(
    service: Service, lines: list[bytes], ends: bool, kind: str, packed: str
) -> None:
    body = b"\n".join(lines) + (b"\n" if ends else b"")
    content, headers = _packed(body, packed)
    answer = service.http.post(
        "/v1/models/fake/score", content=content, headers=headers | {"Content-Type": kind}
    )
    check(answer, 200)
    records = [json.loads(line) for line in answer.text.splitlines()]
    assert records[-1]["object"] == "score.end"


@fuzzed
@given(
    body=st.binary(max_size=300), packed=st.sampled_from(["no", "yes", "cut", "false"]), bytes_=st.booleans()
)
def test_uploads_are_texts_or_named_errors(service: Service, body: bytes, packed: str, bytes_: bool) -> None:
    content, headers = _packed(body, packed)
    answer = service.http.post(
        "/v1/corpora", content=content, headers=headers, params={"encoding": "bytes"} if bytes_ else {}
    )
    check(answer, 200, 201, 422)
    if answer.is_success:
        text = service.http.get(f"/v1/corpora/{answer.json()['id']}/text")
        assert text.content == body
    assert service.spooled == []


@fuzzed
@given(
    boundary=st.sampled_from(["x", "--", "a" * 70, '"', ""]),
    parts=st.lists(st.binary(max_size=60), max_size=3),
    names=st.lists(st.sampled_from(["file", "purpose", "other", 'a"b', "\u00e9"]), min_size=3, max_size=3),
    closed=st.booleans(),
)
def test_forms_are_files_or_named_errors(
    service: Service, boundary: str, parts: list[bytes], names: list[str], closed: bool
) -> None:
    body = b""
    for name, part in zip(names, parts, strict=False):
        body += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()
        )
        body += part + b"\r\n"
    body += f"--{boundary}--\r\n".encode() if closed else b""
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    for path in ("/v1/files", "/v1/corpora"):
        check(service.http.post(path, content=body, headers=headers), 200, 201, 400, 415, 422)
    assert service.spooled == []


@fuzzed
@given(lines=_lines, packed=st.sampled_from(["no", "yes", "cut", "false"]), kind=st.sampled_from([
    _JSON_LINES, "application/json", "text/plain", "application/x-www-form-urlencoded"
]))  # fmt: skip
def test_batches_of_agents_are_accepted_or_refused_whole(
    service: Service, lines: list[bytes], packed: str, kind: str
) -> None:
    content, headers = _packed(b"\n".join(lines), packed)
    answer = service.http.post(
        "/v1/models/fake/ingest", content=content, headers=headers | {"Content-Type": kind}
    )
    check(answer, 202, 400, 415, 422)


@fuzzed
@given(body=st.binary(max_size=200), bodies=st.lists(st.text(max_size=30), max_size=4), damage=st.booleans())
def test_otlp_requests_are_accepted_or_named_as_damaged(
    service: Service, body: bytes, bodies: list[str], damage: bool
) -> None:
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for text in bodies:
        scope.log_records.add().body.string_value = text
    content = body if damage else request.SerializeToString()
    answer = service.http.post(
        "/v1/logs",
        params={"model": "fake"},
        content=content,
        headers={"Content-Type": "application/x-protobuf"},
    )
    assert answer.status_code in ((200, 400, 422) if damage else (200, 422)), answer.text


@fuzzed
@given(last=st.integers(-3, 12).map(str) | st.text("0123456789abc-+.", min_size=1, max_size=25))
def test_events_are_resumed_behind_the_last_one_or_the_id_is_refused(service: Service, last: str) -> None:
    job = _ended_job(service)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
    answer = service.http.get(f"/v1/jobs/{job}/events", headers=headers)
    check(answer, 200, 422)
    if answer.status_code == 200:
        events = list(read_stream(iter(answer.text.split("\n"))))
        numbers = [int(number) for number, _, _ in events[:-1] if number is not None]
        assert numbers == list(range(int(last) + 1, 6)) and events[-1][1] == "done"


_jobs: dict[int, str] = {}


def _ended_job(service: Service) -> str:
    """Return a job with the events 1 to 5 that has ended."""
    if id(service) not in _jobs:
        job_id = service.submit()
        service.event_log.write(
            job_id,
            [
                {"id": n, "at": 1.0 * n, "type": "message", "data": {"text": f"event {n}"}}
                for n in range(1, 6)
            ],
        )
        service.jobs.move(service.jobs.get(job_id), JobStatus.CANCELLED)
        _jobs[id(service)] = job_id
    return _jobs[id(service)]


def _packed(body: bytes, how: str) -> tuple[bytes, dict[str, str]]:
    """Return a body and its headers: plain, as gzip, cut off, as two gzip members, or no gzip at all."""
    if how == "no":
        return body, {}
    packed = gzip.compress(body)
    content = {"yes": packed, "cut": packed[:-5], "twice": packed + gzip.compress(body), "false": body + b"x"}
    return content[how], {"Content-Encoding": "gzip"}
