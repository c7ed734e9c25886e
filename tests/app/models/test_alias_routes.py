import threading
from typing import Any

import pytest

from nextchar.models.saved_model import Card
from nextchar.store.aliases import Aliases
from tests.app.fakes import publish
from tests.app.service import Service, error_of

PATH = "/v1/models/fake/aliases"
CHAMPION = f"{PATH}/champion"


def put(service: Service, version: int, path: str = CHAMPION, **require: Any) -> dict[str, Any]:
    answer = service.http.put(path, json={"version": version, "require": require})
    assert answer.status_code == 200, answer.text
    moved: dict[str, Any] = answer.json()
    return moved


def calibrate(service: Service, model: str) -> None:
    lines = ["ab" * (1 + i % 9) for i in range(120)]
    answer = service.http.post(f"/v1/models/{model}/calibrate", json={"lines": lines})
    assert answer.status_code == 201, answer.text


def answered_by(service: Service, model: str = "fake@champion") -> str:
    answer = service.http.post(f"/v1/models/{model}/complete", json={"prompt": "a"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])


def publish_with(service: Service, bits: float, *, corpus: str = "corpus_0123456789ab") -> Card:
    """Publish a model whose held-out text costs so much."""
    card = publish(service.models, corpus=corpus)
    path = f"model_cards/fake/{card.version:06d}.json"
    changed = card.model_copy(update={"report": {"validation_bits_per_character": bits}})
    service.blobs.write(path, changed.model_dump_json().encode())
    return changed


def test_an_alias_answers_as_the_version_that_it_was_moved_to(service: Service) -> None:
    for _ in range(3):
        publish(service.models)
    for version in (1, 3, 2):
        moved = put(service, version)
        assert (moved["id"], moved["target"], moved["action"]) == ("champion", f"fake@{version}", "set")
        assert answered_by(service) == f"fake@{version}", "at once in the process that moved it"
    assert answered_by(service, "fake") == "fake@3"
    listed = service.http.get(PATH).json()
    assert [(one["id"], one["version"]) for one in listed["data"]] == [("champion", 2)]
    history = service.http.get(CHAMPION).json()
    assert history["version"] == 2 and [one["version"] for one in history["history"]] == [2, 3, 1]
    models = {model["id"]: model["aliases"] for model in service.http.get("/v1/models").json()["data"]}
    assert models == {"fake@3": [], "fake@2": ["champion"], "fake@1": []}
    assert service.http.get("/v1/models/fake@champion").json()["aliases"] == ["champion"]


def test_a_rollback_is_immediate_and_moving_to_the_same_version_records_nothing(service: Service) -> None:
    publish(service.models)
    publish(service.models)
    put(service, 1)
    put(service, 2)
    assert put(service, 2) == put(service, 2)
    assert service.http.post(f"{CHAMPION}/rollback").json()["target"] == "fake@1"
    assert answered_by(service) == "fake@1"
    error = error_of(service.http.post(f"{CHAMPION}/rollback"), 409)
    assert error["code"] == "alias_not_moved"
    assert len(service.http.get(CHAMPION).json()["history"]) == 3


def test_every_call_that_takes_a_model_takes_an_alias(service: Service) -> None:
    publish(service.models)
    publish(service.models)
    put(service, 1)
    calibrate(service, "fake@champion")
    http, model = service.http, "fake@champion"
    body: dict[str, Any] = {"prompt": "a"}
    assert http.post(f"/v1/models/{model}/next", json=body).json()["model"] == "fake@1"
    scored = http.post(f"/v1/models/{model}/score", json={"lines": ["ab"]}).json()
    assert scored["model"] == "fake@1"
    streamed = http.post(f"/v1/models/{model}/score", content="ab\n", headers={"Content-Type": "text/plain"})
    assert '"fake@1"' in streamed.text.splitlines()[0]
    assert http.post("/v1/completions", json={"model": model, "prompt": "a"}).json()["model"] == "fake@1"
    assert http.get(f"/v1/models/{model}/files/model.json").json()["version"] == 1
    assert http.get(f"/v1/models/{model}/alerts").status_code == 200
    assert http.get(f"/v1/models/{model}/export").headers["content-disposition"].count("fake@1")
    assert http.post("/tokenize", json={"model": model, "content": "a"}).status_code == 200
    headers = {"Content-Type": "application/x-ndjson"}
    ingested = http.post(
        f"/v1/models/{model}/ingest", content='"ab"\n', headers=headers, params={"false_alarms": "0.05"}
    )
    assert ingested.status_code == 202, ingested.text


@pytest.mark.parametrize(
    ("require", "problem"),
    [
        ({"max_bits_per_character": 2.0}, "2.5 bits per character, above 2"),
        ({"max_regression_bits": 0.4}, "more than 0.4 bits worse"),
        ({"calibration": True}, "no calibration"),
        ({"max_bits_per_character": 2.0, "calibration": True}, "above 2; it has no calibration"),
    ],
)
def test_an_alias_does_not_move_to_a_version_that_fails_a_check(
    service: Service, require: dict[str, Any], problem: str
) -> None:
    publish_with(service, 2.0)
    publish_with(service, 2.5)
    put(service, 1)
    answer = service.http.put(CHAMPION, json={"version": 2, "require": require})
    error = error_of(answer, 409)
    assert error["code"] == "alias_check_failed" and problem in error["message"]
    assert answered_by(service) == "fake@1"


