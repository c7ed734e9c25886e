"""Rolling calibration of ingested lines: what is learned of them, by whom, and how it can be seen."""

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest import recalibration as module
from nextchar.app.logs.ingest.recalibration import Recalibration, RollingLines
from nextchar.app.logs.ingest.records import IngestSettings
from nextchar.models.anomaly.calibration_builder import calibrate as calibrate_lines
from nextchar.models.anomaly.line_scores import AlertReference, ObservedScore, censored
from nextchar.models.saved_model import SavedModel
from nextchar.store.calibrations import Calibrations
from nextchar.store.open_blobs import open_blobs
from tests.app.fakes import publish
from tests.app.logs.ingest.test_line_scoring import JSON_LINES, calibrate, send, until_scored
from tests.app.service import Service, until
from tests.models.anomaly.surprisals import random_lines
from tests.models.runtime.networks import saved_model

CALIBRATIONS = "/v1/models/fake/calibrations"


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REBUILD_LINES", 100)
    monkeypatch.setattr(module, "REBUILD_S", 0.0)


@pytest.fixture
def model(service: Service) -> None:
    publish(service.models)
    calibrate(service)


def rolling(service: Service, name: str = "rolling") -> dict[str, Any] | None:
    answer = service.http.get(f"{CALIBRATIONS}/{name}")
    found: dict[str, Any] | None = answer.json()["rolling"] if answer.status_code == 200 else None
    return found


def normal_lines(count: int = 110) -> list[str | dict[str, Any]]:
    return ["ab" * (1 + i % 9) for i in range(count)]


@pytest.mark.usefixtures("model")
def test_a_rebuild_is_audited_and_counted(service: Service) -> None:
    send(service, *normal_lines(), "→→", recalibrate="rolling")
    until(lambda: rolling(service))
    found = rolling(service)
    assert found and (found["base"], found["drift"]) == ("default", None)
    [rebuild] = found["rebuilds"]
    assert (rebuild["lines"], rebuild["flagged"], rebuild["learned"]) == (111, 1, 110)
    assert rebuild["rate"] == 0.01 and len(rebuild["old_thresholds"]) == len(rebuild["new_thresholds"]) == 1
    metrics = service.http.get("/metrics").text
    assert 'nextchar_ingest_recalibrations_total{model="fake",outcome="rebuilt"} 1.0' in metrics


@pytest.mark.usefixtures("model")
def test_later_lines_are_compared_with_it(service: Service) -> None:
    send(service, *normal_lines(), recalibrate="rolling")
    until(lambda: rolling(service))
    send(service, "→→", recalibrate="rolling")
    send(service, "→→→")
    until_scored(service, 112)
    events = service.http.get("/v1/models/fake/ingest/events").json()["data"]
    assert [(line["line"], line["calibration"]) for line in events] == [("→→", "rolling"), ("→→→", "default")]


@pytest.mark.usefixtures("model")
def test_each_source_with_a_calibration_has_its_own(service: Service) -> None:
    calibrate(service, name="web-1")
    lines: list[Any] = [{"message": line, "host": "web-1"} for line in normal_lines()]
    send(service, *lines, {"message": "ab", "host": "web-2"}, calibration_by="host", recalibrate="rolling")
    until(lambda: rolling(service, "rolling-web-1"))
    until_scored(service, 111)
    found = rolling(service, "rolling-web-1")
    assert found and found["base"] == "web-1" and found["rebuilds"][0]["lines"] == 110
    assert rolling(service) is None


@pytest.mark.usefixtures("model")
def test_with_never_nothing_rolls(service: Service) -> None:
    send(service, *normal_lines())
    until_scored(service, 110)
    assert rolling(service) is None
    answer = service.http.post(
        "/v1/models/fake/ingest", content="{}", headers=JSON_LINES, params={"recalibrate": "always"}
    )
    assert answer.status_code == 422


def set_recalibrate(service: Service, value: str) -> None:
    answer = service.http.put("/v1/models/fake/ingest/settings", json={"recalibrate": value})
    assert answer.status_code == 200, answer.text


@pytest.mark.usefixtures("model")
def test_the_setting_of_the_model_holds_for_lines_whose_request_does_not_say(service: Service) -> None:
    set_recalibrate(service, "rolling")
    send(service, *normal_lines(90), recalibrate="never")
    send(service, *normal_lines(80))
    until_scored(service, 170)
    assert rolling(service) is None, "80 lines are too few, and 170 would not be"
    send(service, *normal_lines(30))
    until(lambda: rolling(service))
    found = rolling(service)
    assert found and [rebuild["lines"] for rebuild in found["rebuilds"]] == [110]
    set_recalibrate(service, "never")
    send(service, *normal_lines(110))
    until_scored(service, 310)
    assert rolling(service) == found
    send(service, *normal_lines(110), recalibrate="rolling")
    until(lambda: rolling(service) != found)


@pytest.mark.usefixtures("model")
def test_a_new_calibration_starts_it_again(service: Service) -> None:
    send(service, *normal_lines(), recalibrate="rolling")
    until(lambda: rolling(service))
    stored = Calibrations(service.blobs)
    [version] = [card for card in service.models.all() if card.name == "fake"]
    saved = service.models.get(version.reference)
    default = stored.get(saved, "default")
    assert default and stored.find_rolling(saved, default)
    later = default.created_at + 1
    assert stored.find_rolling(saved, type(default)("default", default.calibration, later, "")) is None


