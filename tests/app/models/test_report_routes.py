"""The report of a model, in each of its forms."""

import json

import pytest

from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.saved_model import Card, describe_files
from nextchar.store.ids import new_id
from tests.app.fakes import CHARACTERS, publish
from tests.app.service import Service, error_of

FILES = {
    "report.json": json.dumps({"object": "report", "name": "told", "samples": []}).encode(),
    "report.html": b"<!doctype html><title>told</title>",
    "report.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


def _publish(service: Service) -> Card:
    card = Card(
        id=new_id("model"),
        name="told",
        created_at=1795563600,
        network=NetworkConfig(units=4, embedding=2),
        training=TrainingConfig(),
        characters=CHARACTERS,
        parameters=123,
        report={"validation_bits_per_character": 2.0},
        files=describe_files(FILES),
    )
    return service.models.publish(card, FILES)


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "*/*", "json"),
        ("", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
        ("", "image/avif,image/webp,image/svg+xml,image/*,*/*;q=0.8", "svg"),
        ("", "text/csv", "json"),
        ("?format=html", "application/json", "html"),
        ("?format=svg", "*/*", "svg"),
        ("?format=json", "text/html", "json"),
    ],
)
def test_report_comes_in_the_form_asked_for(service: Service, query: str, accept: str, kind: str) -> None:
    _publish(service)
    answer = service.http.get(f"/v1/models/told/report{query}", headers={"Accept": accept})
    types = {"json": "application/json", "html": "text/html; charset=utf-8", "svg": "image/svg+xml"}
    assert (answer.status_code, answer.headers["content-type"]) == (200, types[kind])
    if kind == "json":
        told = json.loads(FILES["report.json"])
        assert answer.json() == {**told, "model": "told@1"}
    else:
        assert answer.content == FILES[f"report.{kind}"]
    assert answer.headers["vary"] == "Accept"


def test_report_page_is_sandboxed(service: Service) -> None:
    _publish(service)
    headers = service.http.get("/v1/models/told/report?format=html").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy and "script-src" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_report_is_not_sent_again_when_it_has_not_changed(service: Service) -> None:
    _publish(service)
    etag = service.http.get("/v1/models/told/report?format=svg").headers["etag"]
    again = service.http.get("/v1/models/told/report?format=svg", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    other = service.http.get("/v1/models/told/report?format=html", headers={"If-None-Match": etag})
    assert other.status_code == 200


def test_model_without_a_report_returns_its_cards_report(service: Service) -> None:
    publish(service.models)
    told = service.http.get("/v1/models/fake/report").json()
    assert (told["model"], told["validation_bits_per_character"]) == ("fake@1", 2.0)
    assert "characters" not in told  # in a report it counts them; in a card it is the alphabet


def test_a_damaged_report_is_named(service: Service) -> None:
    card = _publish(service)
    service.blobs.write(f"model_files/{card.id}/report.html", b"other")
    assert error_of(service.http.get("/v1/models/told/report?format=html"), 503)["code"] == "model_damaged"
