"""A key with patterns is one tenant's: it neither sees nor changes what another has."""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from nextchar.app.access.keys import Key, new_key
from nextchar.app.access.permissions import Access
from nextchar.app.http.errors import Forbidden
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from nextchar.models.anomaly.alerts import AlertKey, Occurrence
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import Jobs, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.fakes import publish
from tests.app.service import Service, error_of, serving_with_keys, until
from tests.waiting import eventually

ALL = "read,complete,train,admin"
KEYS = {
    "operator": new_key("operator", scopes="admin"),
    "fox": new_key("fox", scopes=ALL, models="fox*"),
    "owl": new_key("owl", scopes=ALL, models="owl*"),
    "owl-twin": new_key("owl-twin", scopes=ALL, models="owl*"),
    "owl-writer": new_key("owl-writer", scopes="complete", models="owl*"),
    "owl-reader": new_key("owl-reader", scopes="complete,read", models="owl*"),
}

TEXT = "the owl's text is a secret of the owl\n" * 20
SAMPLE = "a sample that only the owl may see"
FILENAME = "owl-diary.txt"
METADATA = "the owl's metadata"
ALERTED = "a flagged line that only the owl may see"


@dataclass(frozen=True)
class Tenants:
    """A running API with keys."""

    service: Service

    def call(self, key: str, method: str, path: str, **options: Any) -> httpx.Response:
        """Call the API with a key."""
        headers = {"X-API-Key": KEYS[key][0]} | options.pop("headers", {})
        return self.service.http.request(method, path, headers=headers, **options)

    def upload(self, key: str, text: str = TEXT, *, name: str | None = None) -> str:
        """Upload a text; return its id."""
        answer = self.call(
            key, "POST", "/v1/corpora", content=text.encode(), params={"name": name} if name else {}
        )
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    def train(self, key: str, **body: Any) -> str:
        """Queue a job; return its id."""
        answer = self.call(key, "POST", "/v1/jobs", json={"preset": "tiny"} | body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def ids(self, key: str, path: str) -> list[str]:
        """Return the ids in a list."""
        return [one["id"] for one in self.call(key, "GET", path).json()["data"]]


@pytest.fixture
def tenants(settings: ApiSettings) -> Iterator[Tenants]:
    with serving_with_keys(settings, KEYS) as running:
        yield Tenants(running)


@dataclass(frozen=True)
class Owned:
    """What the owl has."""

    corpus: str
    queued: str
    running: str
    succeeded: str
    alert: str
    suppression: str

    @property
    def secrets(self) -> list[str]:
        """Strings that nobody else may be told, unless they sent them."""
        ids = [self.corpus, self.queued, self.running, self.succeeded]
        ids += [self.alert, self.suppression]
        return [*ids, "owl", SAMPLE, FILENAME, METADATA, "the owl's text", ALERTED]


@pytest.fixture
def owned(tenants: Tenants) -> Owned:
    """Of each kind of thing one that belongs to the owl, and a model of the fox."""
    service = tenants.service
    publish(service.models, name="fox")
    publish(service.models, name="owl")  # the newest: the default of whoever names none
    lines = {"lines": [f"line {i}" for i in range(30)], "name": "owl-lines"}
    assert tenants.call("owl", "POST", "/v1/models/owl/calibrate", json=lines).status_code == 201
    file = {"file": (FILENAME, TEXT.encode())}
    corpus = tenants.call("owl", "POST", "/v1/files", files=file, data={"purpose": "fine-tune"}).json()["id"]
    tenants.upload("owl", name="owl-log")
    body = {"model": "tiny", "training_file": corpus, "suffix": "owl", "metadata": {"about": METADATA}}
    queued = tenants.call("owl", "POST", "/v1/fine_tuning/jobs", json=body).json()["id"]
    running, succeeded = (tenants.train("owl", corpus="owl-log", name="owl") for _ in range(2))
    event = {"id": 1, "at": 1795563600.0, "type": "sample", "data": {"step": 1, "text": SAMPLE}}
    for job_id in (running, succeeded):
        service.live.add_events(job_id, [event])
        service.live.acquire_lease(job_id, "the trainer")
        moved = service.jobs.move(service.jobs.get(job_id), JobStatus.RUNNING)
    service.jobs.move(moved, JobStatus.SUCCEEDED, model="owl@1")
    group = AlertKey("the owl hoots", "0:a")
    alerts = Alerts(Redis.from_url(service.settings.redis_url, decode_responses=True), service.blobs)
    alerts.record(
        [
            Occurrence(
                group,
                model="owl",
                version=1,
                line=ALERTED,
                score=9.0,
                p_value=0.005,
                estimated_p=0.005,
                spans=[],
                time=time.time(),
            )
        ]
    )
    service.models.aliases.move("owl", "champion", 1, after=None)
    pattern = {"template": "of the owl", "until": time.time() + 3600}
    suppression = tenants.call("owl", "POST", "/v1/models/owl/suppressions", json=pattern).json()["id"]
    return Owned(corpus, queued, running, succeeded, group.alert_id("owl"), suppression)


def stored_files(service: Service) -> list[Path]:
    return [path for path in (service.settings.data_dir / "store").rglob("*") if path.is_file()]


def the_state(service: Service) -> dict[str, bytes]:
    """Return everything in storage, and what is asked of jobs."""
    state = {str(path): path.read_bytes() for path in stored_files(service)}
    asked = {job.id: str(service.live.pending_stop(job.id)).encode() for job in service.jobs.all()}
    return state | asked


def bodies(operation: str, owned: Owned) -> list[dict[str, Any]]:
    """Return the request bodies to try, which name what is not the caller's; each as httpx takes it."""
    lines = {"lines": ["a", "b", "c"] * 20, "anomalous": [False, True, False] * 20}
    mine = {"name": "fox", "preset": "tiny"}
    corpus = owned.corpus
    known: dict[str, list[dict[str, Any]]] = {
        "complete": [{"prompt": "a"}],
        "next_character": [{"prompt": "a"}],
        "suggest_completions": [{"prefix": "a"}],
        "score": [{"text": "a"}, {"lines": ["a"], "stream_id": "s"}],
        "make_calibration": [{"corpus": corpus}, {"lines": ["a"] * 20}],
        "evaluate_model": [lines, lines | {"split": "random"}],
        "rename_model": [{"name": "fox-2"}],
        "label_alert": [{"label": "normal"}],
        "suppress_alert": [{"until": time.time() + 3600}],
        "create_suppression": [{"template": "a", "until": time.time() + 3600}],
        "create_target": [{"kind": "webhook", "url": "https://example.com/hook"}],
        "set_alias": [{"version": 1}],
        "change_corpus": [{"kind": "records"}],
        "import_corpus": [{"url": "s3://logs/*.txt"}, {"url": "s3://logs/*.txt", "name": "owl-log"}],
        "create_completion": [{"prompt": "a"}, {"prompt": "a", "model": "owl"}],
        "create_completion_with_model": [{"prompt": "a"}],
        "infill": [{"prompt": "a"}, {"prompt": "a", "model": "owl@1"}],
        "infill_with_model": [{"prompt": "a"}],
        "tokenize": [{"prompt": "a"}, {"prompt": "a", "model": "owl"}],
        "tokenize_with_model": [{"prompt": "a"}],
        "detokenize": [{"tokens": [1]}, {"tokens": [1], "model": "owl"}],
        "detokenize_with_model": [{"tokens": [1]}],
        "cancel_job": [{}, {"keep_best": True}],
        "create_job": [
            mine | {"corpus": corpus},
            mine | {"corpus": "owl-log"},
            mine | {"corpus": corpus, "name": "owl"},
            mine | {"corpus": corpus, "start_from": "owl"},
            mine | {"corpus": "fox-log", "start_from": "owl"},
            mine | {"corpus": "fox-log", "mix": {"corpus": corpus, "fraction": 0.5}},
            mine | {"corpus": "fox-log", "mix": {"corpus": "owl-log", "fraction": 0.5}},
            mine | {"corpus": "fox-log", "mix": {"corpus": "fox-log", "fraction": 0.5, "teacher": "owl@1"}},
        ],
        "put_line_counts": [{"lines": [{"text": "a"}]}],
        "add_events": [
            {"events": [{"id": "1", "type": "shown", "suggestion_id": "sug_1.0", "model": model}]}
            for model in ("owl", "owl@1")
        ],
        "create_batch": [
            {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
            for file in (corpus, "owl-log")
        ],
        "create_fine_tuning_job": [
            {"model": "tiny", "suffix": "fox", "training_file": corpus},
            {"model": "tiny", "suffix": "fox", "training_file": "fox-log", "validation_file": corpus},
            {"model": "owl", "suffix": "fox", "training_file": "fox-log"},
            {"model": "tiny", "suffix": "owl", "training_file": "fox-log"},
        ],
    }
    if operation == "ingest_lines_of_agent":
        return [{"content": b"a line\n", "headers": {"Content-Type": "text/plain"}}]
    if operation == "export_logs":
        record = {"body": {"stringValue": "a line"}}
        return [{"json": {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}}]
    if operation == "add_corpus":
        return [{"content": b"some text", "params": {"name": "owl-log-2"}}]
    if operation == "import_model":
        return [{"content": b"archive", "params": {"name": "owl-2"}}]
    if operation == "create_file":
        return [{"files": {"file": ("a.txt", b"mine")}, "data": {"purpose": "evals"}}]
    return [{"json": body} for body in known[operation]]


def calls(owned: Owned) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every call of the API's description, with the owl's things in its path, query and body."""
    jobs = (owned.queued, owned.running, owned.succeeded)
    things = {
        "model": ("owl", "owl@1"),
        "job": jobs,
        "corpus": (owned.corpus, "owl-log"),
        "file": (owned.corpus, "owl-log"),
        "name": ("owl-lines", "model.json", "model.onnx"),
        "stream_id": ("s",),
        "alert": (owned.alert,),
        "suppression": (owned.suppression,),
        "alias": ("champion",),
        "target": ("ntarget_0",),
        "delivery": ("msg_0",),
        "batch_id": ("batch_000000000000",),
    }
    for path, operations in create_app(ApiSettings()).openapi()["paths"].items():
        for method, operation in operations.items():
            parameters = operation.get("parameters", [])
            names = [p["name"] for p in parameters if p["in"] == "path"]
            queries: list[dict[str, str]] = [{}]
            if any(p["name"] == "model" and p["in"] == "query" for p in parameters):
                queries.append({"model": "owl"})
            if any(p["name"] == "after" and p["schema"].get("type") != "integer" for p in parameters):
                queries += [{"after": job} for job in jobs] + [{"after": owned.corpus}, {"after": "owl@1"}]
            sent = bodies(operation["operationId"], owned) if "requestBody" in operation else [{}]
            for values in itertools.product(*(things[name] for name in names)):
                filled = path.format(**dict(zip(names, values, strict=True)))
                for query, body in itertools.product(queries, sent):
                    yield method.upper(), filled, {"params": query} | body
                if path.endswith("/events"):
                    yield "GET", filled, {"params": {}, "headers": {"Accept": "text/event-stream"}}


def test_no_call_shows_or_changes_what_a_limited_key_cannot_access(tenants: Tenants, owned: Owned) -> None:
    tenants.upload("fox", "the quick brown fox\n" * 40, name="fox-log")
    before = the_state(tenants.service)
    count = 0
    for method, path, options in calls(owned):
        answer = tenants.call("fox", method, path, **options)
        sent = f"{path} {options}"
        told = [s for s in owned.secrets if s not in sent and s in f"{answer.text} {answer.headers}"]
        assert not told, (method, path, options, answer.text)
        names_others = any(secret in sent for secret in owned.secrets) and "after" not in options["params"]
        if names_others:
            assert answer.status_code in (403, 404), (method, path, options, answer.text)
        else:
            assert answer.status_code < 500, (method, path, answer.text)
        count += 1
    assert count > 100
    after = the_state(tenants.service)
    assert {path: after.get(path) for path in before} == before


def test_inaccessible_resources_are_answered_like_missing_ones(tenants: Tenants, owned: Owned) -> None:
    for path, there, missing in (
        ("/v1/jobs/{}", owned.running, "job_000000000000"),
        ("/v1/jobs/{}/events", owned.running, "job_000000000000"),
        ("/v1/fine_tuning/jobs/{}", owned.running, "job_000000000000"),
        ("/v1/corpora/{}", owned.corpus, "corpus_000000000000"),
        ("/v1/corpora/{}/text", owned.corpus, "corpus_000000000000"),
        ("/v1/corpora/{}", "owl-log", "owl-nothing"),
        ("/v1/files/{}", owned.corpus, "corpus_000000000000"),
    ):
        hidden, none = (tenants.call("fox", "GET", path.format(one)) for one in (there, missing))
        assert error_of(hidden, 404)["code"] == error_of(none, 404)["code"]
        assert hidden.text.replace(there, "…") == none.text.replace(missing, "…")


def test_damaged_records_are_inaccessible_too(tenants: Tenants, owned: Owned) -> None:
    blobs = tenants.service.blobs
    blobs.write(blobs.paths(f"jobs/{owned.running}")[-1], b"{")
    blobs.write(f"corpora/{owned.corpus}/corpus.json", b"{")
    for path in (f"/v1/jobs/{owned.running}", f"/v1/corpora/{owned.corpus}"):
        assert error_of(tenants.call("fox", "GET", path), 404)
        assert error_of(tenants.call("operator", "GET", path), 503)
    blobs.write("model_cards/owl/000001.json", b"{")
    for key, left_out in (("fox", []), ("owl", ["owl@1"]), ("operator", ["owl@1"])):
        listed = tenants.call(key, "GET", "/v1/models").json()["damaged"]
        assert [one["id"] for one in listed] == left_out


def test_keys_that_share_patterns_share_models_jobs_and_named_corpora(tenants: Tenants, owned: Owned) -> None:
    for path in ("/v1/models", "/v1/jobs", "/v1/corpora", "/v1/fine_tuning/jobs", "/v1/files"):
        assert tenants.ids("owl", path) == tenants.ids("owl-twin", path) != [], path
    assert tenants.ids("owl", "/v1/models") == ["owl@1"]
    assert tenants.ids("operator", "/v1/models") == ["owl@1", "fox@1"]
    assert tenants.call("owl-twin", "GET", "/v1/corpora/owl-log/text").text == TEXT
    events = tenants.call("owl-twin", "GET", f"/v1/jobs/{owned.running}/events").json()["data"]
    assert events[0]["data"]["text"] == SAMPLE
    assert tenants.call("owl-twin", "POST", f"/v1/jobs/{owned.queued}/cancel").json()["status"] == "cancelled"


def test_default_model_of_a_limited_key_is_its_newest_accessible_model(tenants: Tenants) -> None:
    assert error_of(tenants.call("fox", "GET", "/props"), 404)["code"] == "model_not_found"
    for name in ("fox-1", "fox-2", "owl"):
        publish(tenants.service.models, name=name)
    until(lambda: tenants.call("fox", "GET", "/props").json().get("model_alias") == "fox-2@1")
    assert tenants.call("owl", "GET", "/tokenizer_info").json()["model"] == "owl@1"
    assert tenants.call("fox", "POST", "/v1/completions", json={"prompt": "a"}).json()["model"] == "fox-2@1"


def test_limited_key_cannot_give_a_corpus_a_name_outside_its_patterns(tenants: Tenants) -> None:
    answer = tenants.call("fox", "POST", "/v1/corpora", content=b"some text", params={"name": "owl-log"})
    assert error_of(answer, 403)["code"] == "corpus_name_not_permitted"
    assert tenants.service.corpora.all() == []
    assert tenants.upload("operator", "some text", name="anything")


def test_text_uploaded_by_two_keys_looks_to_each_like_its_own(tenants: Tenants) -> None:
    first = tenants.call("owl", "POST", "/v1/corpora", content=TEXT.encode(), params={"name": "owl-log"})
    record = f"corpus_owners/{first.json()['id']}/key-owl"
    tenants.service.blobs.write(record, b"1000000000")  # long ago
    second = tenants.call("fox", "POST", "/v1/corpora", content=TEXT.encode())
    assert (first.status_code, second.status_code) == (201, 201)
    corpus = second.json()["id"]
    assert first.json()["id"] == corpus and first.json()["name"] == "owl-log"
    assert (
        second.json()["name"] is None
        and tenants.call("fox", "GET", f"/v1/corpora/{corpus}").json()["name"] is None
    )
    assert tenants.call("owl", "GET", "/v1/corpora").json()["data"][0]["created_at"] == 1000000000
    assert second.json()["created_at"] > 1000000000
    assert error_of(tenants.call("fox", "GET", "/v1/corpora/owl-log"), 404)
    again = tenants.call("fox", "POST", "/v1/corpora", content=TEXT.encode(), params={"name": "fox-log"})
    assert again.status_code == 200 and again.json()["name"] == "fox-log"
    assert tenants.call("owl", "GET", f"/v1/corpora/{corpus}").json()["name"] == "owl-log"


def test_limited_key_sets_the_kind_of_a_corpus_for_itself_alone(tenants: Tenants) -> None:
    corpus = tenants.upload("owl", name="owl-log")
    path = f"/v1/corpora/{corpus}"
    before = tenants.call("owl", "GET", path).json()
    assert before["kind"] == "text"
    params = {"kind": "records"}
    uploaded = tenants.call("fox", "POST", "/v1/corpora", content=TEXT.encode(), params=params).json()
    assert (uploaded["id"], uploaded["kind"]) == (corpus, "records")
    assert tenants.call("fox", "PATCH", path, json={"kind": "code"}).json()["kind"] == "code"
    assert tenants.call("fox", "GET", path).json()["kind_reason"] == "it was chosen, not detected"
    job = tenants.call("fox", "POST", "/v1/jobs", json={"corpus": corpus, "name": "fox"}).json()
    assert job["kind"] == "code"
    assert tenants.call("owl", "GET", path).json() == before
    tenants.call("fox", "POST", f"/v1/jobs/{job['id']}/cancel")
    assert tenants.call("fox", "DELETE", path).status_code == 200
    assert tenants.service.blobs.paths("corpus_kinds") == []
    assert tenants.upload("fox") == corpus
    tenants.call("fox", "PATCH", path, json={"kind": "code"})
    tenants.service.corpora.delete(corpus)
    assert tenants.service.blobs.paths("corpus_kinds") == []


def test_corpus_deleted_by_a_limited_key_stays_for_other_owners(tenants: Tenants) -> None:
    corpus = tenants.upload("owl", name="owl-log")
    assert tenants.upload("fox", name="fox-log") == corpus
    tenants.train("owl", corpus=corpus, name="owl")
    deleted = tenants.call("fox", "DELETE", f"/v1/corpora/{corpus}")
    assert deleted.json() == {"id": corpus, "object": "corpus", "deleted": True}
    assert tenants.ids("fox", "/v1/corpora") == []
    assert error_of(tenants.call("fox", "DELETE", f"/v1/corpora/{corpus}"), 404)
    assert tenants.call("owl", "GET", f"/v1/corpora/{corpus}/text").text == TEXT
    assert tenants.service.corpora.names() == {"owl-log": corpus}
    needed = tenants.call("owl", "DELETE", "/v1/corpora/owl-log")
    assert error_of(needed, 409)["code"] == "corpus_in_use"


def test_corpus_of_one_limited_key_is_deleted_with_its_files(tenants: Tenants) -> None:
    corpus = tenants.upload("fox", name="fox-log")
    assert tenants.call("fox", "DELETE", "/v1/corpora/fox-log").status_code == 200
    assert error_of(tenants.call("operator", "GET", f"/v1/corpora/{corpus}"), 404)
    for folder in ("corpora", "corpus_names", "corpus_owners"):
        assert tenants.service.blobs.paths(folder) == []


def test_unlimited_key_deletes_corpora_of_others(tenants: Tenants) -> None:
    corpus = tenants.upload("owl", name="owl-log")
    tenants.upload("fox", name="fox-log")
    assert tenants.call("operator", "DELETE", "/v1/corpora/fox-log").json()["id"] == corpus
    assert tenants.ids("owl", "/v1/corpora") == [] == tenants.service.blobs.paths("corpus_owners")


def test_text_from_before_owners_were_recorded_survives_a_limited_key(
    tenants: Tenants, tmp_path: Path
) -> None:
    with Upload(tmp_path, limit_bytes=10**6) as upload:
        upload.feed(TEXT.encode())
        old, _ = tenants.service.corpora.add(upload, name="owl-log")
    assert tenants.ids("fox", "/v1/corpora") == [] and tenants.ids("owl", "/v1/corpora") == [old.id]
    assert tenants.upload("fox") == old.id and tenants.ids("fox", "/v1/corpora") == [old.id]
    for key in ("fox", "owl"):
        assert tenants.call(key, "DELETE", f"/v1/corpora/{old.id}").status_code == 200
        assert tenants.ids(key, "/v1/corpora") == []
    assert tenants.service.corpora.get(old.id).name is None  # the owl took its name away
    assert tenants.ids("operator", "/v1/corpora") == [old.id]


def test_model_used_by_an_inaccessible_job_stays(tenants: Tenants) -> None:
    publish(tenants.service.models, name="fox")
    job = tenants.train("operator", corpus=tenants.upload("operator"), name="secret", start_from="fox")
    error = error_of(tenants.call("fox", "DELETE", "/v1/models/fox"), 409)
    assert error["code"] == "model_in_use"
    assert job not in error["message"] and "a job of another API key" in error["message"]


def test_corpus_used_by_an_inaccessible_job_stays(tenants: Tenants) -> None:
    corpus = tenants.upload("fox")
    job = tenants.train("operator", corpus=corpus, name="secret")
    deleted = tenants.call("fox", "DELETE", f"/v1/corpora/{corpus}")
    assert deleted.status_code == 200 and job not in deleted.text
    assert "".join(tenants.service.corpora.pieces(corpus)) == TEXT and tenants.ids("fox", "/v1/corpora") == []


def test_each_key_has_its_own_file_names(tenants: Tenants) -> None:
    made = {}
    for key in ("owl", "fox", "operator"):
        file = {"file": (f"{key}.txt", TEXT.encode())}
        made[key] = tenants.call(key, "POST", "/v1/files", files=file, data={"purpose": "evals"}).json()
        assert made[key]["filename"] == f"{key}.txt"
    for key, file in made.items():
        assert tenants.call(key, "GET", f"/v1/files/{file['id']}").json() == file
    assert tenants.call("operator", "DELETE", f"/v1/files/{made['owl']['id']}").json()["deleted"]
    assert tenants.service.blobs.paths("openai_files") == []


def test_corpus_made_of_two_files_belongs_to_the_key_that_made_it(tenants: Tenants) -> None:
    validation, files = "the owl sleeps\n" * 10, {}
    for key in ("owl", "fox"):
        files[key] = [tenants.upload(key), tenants.upload(key, validation)]
        training_file, validation_file = files[key]
        body = {
            "model": "tiny",
            "suffix": key,
            "training_file": training_file,
            "validation_file": validation_file,
        }
        job = tenants.call(key, "POST", "/v1/fine_tuning/jobs", json=body).json()["id"]
        assert len(tenants.ids(key, "/v1/files")) == 3
        tenants.call(key, "POST", f"/v1/jobs/{job}/cancel")
    for key in ("owl", "fox"):
        assert tenants.call(key, "DELETE", f"/v1/files/{files[key][0]}").status_code == 200
        assert tenants.ids(key, "/v1/files") == [files[key][1]]
    assert [corpus.id for corpus in tenants.service.corpora.all()] == [files["owl"][1]]


def test_idempotency_keys_are_separate_per_api_key(tenants: Tenants) -> None:
    body = {"corpus": tenants.upload("owl", name="owl-log"), "name": "owl", "preset": "tiny"}
    same = {"headers": {"Idempotency-Key": "1"}, "json": body}
    first, again, other = (
        tenants.call(key, "POST", "/v1/jobs", **same).json()["id"] for key in ("owl", "owl", "operator")
    )
    assert first == again != other
    tenants.upload("fox", name="fox-log")
    mine = {"corpus": "fox-log", "name": "fox", "preset": "tiny"}
    answer = tenants.call("fox", "POST", "/v1/jobs", headers={"Idempotency-Key": "1"}, json=mine)
    assert answer.status_code == 202 and answer.json()["name"] == "fox"


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_stream_of_a_limited_key_is_its_own(tenants: Tenants, kind: str) -> None:
    publish(tenants.service.models, name="owl")
    fields = {"context": "stream", "stream_id": "s"}

    def lines_of(key: str) -> int:
        if kind == "application/json":
            answer = tenants.call(key, "POST", "/v1/models/owl/score", json=fields | {"lines": ["a"]})
            return int(answer.json()["stream"]["lines"])
        headers = {"Content-Type": kind}
        answer = tenants.call(
            key, "POST", "/v1/models/owl/score", params=fields, content=b"a", headers=headers
        )
        return int(json.loads(answer.text.splitlines()[-1])["stream"]["lines"])

    keys = ("owl", "owl-twin", "owl-writer", "operator")
    assert [lines_of(key) for key in keys] == [1, 1, 1, 1]
    assert tenants.call("owl", "DELETE", "/v1/models/owl/streams/s").status_code == 204
    assert [lines_of(key) for key in keys] == [1, 2, 2, 2]


def test_evaluation_that_reads_the_training_text_needs_a_key_that_may_read_it(tenants: Tenants) -> None:
    corpus = tenants.upload("operator", "".join(f"line {i}\n" for i in range(200)))
    publish(tenants.service.models, name="owl", corpus=corpus)
    lines = [f"line {i}" for i in range(40)]
    body = {"lines": lines, "anomalous": [i % 10 == 9 for i in range(40)]}
    path = "/v1/models/owl/evaluate"
    calibration = {"lines": lines}
    assert tenants.call("owl", "POST", "/v1/models/owl/calibrate", json=calibration).status_code == 201
    for split in ({}, {"split": "none"}):
        error = error_of(tenants.call("owl-writer", "POST", path, json=body | split), 403)
        assert error["code"] == "scope_missing" and "read or train" in error["message"]
    for split in ("chronological", "random"):
        assert tenants.call("owl-writer", "POST", path, json=body | {"split": split}).status_code == 200
    # A text out of reach is treated like one that is gone.
    hidden = tenants.call("owl-reader", "POST", path, json=body).json()
    assert hidden["split"] == "chronological"
    hidden = tenants.call("owl-reader", "POST", path, json=body | {"split": "none"}).json()
    assert (hidden["trained_on"], hidden["leaks"]["normal"], hidden["baselines"]) == (0, 0, {})
    seen = tenants.call("operator", "POST", path, json=body).json()
    assert seen["split"] == "none" and seen["trained_on"] > 0 and seen["leaks"]["normal"] > 0


def test_without_keys_no_owner_is_recorded(service: Service) -> None:
    service.upload()
    assert service.blobs.paths("corpus_owners") == []


def test_a_limited_key_lists_corpora_by_the_time_of_its_own_upload(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    uploaded = {"old": 3000, "middle": 1000, "new": 2000}
    ids = {}
    for text, time_s in uploaded.items():
        with Upload(tmp_path, limit_bytes=100) as upload:
            upload.feed(text.encode())
            ids[text] = corpora.add(upload)[0].id
        blobs.write(f"corpus_owners/{ids[text]}/key-owl", str(time_s).encode())
    with Upload(tmp_path, limit_bytes=100) as upload:
        upload.feed(b"of another key")
        corpora.add(upload, name="fox-log")
    key = Key("owl", b"", frozenset({"train"}), models=("owl*",))
    access = Access(key, Models(blobs), Jobs(blobs), corpora)
    listed = [(corpus.id, corpus.created_at) for corpus in access.list_corpora()]
    assert listed == [(ids[text], uploaded[text]) for text in ("old", "new", "middle")]
    replace(access, key=replace(key, max_corpus_bytes=13)).check_corpus_quota()  # it has 12
    with pytest.raises(Forbidden, match="may store 12 bytes of corpora and uses 12"):
        replace(access, key=replace(key, max_corpus_bytes=12)).check_corpus_quota()
    everything = Access(None, Models(blobs), Jobs(blobs), corpora)
    assert len(everything.list_corpora()) == 4 and everything.limited_key is everything.key_name is None


def test_an_alert_takes_the_share_of_the_key_that_sent_its_first_line_and_does_not_name_it(
    tenants: Tenants,
) -> None:
    publish(tenants.service.models, name="owl")
    lines = {"lines": ["ab" * (1 + i % 9) for i in range(120)]}
    assert tenants.call("owl", "POST", "/v1/models/owl/calibrate", json=lines).status_code == 201
    plain = {"Content-Type": "text/plain"}
    sent = tenants.call("owl", "POST", "/v1/models/owl/ingest", content="ab→".encode(), headers=plain)
    assert sent.status_code == 202
    body = {"lines": ["→→"], "alerts": True}
    assert tenants.call("owl-twin", "POST", "/v1/models/owl/score", json=body).status_code == 200
    eventually(lambda: len(tenants.ids("owl", "/v1/models/owl/alerts")) == 2, what="both are recorded")
    redis = Redis.from_url(tenants.service.settings.redis_url, decode_responses=True)
    found = Alerts(redis, tenants.service.blobs).all("owl")
    assert {one.figures.template: one.figures.owner for one in found} == {"ab→": "owl", "→→": "owl-twin"}
    listed = tenants.call("owl", "GET", "/v1/models/owl/alerts").json()["data"]
    assert all("owner" not in one for one in listed)
