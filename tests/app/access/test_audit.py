"""Every call that changes or downloads something is on record before it is answered."""

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from redis import Redis

from nextchar.app.access.audit import is_change
from nextchar.app.http.rules import Rules
from nextchar.app.http.threads import Cancelled, Check
from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from nextchar.models.anomaly.calibration_builder import calibrate_model
from nextchar.models.errors import StorageFull
from nextchar.store.calibrations import Calibrations
from nextchar.store.local_blobs import LocalBlobs
from tests.app.fakes import publish
from tests.app.raw_http import connected
from tests.app.service import Service, error_of, served
from tests.waiting import eventually

DOCUMENTED = (Path(__file__).parents[3] / "docs" / "reference" / "audit.md").read_text()


def trail(service: Service, **filters: Any) -> list[dict[str, Any]]:
    answer = service.http.get("/v1/audit", params=filters)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


SETTING_DETAILS = {  # recorded because they say so, in the tests below
    "export_alerts", "export_model", "pack_model", "get_file", "get_file_content", "get_report", "get_text",
    "create_batch", "cancel_batch",
}  # fmt: skip


def test_the_operations_that_are_recorded_are_documented(service: Service) -> None:
    paths = service.http.get("/openapi.json").json()["paths"].items()
    calls = [(method.upper(), path, one) for path, methods in paths for method, one in methods.items()]
    rules = Rules(create_app(service.settings).routes)
    changes = {one["operationId"] for verb, path, one in calls if is_change(verb, rules.find(verb, path))}
    section = DOCUMENTED.partition("## What is recorded")[2]
    table = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert sorted(table) == sorted(changes | SETTING_DETAILS)


def test_what_is_made_renamed_downloaded_and_deleted_is_on_record(service: Service) -> None:
    corpus = service.upload()
    job = service.submit(corpus=corpus)
    service.http.post(f"/v1/jobs/{job}/pause")
    publish(service.models)
    publish(service.models)
    service.http.put("/v1/models/fake/aliases/best", json={"version": 1})
    service.http.patch("/v1/models/fake@1?force=true", json={"name": "other"})
    service.http.get("/v1/models/other/files/model.onnx")
    service.http.get("/v1/models/other/export")
    service.http.get(f"/v1/corpora/{corpus}/text")
    service.http.get(f"/v1/files/{corpus}/content")
    service.http.get("/v1/models/fake@2/report")
    service.http.get("/v1/models/fake/alerts/export")
    last = service.http.delete("/v1/models/fake")
    entries = trail(service)
    assert [(one["action"], one["about"], one["to"]) for one in reversed(entries)] == [
        ("add_corpus", f"/v1/corpora/{corpus}", None),
        ("add_corpus", f"/v1/corpora/{corpus}", None),
        ("create_job", f"/v1/jobs/{job}", None),
        ("pause_job", f"/v1/jobs/{job}/pause", None),
        ("set_alias", "/v1/models/fake/aliases/best", "/v1/models/fake@1"),
        ("rename_model", "/v1/models/fake@1", "/v1/models/other@1"),
        ("get_file", "/v1/models/other@1/files/model.onnx", None),
        ("export_model", "/v1/models/other@1/export", None),
        ("get_text", f"/v1/corpora/{corpus}/text", None),
        ("get_file_content", f"/v1/files/{corpus}/content", None),
        ("get_report", "/v1/models/fake@2/report", None),
        ("export_alerts", "/v1/models/fake/alerts/export", None),
        ("delete_model", "/v1/models/fake@2", None),  # the bare name meant the newest version
    ]
    assert entries[0]["request_id"] == last.headers["x-request-id"]
    assert entries[0]["key"] is None and entries[0]["address"] == "127.0.0.1"
    assert len(trail(service, action="add_corpus")) == 2
    assert [one["action"] for one in trail(service, about="fake@1", limit=1)] == ["rename_model"]


def test_calls_that_fail_compute_or_only_read_are_not_recorded(service: Service) -> None:
    publish(service.models)
    service.http.post("/v1/models/fake/complete", json={"prompt": "a"})
    service.http.post("/v1/models/fake/score", json={"lines": ["a"]})
    lines = service.http.post("/v1/models/fake/score", content=b"a\n", headers={"Content-Type": "text/plain"})
    assert lines.status_code == 200
    service.http.delete("/v1/models/none")
    service.http.get("/v1/models/none/export")
    service.http.get("/v1/models")
    service.http.head("/v1/models")
    assert trail(service) == []


