"""Texts are kept of models that learn from use; what they train reaches an alias only through the gate."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from nextchar.app.acceptance.learning import MAX_SHARE_DAYS, Learning
from nextchar.app.http.services import Services
from nextchar.app.models.engines import EngineLoader
from nextchar.app.rooms import ROOMS, ApiSettings, open_rooms
from nextchar.models.saved_model import Card
from nextchar.store.jobs import Job, JobStatus
from tests.app.fakes import FakeEngine, loaded, publish
from tests.app.service import Service, error_of, serving

ALIAS = "/v1/models/fake/aliases/live"
KEPT = "/v1/models/fake/kept_texts"
DAY_S = 86_400
BASE = "the quick brown fox\n" * 200


@pytest.fixture
def settings(settings: ApiSettings) -> ApiSettings:
    """Settings by which `fake@live` learns."""
    return settings.model_copy(update={"learn_from_use": "fake@live", "min_free_bytes": 0})


@pytest.fixture
def service(settings: ApiSettings) -> Iterator[Service]:
    """The API, with a model that a corpus was kept of, and an alias of it."""
    with serving(settings) as running:
        publish(running.models, corpus=running.upload(BASE))
        assert running.http.put(ALIAS, json={"version": 1}).is_success
        yield running


@pytest.fixture
def services(settings: ApiSettings, service: Service) -> Services:
    """The parts of another process on the same storage, whose loops do not run."""
    loader = EngineLoader(lambda saved: loaded(saved, FakeEngine(saved)))
    return open_rooms(ROOMS, settings, loader, stopping=threading.Event())


def event(number: int, kind: str = "typed", model: str = "fake@1", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"{model}{kind}{number}",
        "type": kind,
        "suggestion_id": f"{number}",
        "model": model,
    } | fields


def send(service: Service, *events: dict[str, Any]) -> None:
    assert service.http.post("/v1/events", json={"events": events}).status_code == 202


def source(client_id: str) -> str:
    return hashlib.sha256(client_id.encode()).hexdigest()[:16]


def kept(service: Service, **query: Any) -> list[str]:
    return [one["text"] for one in service.http.get(KEPT, params=query).json()["data"]]


def outcome(service: Service) -> str:
    return str(service.http.get(KEPT).json()["learning"]["outcome"])


def run(services: Services, *, days: float, **changes: Any) -> None:
    """Run a round of learning some days from now, at noon."""
    noon = time.time() // DAY_S * DAY_S + DAY_S / 2
    services.redis.delete("nextchar:acceptance:learning_lease")  # of the process that serves
    learning = replace(services[Learning], clock=lambda: noon + days * DAY_S, min_shown=40, **changes)
    learning.run()


def finish(service: Service, job: Job) -> Card:
    """Have a job succeed, as its worker would; return the card of what it trained."""
    card = publish(service.models, corpus=job.request.corpus)
    path = f"model_cards/fake/{card.version:06d}.json"
    card = card.model_copy(update={"started_from": job.request.start_from})
    service.blobs.write(path, card.model_dump_json().encode())
    running = service.jobs.move(job, JobStatus.RUNNING, attempt=1)
    service.jobs.move(running, JobStatus.SUCCEEDED, model=card.reference)
    return card


def learned(service: Service, services: Services) -> Card:
    """Have people type texts, and a version be trained on them and get its share of the clients."""
    send(service, *(event(n, text=f"typed by hand {n}", client_id="ann") for n in range(120)))
    run(services, days=1)
    [job] = service.jobs.all()
    assert (job.request.start_from, job.request.name) == ("fake@1", "fake")
    card = finish(service, job)
    run(services, days=1)
    share = service.http.get(ALIAS).json()["share"]
    assert share == {"version": 2, "fraction": 0.1} and "has a share" in outcome(service)
    return card


def use(service: Service, version: int, *, accepted: int) -> None:
    shown = [event(n, "shown", f"fake@{version}") for n in range(1000, 1050)]
    send(service, *shown, *(event(1000 + n, "accepted", f"fake@{version}") for n in range(accepted)))


def test_texts_are_kept_once_of_each_suggestion_and_listed_and_deleted_by_source(service: Service) -> None:
    other = publish(service.models, name="other")
    send(
        service,
        event(1, "accepted", text="London", client_id="ann"),
        event(1, "accepted", text="London", client_id="ann"),
        event(2, "shown", text="shown only", client_id="ann"),
        event(3, text="Berlin", client_id="bob"),
        event(4, text="Nobody"),
        event(6, text="x" * 10_001),
        event(5, model=other.reference, text="of a model that does not learn"),
    )
    assert kept(service) == ["London", "Berlin", "Nobody"]
    assert kept(service, source=source("ann")) == ["London"] and kept(service, source="") == ["Nobody"]
    first = service.http.get(KEPT, params={"limit": 1}).json()
    assert first["has_more"] and (first["data"][0]["type"], first["data"][0]["model"]) == (
        "accepted",
        "fake@1",
    )
    assert kept(service, after=first["data"][0]["id"]) == ["Berlin", "Nobody"]
    assert service.http.delete(KEPT, params={"source": source("ann")}).json()["deleted"] == 1
    assert kept(service) == ["Berlin", "Nobody"]
    assert service.http.get("/v1/models/other/kept_texts").json()["learning"] is None
    assert error_of(service.http.get(KEPT, params={"source": "ann"}), 422)["param"] == "source"
    assert service.http.delete(KEPT).json()["deleted"] == 2 and kept(service) == []


def test_a_night_trains_on_what_was_typed_and_moves_the_alias_if_acceptance_is_not_lower(
    service: Service, services: Services
) -> None:
    card = learned(service, services)
    joined = service.corpora.get(card.corpus or "")
    text = b"".join(service.corpora.stream(joined.id)).decode()
    own = b"".join(service.corpora.stream("fake.kept-texts")).decode()
    assert own.count("typed by hand") == 120 and text == own + BASE
    use(service, 1, accepted=10)
    run(services, days=1)
    assert service.http.get(ALIAS).json()["version"] == 1, "it was not shown often enough"
    use(service, 2, accepted=10)
    run(services, days=1)
    moved = service.http.get(ALIAS).json()
    assert (moved["version"], moved["share"], moved["moved_by"]) == (2, None, "learning")
    assert moved["checks"][0]["name"] == "acceptance_over_shown"
    run(services, days=2)
    assert "too few new texts" in outcome(service) and len(service.jobs.all()) == 1
    send(service, event(500, text="typed later", model="fake@2"))
    run(services, days=3)
    job = max(service.jobs.all(), key=lambda one: one.created_at)
    again = b"".join(service.corpora.stream(job.request.corpus)).decode()
    assert again.count("typed by hand 7\n") == 1 and again.endswith("typed later\n" + BASE)


def test_a_version_whose_suggestions_are_accepted_less_often_loses_its_share(
    service: Service, services: Services
) -> None:
    learned(service, services)
    use(service, 1, accepted=10)
    use(service, 2, accepted=2)
    run(services, days=1)
    alias = service.http.get(ALIAS).json()
    assert (alias["version"], alias["share"]) == (1, None)
    assert "4.00% of its suggestions were accepted and 5.88%" in outcome(service)


def test_a_version_that_nobody_sees_is_given_up(service: Service, services: Services) -> None:
    learned(service, services)
    run(services, days=MAX_SHARE_DAYS + 2)
    assert "was given up" in outcome(service) and service.http.get(ALIAS).json()["share"] is None


def test_a_person_who_moves_the_alias_decides(service: Service, services: Services) -> None:
    learned(service, services)
    service.http.put(ALIAS, json={"version": 1})
    run(services, days=1)
    assert "was changed by another request" in outcome(service)
    assert service.http.get(ALIAS).json()["share"] is None


def test_deleted_texts_are_not_learned_again(service: Service, services: Services) -> None:
    card = learned(service, services)
    assert service.http.delete(KEPT, params={"source": source("ann")}).json()["deleted"] == 120
    assert error_of(service.http.get(f"/v1/corpora/{card.corpus}"), 404)
    assert service.http.put(ALIAS, json={"version": 2}).is_success
    run(services, days=1)
    send(service, *(event(n, text=f"another text {n}", model="fake@2") for n in range(200, 320)))
    run(services, days=2)
    job = max(service.jobs.all(), key=lambda one: one.created_at)
    text = b"".join(service.corpora.stream(job.request.corpus)).decode()
    assert job.request.start_from == "fake@2" and "typed by hand" not in text and text.endswith(BASE)


def test_texts_expire(service: Service, services: Services) -> None:
    send(service, event(1, text="old"))
    run(services, days=31)
    assert kept(service) == []


@pytest.mark.parametrize("aliases", ["fake", "fake@1", "a@live,a@beta", f"{'a' * 49}@live"])
def test_a_wrong_setting_is_refused(aliases: str) -> None:
    with pytest.raises(ValueError, match="learn_from_use"):
        ApiSettings(learn_from_use=aliases)
