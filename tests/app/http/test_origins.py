"""Which web pages may reach the service, and by which names of it."""

import hashlib
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from nextchar.app.http.middleware import HostCheck
from nextchar.app.http.rules import MAX_SMALL_JSON_BYTES
from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.raw_http import connected, read_answer
from tests.app.service import Service, error_of, served

PAGE = "https://shop.example"
KEY = {"Authorization": "Bearer a key for the website"}


def with_keys(settings: ApiSettings, folder: Path, **changes: Any) -> ApiSettings:
    digest = hashlib.sha256(b"a key for the website").hexdigest()
    (folder / "keys.txt").write_text(f"website sha256={digest} scopes=admin\n")
    return settings.model_copy(update={"api_keys_file": folder / "keys.txt", **changes})


# DNS rebinding


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000", "192.168.1.5"],
)
def test_names_that_cannot_be_rebound_are_answered(service: Service, host: str) -> None:
    assert service.http.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "a:b"],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/corpora"), ("GET", "/"), ("POST", "/v1/corpora")])
def test_other_names_are_misdirected(service: Service, host: str, method: str, path: str) -> None:
    error = error_of(service.http.request(method, path, headers={"Host": host}), 421)
    assert error["code"] == "host_not_allowed" and "NEXTCHAR_ALLOWED_HOSTS" in error["message"]


def test_this_machines_name_and_the_configured_ones_are_allowed() -> None:
    check = HostCheck(lambda *_: None, hosts=["Nextchar.example", "*.corp.example", ""])  # type: ignore[arg-type,return-value]
    for host in (socket.gethostname(), "nextchar.example:80", "a.corp.example", "a.b.corp.example:8000"):
        assert check.allows(host), host
    for host in ("corp.example", "evilcorp.example", "nextchar.example.evil.example", ":80", ""):
        assert not check.allows(host), host


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /healthz HTTP/1.1\r\n\r\n", 421),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 421),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),  # which has no such header
    ],
)
def test_host_is_named_once(service: Service, request_text: str, status: int) -> None:
    with connected(service, request_text.encode()) as client:
        assert read_answer(client).status_code == status


def test_services_with_keys_have_any_name_unless_names_are_set(settings: ApiSettings, tmp_path: Path) -> None:
    for hosts, status in (("", 200), ("nextchar.example", 421), ("*", 200), ("evil.example", 200)):
        with (
            served(create_app(with_keys(settings, tmp_path, allowed_hosts=hosts))) as url,
            httpx.Client(base_url=url, headers={"Host": "evil.example"} | KEY) as http,
        ):
            assert http.get("/v1/models").status_code == status, hosts


@pytest.mark.parametrize("hosts", ["https://example.org", "example.org:80", "*.", "a b", "*example.org"])
def test_what_is_no_host_name_is_refused(hosts: str) -> None:
    with pytest.raises(ValidationError, match=r"is not a host name; write example\.org"):
        ApiSettings(allowed_hosts=hosts)


# Writes from other sites

FROM_ANOTHER_PAGE = [
    {"Origin": PAGE},
    {"Origin": "null"},
    {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FROM_ANOTHER_PAGE)
def test_page_of_another_site_changes_nothing(service: Service, headers: dict[str, str]) -> None:
    publish(service.models)
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/corpora", {"content": b"a text", "headers": {"Content-Type": "text/plain"}}),
        ("POST", "/v1/files", {"files": {"file": b"a text"}, "data": {"purpose": "fine-tune"}}),
        ("POST", "/v1/models/fake/complete", {"json": {"prompt": "a"}}),
        ("DELETE", "/v1/models/fake", {}),
        ("PATCH", "/v1/models/fake", {"json": {}}),
    ]
    for method, path, options in calls:
        sent = options.pop("headers", {}) | headers
        error = error_of(service.http.request(method, path, headers=sent, **options), 403)
        assert error["code"] == "origin_not_allowed" and error["type"] == "permission_error"
        assert "NEXTCHAR_ALLOWED_ORIGINS" in error["message"]
        assert headers.get("Origin", "another site") in error["message"]
    assert service.corpora.all() == [] and len(service.http.get("/v1/models").json()["data"]) == 1


def test_preflight_requests_are_answered_with_the_same_error(service: Service) -> None:
    ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    error = error_of(service.http.options("/v1/models/fake/complete", headers=ask), 403)
    assert error["code"] == "origin_not_allowed"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:8000", "Host": "localhost:8000"},
        {"Origin": "https://127.0.0.1", "Host": "127.0.0.1"},  # a proxy has undone TLS
        {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "X-API-Key": "k"},
        {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"} | KEY,
    ],
)
def test_own_pages_programs_and_calls_with_keys_are_allowed(
    service: Service, headers: dict[str, str]
) -> None:
    answer = service.http.post("/v1/corpora", content=b"a text", headers=headers)
    assert answer.status_code == 201, answer.text