def test_key_that_called_is_named_and_only_admins_read_the_trail(
    settings: ApiSettings, tmp_path: Path
) -> None:
    secrets = {"ann": "scopes=admin", "bob": "scopes=train,read", "eve": "scopes=admin models=x-*"}
    lines = [f"{k} sha256={hashlib.sha256(k.encode()).hexdigest()} {v}\n" for k, v in secrets.items()]
    (tmp_path / "keys").write_text("".join(lines))
    keyed = settings.model_copy(update={"api_keys_file": tmp_path / "keys"})
    with served(create_app(keyed)) as url, httpx.Client(base_url=url) as http:
        bob, ann, eve = ({"X-API-Key": name} for name in ("bob", "ann", "eve"))
        assert http.post("/v1/corpora", content=b"a text", headers=bob).status_code == 201
        assert error_of(http.get("/v1/audit", headers=bob), 403)["code"] == "scope_missing"
        assert error_of(http.get("/v1/audit", headers=eve), 403)["code"] == "model_not_permitted"
        assert error_of(http.get("/v1/audit"), 401)["code"]
        [entry] = http.get("/v1/audit", headers=ann, params={"key": "bob"}).json()["data"]
        assert (entry["key"], entry["action"]) == ("bob", "add_corpus")
        assert http.get("/v1/audit", headers=ann, params={"key": "ann"}).json()["data"] == []
        for method in ("POST", "PUT", "PATCH", "DELETE"):  # there is no call that changes it
            error_of(http.request(method, "/v1/audit", headers=ann), 405)
            error_of(http.request(method, f"/v1/audit/{entry['id']}", headers=ann), 404)


def test_without_a_record_nothing_is_downloaded_and_a_change_is_logged(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = service.upload("a secret text\n" * 20)
    publish(service.models)

    def refuse(blobs: LocalBlobs, path: str, data: bytes) -> bool:
        if path.startswith("audit/"):
            raise StorageFull("the storage is full")
        return create(blobs, path, data)

    create = LocalBlobs.create
    monkeypatch.setattr(LocalBlobs, "create", refuse)
    with caplog.at_level(logging.ERROR, logger="nextchar.audit"):
        for path in (f"/v1/corpora/{corpus}/text", "/v1/models/fake/export", "/v1/models/fake/report"):
            answer = service.http.get(path)
            assert error_of(answer, 503)["code"] == "storage_unavailable"
            assert "secret" not in answer.text
        assert service.http.delete("/v1/models/fake").status_code == 200
    assert '"action":"delete_model","about":"/v1/models/fake@1"' in caplog.text


def test_pages_of_the_trail_are_complete(service: Service) -> None:
    for number in range(5):
        service.http.post("/v1/corpora", content=f"text {number}".encode())
    first = service.http.get("/v1/audit?limit=2").json()
    rest = service.http.get(f"/v1/audit?limit=9&after={first['data'][-1]['id']}").json()
    assert first["has_more"] and not rest["has_more"]
    ids = [one["id"] for one in first["data"] + rest["data"]]
    assert len(set(ids)) == 5 and ids == sorted(ids, reverse=True)
    for cursor in ("../../jobs", ""):
        error = error_of(service.http.get("/v1/audit", params={"after": cursor}), 422)
        assert (error["code"], error["param"]) == ("unknown_cursor", "after")
    assert Redis.from_url(service.settings.redis_url).keys("*audit*") == []  # it is not lost with Redis


def test_only_a_trusted_proxy_names_the_client(settings: ApiSettings) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9"}
    for proxies, sent, address in (
        ((), forged, "127.0.0.1"),
        (("10.0.0.0/8",), forged, "127.0.0.1"),
        (("127.0.0.0/8",), {"X-Forwarded-For": "192.0.2.1, 203.0.113.9, 127.0.0.2"}, "203.0.113.9"),
    ):
        with served(create_app(settings), trusted_proxies=proxies) as url, httpx.Client(base_url=url) as http:
            http.post("/v1/corpora", content=b"a text", headers=sent)
            assert http.get("/v1/audit").json()["data"][0]["address"] == address
    for wrong in ("haproxy", "*", "10.0.0.1/8"):
        with pytest.raises(ValidationError, match="write an address or a network"):
            ApiSettings(trusted_proxies=wrong)


def test_change_is_on_record_though_the_client_leaves_while_it_is_made(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(service.models)
    checks: list[Check] = []

    def note_check(*arguments: Any, check: Check, **options: Any) -> Any:
        checks.append(check)
        return calibrate_model(*arguments, check=check, **options)

    def save_after_the_client_left(*arguments: Any, **options: Any) -> Any:
        client.close()
        eventually(lambda: is_cancelled(checks[0]), what="the service has noticed")
        return save(*arguments, **options)

    save = Calibrations.save
    monkeypatch.setattr("nextchar.app.scoring.routes.calibrate_model", note_check)
    monkeypatch.setattr(Calibrations, "save", save_after_the_client_left)
    body = json.dumps({"lines": ["a line"] * 20}).encode()
    header = b"POST /v1/models/fake/calibrate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    sent = header + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with connected(service) as client:
        client.sendall(sent)
        eventually(lambda: service.http.get("/v1/models/fake/calibrations").json()["data"])
    eventually(
        lambda: [one["action"] for one in trail(service)] == ["make_calibration"], what="it is recorded"
    )


def is_cancelled(check: Check) -> bool:
    try:
        check()
    except Cancelled:
        return True
    return False
