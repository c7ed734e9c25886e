import hashlib
import json
from typing import Any

import pytest

from nextchar.models.architectures import NAMES
from nextchar.models.config import PRESETS
from nextchar.models.saved_model import parse_card
from tests.app.fakes import CHARACTERS, publish
from tests.app.service import Service, error_of


def test_models_are_listed_and_paged_without_their_long_parts(service: Service) -> None:
    nothing = {"object": "list", "data": [], "has_more": False, "damaged": []}
    assert service.http.get("/v1/models").json() == nothing
    for name in ("a", "b", "a"):
        publish(service.models, name=name)
    page = service.http.get("/v1/models?limit=2").json()
    assert [m["id"] for m in page["data"]] == ["b@1", "a@2"] and page["has_more"]
    assert "report" not in page["data"][0] and page["data"][0]["object"] == "model"
    rest = service.http.get("/v1/models?after=a@2").json()
    assert [m["id"] for m in rest["data"]] == ["a@1"] and not rest["has_more"]


def test_bare_name_means_the_newest_version(service: Service) -> None:
    publish(service.models)
    publish(service.models)
    assert service.http.get("/v1/models/fake").json()["id"] == "fake@2"
    model = service.http.get("/v1/models/fake@1").json()
    assert (model["id"], model["version"], model["characters"]) == ("fake@1", 1, CHARACTERS)
    assert model["report"] == {"validation_bits_per_character": 2.0}
    assert set(model["files"]) == {"model.onnx", "model.keras"}