def test_credentials_that_browsers_add_by_themselves_are_no_key(service: Service) -> None:
    headers = {"Origin": PAGE, "Authorization": "Basic dXNlcjpzZWNyZXQ="}
    error_of(service.http.post("/v1/corpora", content=b"a text", headers=headers), 403)


@pytest.mark.parametrize("headers", FROM_ANOTHER_PAGE)
def test_pages_of_other_sites_may_send_reads(service: Service, headers: dict[str, str]) -> None:
    answer = service.http.get("/v1/corpora", headers=headers)
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers


def test_allowed_origins_may_write(settings: ApiSettings) -> None:
    two = "https://two.example"
    for origins, other in ((f"{PAGE}, {two}", 403), ("*", 201)):
        allowed = settings.model_copy(update={"allowed_origins": origins})
        with served(create_app(allowed)) as url, httpx.Client(base_url=url) as http:
            for origin, status in (
                (PAGE, 201),
                ("https://two.example", 201),
                ("https://evil.example", other),
            ):
                headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
                answer = http.post("/v1/corpora", content=origins + origin, headers=headers)
                assert answer.status_code == status, (origins, origin)


def test_refused_requests_have_a_request_id_and_are_counted(settings: ApiSettings, tmp_path: Path) -> None:
    guarded = with_keys(settings, tmp_path, allowed_hosts="api.example", allowed_origins=PAGE)
    refusals = {
        421: {"Host": "evil.example"},
        403: {"Origin": "https://evil.example"},
        401: {"Origin": PAGE},
        413: KEY,
    }
    with served(create_app(guarded)) as url, httpx.Client(base_url=url) as http:
        for status, headers in refusals.items():
            answer = http.post("/v1/jobs", headers=headers, content=b" " * (MAX_SMALL_JSON_BYTES + 1))
            error_of(answer, status)
            assert answer.headers["x-request-id"]
            assert ("access-control-allow-origin" in answer.headers) == (headers.get("Origin") == PAGE)
        counted = http.get("/metrics", headers=KEY).text
    for status in refusals:
        line = f'nextchar_http_requests_total{{method="POST",route="unmatched",status="{status}"}} 1.0'
        assert line in counted.splitlines()


# What browsers send by themselves, and what they make of answers

FORM_TYPES = (
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain",
    "text/plain; application/json",
    None,
)
"""What a form, or a fetch without a preflight request, can send; None: a blob without a type."""

PATH_VALUES = {"model": "fake", "alert": "a", "corpus": "c", "job": "j", "alias": "a"}


def test_calls_that_take_json_take_no_content_type_of_a_form(service: Service) -> None:
    publish(service.models)
    accepted, asked = {}, 0
    for path, operations in service.http.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            declared = operation.get("requestBody", {}).get("content", {})
            if "application/json" not in declared:
                continue
            for content_type in FORM_TYPES:
                if (content_type or "").partition(";")[0] in declared or (
                    "/ingest" in path  # log agents send JSON under any type
                ):
                    continue
                headers = {"Content-Type": content_type} if content_type else {}
                answer = service.http.request(
                    method, path.format(**PATH_VALUES), content=b'{"prompt": "a"}', headers=headers
                )
                asked += 1
                if answer.status_code != 415:
                    accepted[method, path, content_type] = answer.status_code
    assert accepted == {} and asked > 100


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/fake/report", 200),
        ("GET", "/v1/models/fake/export", 200),
        ("GET", "/v1/models/fake/files/model.onnx", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/console/sample.txt", 200),
        ("GET", "/nowhere", 404),
        ("POST", "/v1/jobs", 415),
        ("POST", "/v1/models/fake/complete", 415),
        ("GET", "/", 200),
        ("GET", "/docs", 200),
        ("GET", "/clients/js/nextchar.js", 200),
    ],
)
def test_every_answer_tells_browsers_to_run_embed_and_guess_nothing(
    service: Service, method: str, path: str, status: int
) -> None:
    publish(service.models)
    answer = service.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    is_page = path in ("/", "/docs")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")
    assert ("frame-ancestors 'none'" in policy) or path.endswith("/report")
    assert is_page or "default-src 'none'" in policy
    for_all = path.startswith("/clients/js")
    assert answer.headers["cross-origin-resource-policy"] == ("cross-origin" if for_all else "same-origin")
    assert len(answer.headers.get_list("content-security-policy")) == 1
    assert ("cross-origin-opener-policy" in answer.headers) == is_page