def test_the_checks_that_passed_are_recorded(service: Service) -> None:
    publish_with(service, 2.0)
    publish_with(service, 2.25, corpus="corpus_ba9876543210")
    assert put(service, 1, max_regression_bits=0.0)["checks"] == [], "there is nothing to be worse than"
    calibrate(service, "fake@2")
    moved = put(service, 2, max_bits_per_character=2.3, max_regression_bits=0.3, calibration=True)
    assert [(c["name"], c["value"], c["limit"]) for c in moved["checks"]] == [
        ("max_bits_per_character", 2.25, 2.3),
        ("max_regression_bits", 0.25, 0.3),
        ("calibration", None, None),
    ]
    assert "different texts" in moved["checks"][1]["note"]


def test_a_version_that_cannot_be_loaded_gets_no_alias(service: Service) -> None:
    publish(service.models)
    card = publish(service.models)
    put(service, 1)
    service.blobs.write(f"model_files/{card.id}/model.onnx", b"something else")
    answer = service.http.put(CHAMPION, json={"version": 2})
    assert error_of(answer, 503)["code"] == "model_damaged"
    assert answered_by(service) == "fake@1"


def test_of_two_concurrent_moves_one_wins_and_the_other_gets_the_current_target(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        publish(service.models)
    put(service, 1)
    both = threading.Barrier(2)
    move = Aliases.move

    def together(*arguments: Any, **options: Any) -> Any:
        both.wait(120)
        return move(*arguments, **options)

    monkeypatch.setattr(Aliases, "move", together)
    answers: dict[int, Any] = {}

    def send(version: int) -> None:
        answers[version] = service.http.put(CHAMPION, json={"version": version})

    threads = [threading.Thread(target=send, args=(version,)) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    [won] = [version for version, answer in answers.items() if answer.status_code == 200]
    error = error_of(answers[5 - won], 409)
    assert error["code"] == "alias_moved" and f"fake@{won}" in error["message"]
    assert answered_by(service) == f"fake@{won}"


def test_a_version_with_an_alias_is_deleted_only_if_forced(service: Service) -> None:
    for _ in range(3):
        publish(service.models)
    put(service, 1)
    put(service, 2)
    for answer in (
        service.http.delete("/v1/models/fake@2"),
        service.http.delete("/v1/models/fake@champion"),
        service.http.patch("/v1/models/fake@2", json={"name": "other"}),
    ):
        error = error_of(answer, 409)
        assert error["code"] == "model_has_alias" and "champion" in error["message"]
    assert service.http.delete("/v1/models/fake@2?force=true").status_code == 200
    error = error_of(service.http.post("/v1/models/fake@champion/complete", json={"prompt": "a"}), 404)
    assert error["code"] == "alias_target_deleted" and "roll the alias back" in error["message"]
    service.http.post(f"{CHAMPION}/rollback")
    assert answered_by(service) == "fake@1"
    put(service, 3)
    service.http.delete("/v1/models/fake@1?force=true")
    error = error_of(service.http.post(f"{CHAMPION}/rollback"), 409)
    assert error["code"] == "alias_target_deleted"


def test_an_alias_never_stays_on_a_version_that_was_deleted_while_it_moved(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(service.models)
    publish(service.models)
    put(service, 1)
    move = Aliases.move

    def delete_first(self: Aliases, *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(Aliases, "move", move)
        service.models.delete("fake@2")
        return move(self, *arguments, **options)

    monkeypatch.setattr(Aliases, "move", delete_first)
    error = error_of(service.http.put(CHAMPION, json={"version": 2}), 404)
    assert error["code"] == "model_not_found"
    assert answered_by(service) == "fake@1"


def test_an_alias_that_was_deleted_can_be_rolled_back(service: Service) -> None:
    publish(service.models)
    put(service, 1)
    assert service.http.delete(CHAMPION).json()["version"] is None
    assert error_of(service.http.get("/v1/models/fake@champion"), 404)["code"] == "model_not_found"
    assert service.http.post(f"{CHAMPION}/rollback").json()["target"] == "fake@1"


def test_a_share_of_the_clients_always_gets_the_other_version(service: Service) -> None:
    for _ in range(2):
        publish(service.models)
    share = {"version": 2, "fraction": 0.3}
    assert service.http.put(CHAMPION, json={"version": 1, "share": share}).json()["share"] == share

    def answers() -> list[str]:
        bodies: list[dict[str, Any]] = [
            {"prompt": "a", "max_characters": 1, "client_id": f"person {n}"} for n in range(120)
        ]
        path = "/v1/models/fake@champion/complete"
        return [service.http.post(path, json=body).json()["model"] for body in bodies]

    first = answers()
    assert 20 < first.count("fake@2") < 52
    assert answers() == first
    assert {answered_by(service) for _ in range(20)} == {"fake@1"}, "calls without a client's id"
    service.http.put(CHAMPION, json={"version": 1, "share": {"version": 2, "fraction": 0.6}})
    more = answers()
    assert all(new == "fake@2" for old, new in zip(first, more, strict=True) if old == "fake@2")
    assert more.count("fake@2") > first.count("fake@2")
    assert error_of(service.http.delete("/v1/models/fake@2"), 409)["code"] == "model_has_alias"
    assert service.http.delete("/v1/models/fake@2?force=true").is_success
    assert set(answers()) == {"fake@1"}
    gone = service.http.put(CHAMPION, json={"version": 1, "share": {"version": 2, "fraction": 0.1}})
    assert error_of(gone, 404)["code"] == "model_not_found"


def test_a_rollback_ends_a_share(service: Service) -> None:
    for _ in range(2):
        publish(service.models)
    put(service, 1)
    service.http.put(CHAMPION, json={"version": 1, "share": {"version": 2, "fraction": 0.5}})
    back = service.http.post(f"{CHAMPION}/rollback").json()
    assert (back["version"], back["share"]) == (1, None)
