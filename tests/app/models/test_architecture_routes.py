import pytest

from nextchar.models.architectures import NAMES, architecture
from nextchar.models.config import PRESETS
from tests.app.service import Service


def test_all_architectures_are_listed_with_what_they_start_from(service: Service) -> None:
    answer = service.http.get("/v1/architectures")
    assert answer.status_code == 200
    listed = {one["id"]: one for one in answer.json()["data"]}
    assert tuple(listed) == NAMES
    assert listed["nth_char"]["notes_train_nats"] == 1.8
    assert listed["nth_char"]["network_options"] == ["units", "embedding", "context"]
    assert [preset["name"] for preset in listed["stateful_lstm"]["presets"]] == list(PRESETS)
    assert listed["three_char"]["presets"] == []


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_job_that_names_an_architecture_alone_gets_what_is_listed(service: Service, name: str) -> None:
    body = {"corpus": service.upload(), "name": "fox", "architecture": name}
    job = service.http.post("/v1/jobs", json=body).json()
    listed = service.http.get("/v1/architectures").json()["data"][NAMES.index(name)]
    assert job["network"] == listed["network"]
    assert listed["training"].items() <= job["training"].items()


def test_changes_are_made_to_the_architectures_own_recipe(service: Service) -> None:
    changes = {"network": {"context": 5, "units": 32}, "training": {"learning_rate": 0.01}}
    body = {"corpus": service.upload(), "name": "fox", "architecture": "sequence_rnn"} | changes
    job = service.http.post("/v1/jobs", json=body).json()
    known = architecture("sequence_rnn")
    assert job["network"] == known.network.model_dump() | changes["network"]
    assert (job["training"]["learning_rate"], job["training"]["window"]) == (0.01, 5)
    assert job["training"]["rows"] == known.training.rows
