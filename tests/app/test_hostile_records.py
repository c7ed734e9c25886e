"""Records that were replaced in the storage: a call gets a named error, or responds without the record."""

import json

import pytest

from nextchar.app.backup import FOLDERS
from nextchar.app.rooms import ApiSettings
from nextchar.store.blobs import MAX_RECORD_BYTES
from nextchar.store.open_blobs import open_blobs
from tests.app.fakes import publish
from tests.app.service import serving

CONTENTS: dict[str, bytes] = {
    "a list": b"[]",
    "wrong types": b'{"id": 1, "body": {}, "job": [], "filename": 3, "purpose": null, "format_version": "1"}',
    "nested too deeply": b'{"id":' * 100_000,
    "huge": b"[" + b" " * (MAX_RECORD_BYTES + 1) + b"]",
}
FILES = ("/text", "model.onnx", "model.keras")

READERS = {
    "audit": ["/v1/audit"],
    "aliases": ["/v1/models/fake@best", "/v1/models/fake/aliases", "/v1/models/fake/aliases/best"],
    "model_cards": [
        "/v1/models", "/v1/models/fake", "/v1/models/fake@1", "/v1/models/fake@best",
        "/v1/models/fake/report", "/v1/models/fake/alerts", "/v1/models/fake/files/model.onnx",
        "/v1/models/fake/export", "/props", "/metrics",
    ],
    "model_files": ["/v1/models/fake/calibrations", "/v1/models/fake/calibrations/usual"],
    "alert_suppressions": ["/v1/models/fake/suppressions", "/v1/models/fake/alerts"],
    "notification_targets": ["/v1/notification_targets"],
    "jobs": ["/v1/jobs", "/v1/jobs/{job}", "/v1/jobs/{job}/events", "/v1/fine_tuning/jobs", "/metrics"],
    "events": ["/v1/jobs/{job}/events", "/v1/fine_tuning/jobs/{job}/events"],
    "corpora": ["/v1/corpora", "/v1/corpora/fox", "/v1/corpora/fox/text", "/v1/files"],
    "corpus_names": ["/v1/corpora", "/v1/corpora/fox", "/v1/files"],
    "openai_files": ["/v1/files", "/v1/files/{file}"],
    "openai_jobs": ["/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/{tuning}"],
    "batches": ["/v1/batches", "/v1/batches/{batch}"],
    "idempotency": [],  # POST, below
}  # fmt: skip
JOB = {"corpus": "fox", "name": "fox", "preset": "tiny"}
ONCE = {"Idempotency-Key": "once"}


def populate(settings: ApiSettings) -> dict[str, str]:
    """Make a record of each kind; return the ids of what has one."""
    ids = {}
    with serving(settings) as service:
        publish(service.models)
        publish(service.models)
        http = service.http

        def call(method: str, path: str, *, status: int, **options: object) -> dict[str, str]:
            answer = http.request(method, path, **options)  # type: ignore[arg-type]
            assert answer.status_code == status, answer.text
            return dict(answer.json())

        call("POST", "/v1/corpora?name=fox", content=b"the quick brown fox\n" * 100, status=201)
        ids["job"] = call("POST", "/v1/jobs", json=JOB, headers=ONCE, status=202)["id"]
        service.event_log.write(ids["job"], [{"id": 1, "at": 1.0, "type": "message", "data": {"text": "a"}}])
        call("PUT", "/v1/models/fake/aliases/best", json={"version": 1}, status=200)
        lines = {"name": "usual", "lines": ["abc", "abd"] * 60}
        call("POST", "/v1/models/fake/calibrate", json=lines, status=201)
        suppression = {"template": "a<*>", "until": 32e9}
        call("POST", "/v1/models/fake/suppressions", json=suppression, status=201)
        target = {"kind": "webhook", "url": "https://93.184.215.14/"}
        call("POST", "/v1/notification_targets", json=target, status=201)
        request = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a"}}
        for purpose, content in (("batch", json.dumps(request).encode()), ("fine-tune", b"a fox\n" * 100)):
            files = {"file": ("a.jsonl" if purpose == "batch" else "a.txt", content)}
            ids["file"] = call("POST", "/v1/files", files=files, data={"purpose": purpose}, status=200)["id"]
            if purpose == "batch":
                batch = {
                    "input_file_id": ids["file"],
                    "endpoint": "/v1/completions",
                    "completion_window": "24h",
                }
                ids["batch"] = call("POST", "/v1/batches", json=batch, status=200)["id"]
        tuning = {"model": "tiny", "training_file": ids["file"]}
        ids["tuning"] = call("POST", "/v1/fine_tuning/jobs", json=tuning, status=200)["id"]
    return ids


@pytest.mark.parametrize(
    "what",
    [
        "wrong types",
        "nested too deeply",
        *(pytest.param(w, marks=pytest.mark.long) for w in ("a list", "huge")),
    ],
)
def test_replaced_record_gives_a_named_error(settings: ApiSettings, what: str) -> None:
    settings = settings.model_copy(update={"allow_private_targets": True})
    ids = populate(settings)
    blobs = open_blobs(settings.blobs_url)
    unexpected = []
    for folder in FOLDERS:
        paths = [path for path in blobs.paths(folder) if not path.endswith(FILES)]
        if not paths or folder not in READERS:
            continue
        before = {path: blobs.read(path) for path in paths}
        for path in paths:
            blobs.write(path, CONTENTS[what])
        with serving(settings) as service:  # has read nothing before
            answers = [service.http.get(url.format(**ids)) for url in READERS[folder]]
            if folder == "idempotency":
                answers.append(service.http.post("/v1/jobs", json=JOB, headers=ONCE))
                assert answers[0].json()["error"]["code"].startswith("idempotency_key_")
        unexpected += [
            (folder, str(answer.url), answer.text) for answer in answers if answer.status_code == 500
        ]
        for path, data in before.items():
            blobs.write(path, data)
    assert not unexpected


def test_every_folder_of_records_is_tried(settings: ApiSettings) -> None:
    ids = populate(settings.model_copy(update={"allow_private_targets": True}))
    assert ids
    blobs = open_blobs(settings.blobs_url)
    assert {folder for folder in READERS if not blobs.paths(folder)} == set()
