"""A night of learning from use with a worker that trains; what it trains answers no bare name."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar.app.acceptance.learning import Learning
from nextchar.app.http.services import Services
from nextchar.app.rooms import ROOMS, ApiSettings, open_rooms
from nextchar.models.saved_model import Card
from nextchar.store.open_blobs import open_blobs
from tests.app.service import serving_real
from tests.waiting import eventually
from tests.worker.warm_worker import WarmWorker

NAMES = [
    f"{first}{last}"
    for first in ("lon", "ber", "par", "mar", "hel")
    for last in ("don", "lin", "is", "seille")
]
TYPED = "zurzach"
DAY_S = 86_400


@pytest.fixture
def settings(tmp_path: Path, clean_redis_url: str) -> ApiSettings:
    return ApiSettings(
        data_dir=tmp_path, redis_url=clean_redis_url, min_free_bytes=0, learn_from_use="cities@live"
    )


@pytest.fixture
def http(settings: ApiSettings) -> Iterator[httpx.Client]:
    """The API with the real runtime, and a worker."""
    environment = os.environ | {
        "NEXTCHAR_DATA_DIR": str(settings.data_dir),
        "NEXTCHAR_REDIS_URL": settings.redis_url,
        "NEXTCHAR_TRAINING_THREADS": "1",
    }
    worker = WarmWorker(environment)
    try:
        with serving_real(settings) as client:
            yield client
    finally:
        worker.terminate()
        worker.wait(60)


@pytest.fixture
def services(settings: ApiSettings, http: httpx.Client) -> Iterator[Services]:
    """The parts of another process on the same storage, whose loops do not run."""
    opened = open_rooms(ROOMS, settings, stopping=threading.Event())
    yield opened
    opened.redis.close()


def run(services: Services) -> None:
    """Run a round of learning, at noon."""
    noon = time.time() // DAY_S * DAY_S + DAY_S / 2
    services.redis.delete("nextchar:acceptance:learning_lease")  # of the process that serves
    replace(services[Learning], clock=lambda: noon, min_shown=40).run()


def finished(http: httpx.Client, job: str) -> dict[str, Any]:
    def record() -> dict[str, Any]:
        return http.get(f"/v1/jobs/{job}").json()  # type: ignore[no-any-return]

    eventually(lambda: record()["status"] in ("succeeded", "failed"), within_s=250, what=f"{job} is over")
    assert record()["status"] == "succeeded", record()
    return record()


def use(http: httpx.Client, version: int, *, accepted: int) -> None:
    events = [
        {
            "id": f"{kind} {version} {n}",
            "type": kind,
            "suggestion_id": f"{version}.{n}",
            "model": f"cities@{version}",
        }
        for kind, count in (("shown", 50), ("accepted", accepted))
        for n in range(count)
    ]
    assert http.post("/v1/events", json={"events": events}).json()["rejected"] == 0


def answering(http: httpx.Client, model: str, **body: Any) -> str:
    response = http.post(f"/v1/models/{model}/suggest", json={"prefix": "z"} | body).raise_for_status()
    return str(response.json()["model"])


def test_a_night_trains_and_only_the_gate_leads_to_the_alias_and_the_bare_name(
    http: httpx.Client, services: Services, settings: ApiSettings
) -> None:
    corpus = http.post("/v1/corpora", content="\n".join(NAMES * 20).encode()).json()["id"]
    body = {"corpus": corpus, "name": "cities", "preset": "tiny", "kind": "records", "budget": {"steps": 20}}
    finished(http, http.post("/v1/jobs", json=body).raise_for_status().json()["id"])
    assert http.put("/v1/models/cities/aliases/live", json={"version": 1}).is_success
    typed = [
        {"id": f"{n}", "type": "typed", "suggestion_id": f"{n}", "model": "cities@1", "text": TYPED}
        for n in range(120)
    ]
    assert http.post("/v1/events", json={"events": typed}).json()["accepted"] == 120
    run(services)
    [_, job] = sorted(services.jobs.all(), key=lambda one: one.created_at)
    assert job.request.start_from == "cities@1" and job.request.training.budget.steps == 20
    assert finished(http, job.id)["model"] == "cities@2"
    lines = http.post("/v1/models/cities@2/suggest", json={"prefix": "zur"}).json()["suggestions"]
    assert [(one["text"], one["count"]) for one in lines] == [(TYPED, 120)]
    assert answering(http, "cities") == answering(http, "cities@live") == "cities@1"
    run(services)
    assert http.get("/v1/models/cities/aliases/live").json()["share"] == {"version": 2, "fraction": 0.1}
    people = [str(n) for n in range(40)]
    eventually(lambda: "cities@2" in {answering(http, "cities@live", client_id=who) for who in people})
    assert {answering(http, "cities", client_id=who) for who in people} == {"cities@1"}
    use(http, 1, accepted=10)
    use(http, 2, accepted=2)
    run(services)
    alias = http.get("/v1/models/cities/aliases/live").json()
    assert (alias["version"], alias["share"]) == (1, None)
    assert answering(http, "cities") == answering(http, "cities@live") == "cities@1"
    card = Card.model_validate_json(open_blobs(settings.blobs_url).read("model_cards/cities/000002.json"))
    assert card.started_from == "cities@1", "what is not let through stays, by its number"
