"""Bodies and headers as Vector and Fluent Bit send them, by the configuration in the documentation."""

import gzip
import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.logs.ingest.test_routes import calibrate, stored
from tests.app.service import Service

_PAGE = (Path(__file__).parents[4] / "docs" / "how-to" / "ingest-logs.md").read_text("utf-8")
_TIME = 1_795_785_600.123456  # 2026-11-27T13:20:00.123456Z


@pytest.fixture
def settings(settings: ApiSettings) -> ApiSettings:
    """Settings of a process that leaves the scoring to others, so that the lines stay in Redis."""
    return settings.model_copy(update={"ingest_scoring": False, "max_ingest_lines": 200})


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)
    calibrate(service, "fake")


@pytest.fixture
def redis(service: Service) -> Redis:
    return Redis.from_url(service.settings.redis_url)


def vector_options() -> dict[str, Any]:
    """Return the options of the sink in the documentation."""
    [block] = re.findall(r"```toml\n(.*?)```", _PAGE, re.DOTALL)
    options: dict[str, Any] = tomllib.loads(block)["sinks"]["nextchar"]
    return options


def fluent_bit_options() -> dict[str, str]:
    """Return the options of the output in the documentation."""
    [block] = re.findall(r"```ini\n\[OUTPUT\]\n(.*?)```", _PAGE, re.DOTALL)
    return dict(line.split(maxsplit=1) for line in block.splitlines())


def post(service: Service, uri: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    address = urlsplit(uri)
    path = address.path.replace("/models/sshd/", "/models/fake/")
    return service.http.post(f"{path}?{address.query}", content=gzip.compress(body), headers=headers)


def vector_body(*messages: str) -> bytes:
    """Events of Vector's file source in the codec json; newline_delimited has no newline at the end."""
    events = [
        {
            "file": "/var/log/auth.log",
            "host": "web-1",
            "message": message,
            "source_type": "file",
            "timestamp": "2026-11-27T13:20:00.123456789Z",
        }
        for message in messages
    ]
    return "\n".join(json.dumps(event, separators=(",", ":")) for event in events).encode()


def fluent_bit_body(*messages: str) -> bytes:
    """Records of Fluent Bit's tail input as json_lines, each with the time as `date`."""
    records = [{"date": _TIME, "log": message, "hostname": "web-1"} for message in messages]
    return "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records).encode()


def test_vectors_requests_are_accepted(service: Service, redis: Redis) -> None:
    options = vector_options()
    assert (options["type"], options["compression"]) == ("http", "gzip")
    assert (options["encoding"]["codec"], options["framing"]["method"]) == ("json", "newline_delimited")
    assert options["auth"] == {"strategy": "bearer", "token": "${NEXTCHAR_API_KEY}"}
    assert options["acknowledgements"]["enabled"] and options["batch"]["max_events"] <= 100_000
    assert options["buffer"] == {"type": "disk", "max_size": 1 << 30}
    headers = {
        "Content-Type": "application/x-ndjson",
        "Content-Encoding": "gzip",
        "Authorization": "Bearer key",
        "User-Agent": "Vector/0.50.0 (x86_64-unknown-linux-gnu)",
        "Accept-Encoding": "identity",
    }
    body = vector_body("abab", 'ab → "quoted"')
    for _ in range(2):  # it sends again what was not acknowledged in time
        answer = post(service, options["uri"], body, headers)
        assert answer.status_code == 202, answer.text
    assert answer.json()["is_repeated"] and answer.json()["rejected"] == 0
    lines = stored(redis)
    assert [line.decode() for line, _ in lines] == ["abab", 'ab → "quoted"']
    assert {meta["s"] for _, meta in lines} == {"web-1"}
    assert [meta["t"] for _, meta in lines] == pytest.approx([_TIME] * 2, abs=1e-3)


def test_vectors_text_codec_sends_the_messages_alone(service: Service, redis: Redis) -> None:
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip", "Authorization": "Bearer key"}
    answer = post(service, vector_options()["uri"], b"abab\nab ab\n", headers)
    assert answer.status_code == 202, answer.text
    assert [line for line, _ in stored(redis)] == [b"abab", b"ab ab"]


def test_fluent_bits_requests_are_accepted(service: Service, redis: Redis) -> None:
    options = fluent_bit_options()
    known = {"name", "match", "host", "port", "tls", "uri", "format", "compress", "header", "retry_limit"}
    assert options.keys() == known
    assert (options["name"], options["format"], options["compress"]) == ("http", "json_lines", "gzip")
    assert (options["tls"], options["retry_limit"]) == ("on", "no_limits")
    name, value = options["header"].split(maxsplit=1)  # as Fluent Bit does
    headers = {
        "Content-Type": "application/x-ndjson",
        "Content-Encoding": "gzip",
        "User-Agent": "Fluent-Bit",
        name: value.replace("${NEXTCHAR_API_KEY}", "key"),
    }
    assert headers["Authorization"] == "Bearer key"
    body = fluent_bit_body("abab", "ab →")
    for _ in range(2):
        answer = post(service, options["uri"], body, headers)
        assert 200 <= answer.status_code <= 205, answer.text  # what it takes for success
    assert answer.json()["is_repeated"]
    lines = stored(redis)
    assert [line.decode() for line, _ in lines] == ["abab", "ab →"]
    assert {(meta["s"], round(meta["t"], 3)) for _, meta in lines} == {("web-1", round(_TIME, 3))}


@pytest.mark.parametrize("body", [vector_body("abab"), fluent_bit_body("abab")])
def test_a_batch_that_does_not_fit_now_is_answered_so_that_agents_repeat_it(
    service: Service, redis: Redis, body: bytes
) -> None:
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    full = b"\n".join([b'"ab"'] * 100)
    for _ in range(2):
        assert post(service, "/v1/models/sshd/ingest", full, headers).status_code == 202
    refused = post(service, vector_options()["uri"], body, headers)
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) > 0
    redis.flushdb()
    assert post(service, vector_options()["uri"], body, headers).status_code == 202
