"""What an earlier release stored is served by this one: see tests/fixtures/make_installation.py."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from nextchar.app.backup import FOLDERS
from nextchar.app.rooms import ApiSettings
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.operations.test_retention import PERIODS
from tests.app.service import serving_real
from tests.app.sweeping import retention_of

_FIXTURE = Path(__file__).parents[1] / "fixtures/installation.tar.gz"


@pytest.fixture
def settings(settings: ApiSettings) -> ApiSettings:
    """The settings of a service whose storage is that of the earlier release."""
    with tarfile.open(_FIXTURE) as tar:
        tar.extractall(settings.data_dir, filter="data")
    return settings


@pytest.fixture
def http(settings: ApiSettings) -> Iterator[httpx.Client]:
    with serving_real(settings) as client:
        yield client


def _listed(http: httpx.Client, path: str) -> list[dict[str, object]]:
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def test_corpora_are_listed_read_and_get_another_version(http: httpx.Client) -> None:
    corpora = {corpus["name"]: corpus for corpus in _listed(http, "/v1/corpora")}
    assert set(corpora) == {"names", "log", "text", None}
    assert [corpora[name]["kind"] for name in ("names", "log", "text", None)] == [
        "records",
        "log",
        "text",
        None,
    ]
    assert corpora["names"]["version"] == 1
    for corpus in corpora.values():
        text = http.get(f"/v1/corpora/{corpus['id']}/text").content
        assert hashlib.sha256(text).hexdigest() == corpus["sha256"]
        again = http.post("/v1/corpora", params={"encoding": corpus["encoding"]}, content=text)
        assert (again.status_code, again.json()["id"]) == (200, corpus["id"])
    new = http.post("/v1/corpora?name=names", content=b"anna\nben\n").json()
    assert (new["name"], new["version"]) == ("names", 2)
    assert http.get("/v1/corpora/names@1").json() == corpora["names"]


def test_models_complete_and_score(http: httpx.Client) -> None:
    models = {model["id"] for model in _listed(http, "/v1/models")}
    assert models == {"names@1", "log@1"}
    for reference in ("names", "names@1", "names@champion"):
        answer = http.post(f"/v1/models/{reference}/complete", json={"prompt": "an", "max_characters": 5})
        assert answer.status_code == 200, answer.text
    normal = "2026-11-27T10:03:07 sshd: login from 10.0.0.3 port 187"
    for calibration in (None, "night"):
        body = {"lines": [normal, "kernel panic!! 0xDEAD"], "calibration": calibration}
        scored = http.post("/v1/models/log/score", json=body)
        assert scored.status_code == 200, scored.text
        ordinary, anomalous = (line["p_value"] for line in scored.json()["lines"])
        assert ordinary > 0.05 > anomalous
    assert http.get("/v1/models/log/report").status_code == 200


def test_jobs_and_their_events_are_listed(http: httpx.Client) -> None:
    jobs = _listed(http, "/v1/jobs")
    assert sorted((job["name"], job["status"]) for job in jobs) == [
        ("log", "succeeded"),
        ("names", "succeeded"),
        ("names", "succeeded"),
        ("text", "cancelled"),
    ]
    for job in jobs:
        if job["status"] == "succeeded":
            events = http.get(f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"}).text
            assert "event: metrics" in events


def test_a_version_that_was_deleted_stays_deleted_and_its_number_is_not_used(settings: ApiSettings) -> None:
    models = Models(open_blobs(settings.blobs_url))
    card = models.get("names@1").card.model_copy(update={"id": f"model_{7:021x}"})
    files = {name: models.get("names@1").file(name) for name in card.files}
    assert models.publish(card, files).reference == "names@3"
    assert models.aliases.get("names", "champion").version == 1


def test_it_is_backed_up_and_swept_as_a_whole(settings: ApiSettings) -> None:
    blobs = open_blobs(settings.blobs_url)
    folders = {folder.name for folder in (settings.data_dir / "store").iterdir()} - {"health"}
    assert folders <= set(FOLDERS)
    redis = Redis.from_url(settings.redis_url, decode_responses=True)
    periods = PERIODS.model_copy(update={"corpus_retention_days": 1e-9})
    swept = retention_of(blobs, redis, periods).sweep()
    assert swept["corpora"] == 1, "the bytes, which no job names"
    redis.close()