def test_files_can_be_downloaded_with_their_hash_as_etag(service: Service) -> None:
    card = publish(service.models)
    answer = service.http.get("/v1/models/fake/files/model.onnx")
    assert answer.content == b"onnx of fake"
    assert answer.headers["etag"] == f'"{card.files["model.onnx"].sha256}"'
    assert answer.headers["content-disposition"] == 'attachment; filename="model.onnx"'
    etag = answer.headers["etag"]
    again = service.http.get("/v1/models/fake/files/model.onnx", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    saved = service.http.get("/v1/models/fake/files/model.json")
    assert saved.headers["content-type"] == "application/json"
    assert saved.headers["etag"] == f'"{hashlib.sha256(saved.content).hexdigest()}"'
    assert parse_card(saved.content, where="answer") == card


def test_renamed_model_answers_by_its_new_name_only(service: Service) -> None:
    publish(service.models)
    assert service.http.post("/v1/models/fake/complete", json={"prompt": ""}).status_code == 200
    renamed = service.http.patch("/v1/models/fake", json={"name": "real"}).json()
    assert (renamed["id"], renamed["name"], renamed["version"]) == ("real@1", "real", 1)
    assert service.http.post("/v1/models/real/complete", json={"prompt": ""}).status_code == 200
    assert service.http.post("/v1/models/fake/complete", json={"prompt": ""}).status_code == 404
    assert (
        error_of(service.http.patch("/v1/models/fake", json={"name": "x"}), 404)["code"] == "model_not_found"
    )
    assert error_of(service.http.patch("/v1/models/real", json={"name": "a b"}), 422)["param"] == "name"
    assert (
        error_of(service.http.patch("/v1/models/real", json={"name": "job_1"}), 422)["code"] == "invalid_name"
    )


def test_deleted_version_is_gone_and_its_number_is_not_given_again(service: Service) -> None:
    publish(service.models)
    publish(service.models)
    expected = {"id": "fake@2", "object": "model", "deleted": True}
    assert service.http.delete("/v1/models/fake@2").json() == expected
    assert error_of(service.http.get("/v1/models/fake@2"), 404)["code"] == "model_not_found"
    assert service.http.get("/v1/models/fake").json()["id"] == "fake@1"
    assert publish(service.models).reference == "fake@3"


@pytest.mark.parametrize("needed_as", ["start_from", "teacher"])
def test_model_that_a_job_needs_is_neither_deleted_nor_renamed(service: Service, needed_as: str) -> None:
    publish(service.models)
    corpus = service.upload()
    fields: dict[str, object] = {"start_from": "fake"}
    if needed_as == "teacher":
        fields = {"mix": {"corpus": corpus, "teacher": "fake", "fraction": 0.5}}
    job = service.submit(**fields)
    publish(service.models)
    calls: list[dict[str, Any]] = [{"method": "DELETE"}, {"method": "PATCH", "json": {"name": "other"}}]
    for call in calls:
        error = error_of(service.http.request(url="/v1/models/fake@1", **call), 409)
        assert error["code"] == "model_in_use" and job in error["message"]
    assert service.http.patch("/v1/models/fake@1", json={"name": "fake"}).status_code == 200
    assert service.http.delete("/v1/models/fake").json()["id"] == "fake@2", "no job needs this version"
    service.blobs.write(f"checkpoints/{job}/0000000001.npz", b"")
    renamed = service.http.patch("/v1/models/fake", json={"name": "other"})
    if needed_as == "start_from":
        assert renamed.status_code == 200, "the weights are in the checkpoint"
        return
    assert error_of(renamed, 409)["code"] == "model_in_use"
    service.http.post(f"/v1/jobs/{job}/cancel")
    assert service.http.delete("/v1/models/fake").status_code == 200


def test_model_that_a_job_needs_is_deleted_by_force(service: Service) -> None:
    publish(service.models)
    service.submit(start_from="fake")
    assert service.http.delete("/v1/models/fake?force=true").status_code == 200


def test_damaged_models_are_503_and_can_be_deleted(service: Service) -> None:
    card = publish(service.models, name="file")
    service.blobs.write(f"model_files/{card.id}/model.onnx", b"something else")
    answer = service.http.get("/v1/models/file/files/model.onnx")
    assert error_of(answer, 503)["code"] == "model_damaged"

    publish(service.models, name="card")
    service.blobs.write("model_cards/card/000001.json", b"{")
    assert error_of(service.http.get("/v1/models/card"), 503)["code"] == "model_damaged"

    newer = publish(service.models, name="newer").model_dump(mode="json") | {"format_version": 99}
    service.blobs.write("model_cards/newer/000001.json", json.dumps(newer).encode())
    answer = service.http.post("/v1/models/newer/next", json={"prompt": ""})
    assert error_of(answer, 503)["code"] == "model_format_unknown"

    listed = service.http.get("/v1/models").json()
    assert [m["id"] for m in listed["data"]] == ["file@1"]
    assert [(m["id"], m["code"]) for m in listed["damaged"]] == [
        ("card@1", "model_damaged"),
        ("newer@1", "model_format_unknown"),
    ]
    assert 'nextchar_damaged_records{kind="model"} 2.0' in service.http.get("/metrics").text
    assert service.http.delete("/v1/models/card").status_code == 200
    assert publish(service.models, name="newer").reference == "newer@2"
    assert service.http.patch("/v1/models/file", json={"name": "newer"}).json()["id"] == "newer@3"
    assert error_of(service.http.patch("/v1/models/newer@1", json={"name": "x"}), 503)
    assert [m["id"] for m in service.http.get("/v1/models").json()["damaged"]] == ["newer@1"]


def test_all_architectures_are_listed_with_what_they_start_from(service: Service) -> None:
    answer = service.http.get("/v1/architectures")
    assert answer.status_code == 200
    listed = {one["id"]: one for one in answer.json()["data"]}
    assert tuple(listed) == NAMES
    assert listed["nth_char"]["notes_train_nats"] == 1.8
    assert listed["nth_char"]["network_options"] == ["units", "embedding", "context"]
    assert [preset["name"] for preset in listed["stateful_lstm"]["presets"]] == list(PRESETS)
    assert listed["three_char"]["presets"] == []