class Replica:
    """One process, on storage and Redis that it shares with others."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        redis = Redis.from_url(redis_url, decode_responses=True)
        blobs = open_blobs(folder.as_uri())
        self.lines = RollingLines(redis)
        self.calibrations = Calibrations(blobs)
        alerts, settings = Alerts(redis, blobs), IngestSettings(blobs)
        self.recalibration = Recalibration(self.calibrations, alerts, self.lines, settings)


@pytest.fixture
def saved() -> SavedModel:
    return saved_model()


def lines_of(scores: Any, *, threshold: float) -> list[ObservedScore]:
    return [
        ObservedScore(1.0, score, 0, 0.01)
        if score <= threshold
        else ObservedScore(1.0, censored(threshold), 0, 0.01, AlertReference("alert_1", "t", "0:t"))
        for score in scores
    ]


def test_waiting_lines_are_read_as_they_were_added_also_those_of_an_earlier_version(
    clean_redis_url: str, saved: SavedModel
) -> None:
    redis = Redis.from_url(clean_redis_url, decode_responses=True)
    lines = RollingLines(redis)
    group = AlertReference("alert_1", "user <*>", "1:<*>", "ann →")
    added = [ObservedScore(1.0, 2.5, 0, 0.01), ObservedScore(2.0, 7.5, 0, 0.01, group)]
    lines.add(saved.card.id, "default", added)
    [key] = [key for key in redis.scan_iter() if redis.type(key) == "list"]
    redis.rpush(key, json.dumps([[3.0, 8.5, 0, 0.01, "alert_1", "user <*>", "1:<*>"]]))
    assert lines.acquire_lease(saved.card.id, "default", "me")
    older = ObservedScore(3.0, 8.5, 0, 0.01, AlertReference("alert_1", "user <*>", "1:<*>"))
    assert lines.take(saved.card.id, "default", "me") == [*added, older]
    lines.add(saved.card.id, "default", added)
    lines.forget(saved.card.id, "default")
    assert lines.waiting(saved.card.id, "default") is None


def test_two_replicas_build_one(clean_redis_url: str, tmp_path: Path, saved: SavedModel) -> None:
    replicas = [Replica(clean_redis_url, tmp_path) for _ in range(2)]
    random = np.random.default_rng(0)
    calibration = calibrate_lines(random_lines(random, 200))
    stored = replicas[0].calibrations.save(saved, "default", calibration, source="lines")
    threshold = calibration.thresholds(calibration.default_rate())[0]
    lines = lines_of(random.exponential(size=200), threshold=threshold)
    replicas[0].lines.add(saved.card.id, "default", lines)
    built: list[bool] = []
    barrier = threading.Barrier(2)

    def work(replica: Replica) -> None:
        barrier.wait()
        built.append(replica.recalibration.rebuild(saved, "default"))

    threads = [threading.Thread(target=work, args=(replica,)) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(built) == [False, True]
    found = Replica(clean_redis_url, tmp_path).calibrations.find_rolling(saved, stored)  # after a restart
    assert found and found.rolling and len(found.rolling.rebuilds) == 1
    assert found.rolling.rebuilds[0].lines == 200
    assert replicas[0].lines.counts() == {(saved.card.name, "rebuilt"): 1}


def test_a_process_that_has_lost_its_lease_learns_nothing(
    clean_redis_url: str, tmp_path: Path, saved: SavedModel
) -> None:
    replica = Replica(clean_redis_url, tmp_path)
    replica.lines.add(saved.card.id, "default", lines_of([1.0, 2.0], threshold=5.0))
    assert replica.lines.acquire_lease(saved.card.id, "default", "another")
    assert replica.recalibration.rebuild(saved, "default") is False
    assert replica.lines.take(saved.card.id, "default", "not the holder") == []
    assert len(replica.lines.take(saved.card.id, "default", "another")) == 2


@pytest.mark.parametrize("suspended_at", ["take", "rebuild"])
def test_a_process_that_was_suspended_does_not_overwrite_what_another_has_learned(
    clean_redis_url: str,
    tmp_path: Path,
    saved: SavedModel,
    monkeypatch: pytest.MonkeyPatch,
    suspended_at: str,
) -> None:
    late, other = (Replica(clean_redis_url, tmp_path) for _ in range(2))
    random = np.random.default_rng(0)
    calibration = calibrate_lines(random_lines(random, 200))
    stored = late.calibrations.save(saved, "default", calibration, source="lines")
    threshold = calibration.thresholds(calibration.default_rate())[0]
    redis = Redis.from_url(clean_redis_url)
    model_id = saved.card.id

    def add() -> None:
        late.lines.add(model_id, "default", lines_of(random.exponential(size=200), threshold=threshold))

    owner = late.lines if suspended_at == "take" else module
    resumed, calls = getattr(owner, suspended_at), itertools.count()

    def suspended(*args: Any, **options: Any) -> Any:
        if next(calls) == 0:
            redis.delete(f"nextchar:rolling:{model_id}:default:lease")  # as if it had expired
            if suspended_at == "rebuild":
                add()
            assert other.recalibration.rebuild(saved, "default")
        return resumed(*args, **options)

    add()
    monkeypatch.setattr(owner, suspended_at, suspended)
    assert late.recalibration.rebuild(saved, "default") is False
    found = Replica(clean_redis_url, tmp_path).calibrations.find_rolling(saved, stored)
    assert found and found.rolling and len(found.rolling.rebuilds) == 1
    assert late.lines.counts() == {(saved.card.name, "rebuilt"): 1}
