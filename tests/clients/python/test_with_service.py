"""Every method of both clients against the API itself, with an engine whose answers are obvious."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nextchar import (
    AsyncClient,
    Client,
    Conflict,
    Forbidden,
    InvalidRequest,
    NextcharError,
    NotFound,
    RateLimited,
    Timeout,
    TrainingFailed,
    Unauthorized,
    scored_lines,
)
from nextchar.app.access.keys import new_key
from nextchar.app.rooms import ApiSettings
from nextchar.models.text.events import Opener, events_of
from nextchar.store.jobs import EarlyModel, JobStatus
from tests.app.fakes import ENDLESS, FULL, publish
from tests.app.service import TEXT, Service, serving
from tests.clients.python.blocking import KINDS, connected
from tests.models.runtime.networks import saved_model
from tests.waiting import eventually

_LINES = [("ab" * (1 + i % 9) + "→" * (i % 11 == 0)) for i in range(120)]


@pytest.fixture
def service(tmp_path: Path, clean_redis_url: str) -> Iterator[Service]:
    with serving(ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)) as running:
        yield running


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, service: Service) -> Iterator[Any]:
    with connected(request.param, str(service.http.base_url)) as client:
        yield client


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        found = inspect.getmembers(client, inspect.isfunction)
        return {n: list(inspect.signature(f).parameters) for n, f in found if not n.startswith("_")}

    ours = methods(Client)
    theirs = methods(AsyncClient)
    theirs["close"] = theirs.pop("aclose")
    assert ours == theirs
    for name in ours:
        assert getattr(Client, name).__doc__, f"{name} has no docstring"


def test_aliases(client: Any, service: Service) -> None:
    for _ in range(2):
        publish(service.models)
    made = client.set_alias("fake", "champion", 1)
    assert list(client.aliases("fake")) == [made]
    client.set_alias("fake", "champion", 2, max_bits_per_character=2.5, max_regression_bits=0.0)
    assert client.complete("fake@champion", "a")["model"] == "fake@2"
    assert [m["aliases"] for m in client.models()] == [["champion"], []]
    with pytest.raises(Conflict, match="no calibration"):
        client.set_alias("fake", "champion", 1, calibration=True)
    with pytest.raises(Conflict, match="has the alias champion"):
        client.delete_model("fake@2")
    assert client.roll_back_alias("fake", "champion")["version"] == 1
    assert [one["version"] for one in client.alias("fake", "champion")["history"]] == [1, 2, 1]
    assert client.delete_alias("fake", "champion")["version"] is None
    client.set_alias("fake", "champion", 2)
    assert client.delete_model("fake@champion", force=True)["id"] == "fake@2"


def test_notification_targets(client: Any, service: Service) -> None:
    made = client.add_notification_target("webhook", "https://93.184.216.34/", events=["job.failed"])
    assert made["secret"].startswith("whsec_")
    assert [one["id"] for one in client.notification_targets()] == [made["id"]]
    assert list(client.deliveries(made["id"])) == list(client.deliveries(made["id"], status="waiting")) == []
    client.delete_notification_target(made["id"])
    with pytest.raises(NotFound, match="no notification target"):
        client.test_notification_target(made["id"])


def test_alerts(client: Any, service: Service) -> None:
    publish(service.models)
    client.calibrate("fake", ["ab" * (1 + i % 9) for i in range(120)])
    [line] = client.score("fake", ["ab →→→b 17"], alerts=True, source="web-1")["lines"]
    list(client.score_lines("fake", ["ab →→→b 18"], alerts=True))
    [alert] = client.alerts("fake", state="open", since=1.0)
    assert (alert["id"], alert["count"], alert["sources"]) == (line["alert_id"], 2, ["web-1"])
    assert client.alert("fake", alert["id"]) == alert
    assert client.acknowledge_alert("fake", alert["id"])["state"] == "acknowledged"
    assert client.label_alert("fake", alert["id"], "incident")["label"] == "incident"
    made = client.suppress_alert("fake", alert["id"], until=4e9)
    assert list(client.suppressions("fake")) == [made]
    assert client.suppress("fake", template="*", until=4e9)["warning"]
    client.delete_suppression("fake", made["id"])
    assert [one["template"] for one in client.suppressions("fake")] == ["*"]
    assert client.export_alerts("fake", "csv").startswith(b"id,model,")
    with pytest.raises(NotFound, match="has no alert"):
        client.label_alert("fake", "alert_000000000000", "normal")


def test_corpora(client: Any, service: Service) -> None:
    corpus = client.add_corpus(TEXT, name="fox")
    raw = client.add_corpus(b"\xff\x00" * 200, encoding="bytes")
    assert [found["id"] for found in client.corpora()] == [raw["id"], corpus["id"]]
    assert client.corpus("fox")["characters"] == len(TEXT)
    assert client.corpus_text("fox") == TEXT
    assert client.corpus_text(raw["id"]) == "\xff\x00" * 200
    assert b"".join(client.download_corpus(raw["id"])) == b"\xff\x00" * 200
    assert client.set_corpus_kind("fox", "records")["kind"] == client.corpus("fox")["kind"] == "records"
    assert client.add_corpus(TEXT, kind="text")["kind"] == "text"
    assert client.delete_corpus("fox")["deleted"]
    with pytest.raises(NotFound) as caught:
        client.corpus("fox")
    assert caught.value.code == "corpus_not_found"
    assert caught.value.request_id
    with pytest.raises(InvalidRequest):
        client.add_corpus(b"\xff")


def test_training(client: Any, service: Service) -> None:
    card = publish(service.models)
    job = client.train(text=TEXT, name="fox", preset="tiny", seconds=5)
    assert [found["id"] for found in client.jobs()] == [job.id]
    assert client.job(job.id)["training"]["budget"]["seconds"] == 5
    running = service.jobs.move(service.jobs.get(job.id), JobStatus.RUNNING, attempt=1)
    service.live.set_progress(job.id, {"step": 3, "attempt": 1})
    service.live.add_events(job.id, [{"id": 1, "at": 1.5, "type": "metrics", "data": {"step": 3}}])

    with pytest.raises(Timeout):
        job.ready(timeout_s=0.1)
    running = service.jobs.move(running, JobStatus.RUNNING, early=EarlyModel(attempt=1, since=2.0))
    assert job.ready() == f"fox@{job.id}"

    def finish(progress: Any) -> None:
        seen.append(progress)
        if len(seen) == 1:
            service.jobs.move(running, JobStatus.SUCCEEDED, model=card.reference)

    seen: list[Any] = []
    assert job.wait(on_progress=finish) == job.ready() == card.reference
    assert seen[0]["step"] == 3
    assert [event["data"] for event in job] == [{"step": 3}]


def test_jobs_are_paused_resumed_and_cancelled(client: Any, service: Service) -> None:
    job = client.train(client.add_corpus(TEXT)["id"], name="fox")
    assert job.pause()["status"] == "paused"
    with pytest.raises(TrainingFailed):
        job.wait()
    assert job.resume()["status"] == "queued"
    assert job.cancel()["status"] == "cancelled"
    with pytest.raises(TrainingFailed) as caught:
        job.wait()
    assert caught.value.code == "cancelled"
    with pytest.raises(Conflict):
        client.resume_job(job.id)
    same = [
        client.create_job({"corpus": job.record["corpus"], "name": "b"}, idempotency_key="k") for _ in "12"
    ]
    assert same[0]["id"] == same[1]["id"]


def test_models(client: Any, service: Service) -> None:
    publish(service.models)
    publish(service.models)
    assert [found["id"] for found in client.models()] == ["fake@2", "fake@1"]
    assert client.damaged_models() == []
    assert client.model("fake")["version"] == 2
    assert client.report("fake")["validation_bits_per_character"] == 2.0
    assert b"".join(client.download("fake", "model.onnx")) == b"onnx of fake"
    assert client.rename_model("fake@1", "other")["id"] == "other@1"
    assert client.delete_model("fake")["id"] == "fake@2"
    with pytest.raises(NotFound):
        client.report("fake")
    with pytest.raises(NotFound):
        list(client.report_file("other", "html"))


def test_models_are_exported_and_imported(client: Any, service: Service, tmp_path: Path) -> None:
    publish(service.models)
    (tmp_path / "fake.tar").write_bytes(b"".join(client.export_model("fake")))
    assert client.import_model(tmp_path / "fake.tar")["id"] == "fake@2"
    with (tmp_path / "fake.tar").open("rb") as archive:
        assert client.import_model(archive, name="other")["id"] == "other@1"
    assert b"".join(client.download("other", "model.onnx")) == b"onnx of fake"
    with pytest.raises(InvalidRequest) as caught:
        client.import_model(b"no archive")
    assert caught.value.code == "model_archive_invalid"


def test_completions(client: Any, service: Service) -> None:
    publish(service.models)
    answer = client.complete("fake", "ab", max_characters=5, n=2, seed=1)
    assert [choice["text"] for choice in answer["completions"]] == ["abcde", "abcde"]
    events = list(client.stream("fake", "ab", max_characters=5))
    assert "".join(e["data"]["text"] for e in events if e["event"] == "piece") == "abcde"
    assert events[-1]["data"]["model"] == "fake@1"
    assert client.next("fake", "ab", top=2)["candidates"][0] == {"character": "a", "probability": 1.0}
    with pytest.raises(RateLimited) as caught:
        client.complete("fake", FULL)
    assert caught.value.retry_after_s == 2
    with pytest.raises(InvalidRequest) as refused:
        client.complete("fake", "ab", max_characters=0)
    assert refused.value.param == "max_characters"


def test_leaving_a_stream_stops_the_work_on_the_server(client: Any, service: Service) -> None:
    publish(service.models)
    events = client.stream("fake", ENDLESS)
    assert next(events)["event"] == "piece"
    events.close()
    eventually(service.engines[0].tickets[0].cancelled.is_set, what="the completion is cancelled")


def test_scores_calibrations_and_evaluations(client: Any, service: Service) -> None:
    publish(service.models)
    assert client.score("fake", "ab→")["bits"] == [1.0, 1.0, 8.0]
    made = client.calibrate("fake", iter(_LINES), name="host1")
    assert (made["name"], made["lines"]) == ("host1", 120)
    assert [found["name"] for found in client.calibrations("fake")] == ["host1"]
    options = {"calibration": "host1", "false_alarms": 0.02}
    scores = client.score("fake", ["abab", "ab→→→→ab"], detail="line", **options)
    assert [line["anomalous"] for line in scores["lines"]] == [False, True]
    lines = ["abab", "ab→→→→ab", b"ab\xff\xff\xff\xff", "abab\n"] * 50
    found = list(client.score_lines("fake", lines, **options))
    assert [line["anomalous"] for line in found] == [False, True, True, False] * 50
    assert [line["line"] for line in found] == list(range(1, 201))
    assert found[1]["spans"][0]["start"] == 2
    assert found[2]["not_utf8"] == {"offset": 2, "byte": "0xff"}
    flagged = client.score_lines("fake", iter(lines), only="anomalous", context="stream", **options)
    assert [line["line"] for line in flagged] == [i for i in range(1, 201) if i % 4 in (2, 3)]
    records = list(client.score_stream("fake", [b"abab"], **options))
    assert [record["object"] for record in records] == ["score.start", "score.line", "score.end"]
    assert client.forget_stream("fake", "s") is None
    labels = [False] * 120 + [True] * 40
    judged = client.evaluate("fake", _LINES + [f"ab→→→→{'ab' * i}" for i in range(40)], labels)
    assert judged["model_score"]["auroc"] > judged["baselines"]["length"]["auroc"]
    assert client.delete_calibration("fake", "host1") is None
    assert client.calibrations("fake") == []


def test_events_of_several_lines_are_not_divided_by_batches(
    client: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = Opener(frozenset({""}))
    lines = [line for i in range(20) for line in (f"09:00:{i:02} ab", *["  cd"] * (i % 7))]
    publish(service.models, lines=lines, opener=opener)
    monkeypatch.setattr(scored_lines, "_MIN_BATCH_BYTES", 500)
    monkeypatch.setattr(scored_lines, "_MAX_BATCH_BYTES", 500)
    found = list(client.score_lines("fake", lines))
    assert [line["text"] for line in found] == list(events_of(opener, lines))
    assert [line["lines"] for line in found] == [1 + i % 7 for i in range(20)]
    assert [line["line"] for line in found] == [1 + sum(1 + j % 7 for j in range(i)) for i in range(20)]


def test_lines_are_ingested_and_flagged_ones_followed(client: Any, service: Service) -> None:
    publish(service.models)
    client.calibrate("fake", _LINES)
    answer = client.ingest("fake", ["ab", b"\xff\xfe", "→→→→→→→→"], source="web-1", false_alarms=0.05)
    assert (answer["accepted"], answer["is_repeated"]) == (3, False)
    for is_repeated in (False, True):
        answer = client.ingest("fake", b"ab\n", idempotency_key="once")
        assert answer["is_repeated"] == is_repeated
    eventually(lambda: client.ingest_status("fake")["scored"] == 4)
    flagged = client.flagged_lines("fake", after=0)
    line = next(iter(flagged))
    flagged.close()
    assert (line["id"], line["source"]) == (1, "web-1") and line["p_value"] <= 0.05
    assert client.drop_ingested("fake") == 0
    with pytest.raises(InvalidRequest, match="calibration"):
        client.ingest("fake", ["ab"], false_alarms=1e-6)


def test_events_of_suggestions_add_up(client: Any, service: Service) -> None:
    publish(service.models)
    shown = [{"type": "shown", "suggestion_id": str(n), "model": "fake@1"} for n in range(1_500)]
    assert client.add_events(iter(shown)) == {"accepted": 1_500, "duplicates": 0, "rejected": 0}
    accepted = {"id": "1", "type": "accepted", "suggestion_id": "1", "model": "fake@1", "characters": 4}
    assert client.add_events([accepted, accepted])["duplicates"] == 1
    total = client.acceptance("fake", days=1)["total"]
    assert (total["shown"], total["accepted"], total["characters_saved"]) == (1_500, 1, 4)
    assert list(client.kept_texts("fake", client_id="ann")) == []
    assert client.delete_kept_texts("fake", client_id="ann") == 0


def test_counts_are_added_to_lines(client: Any, service: Service) -> None:
    model = saved_model(name="cities", kind="records", lines={"london": 1})
    service.models.publish(model.card, {name: model.file(name) for name in model.card.files})
    assert client.put_line_counts("cities", {"London": 2, "Oslo": 1})["lines"] == 2
    more = [{"text": "Rome", "count": 9.0, "at": 0.0}]
    added = client.put_line_counts("cities", more, source="visits", half_life_days=None, add_lines=False)
    assert (added["source"], added["half_life_days"], added["adds_lines"]) == ("visits", None, False)
    found = client.line_counts("cities", limit=1)
    assert found["has_more"] and found["lines"] == [{"text": "Rome", "count": 9.0}]
    assert (
        client.delete_line_counts("cities", source="visits") == 1 and client.delete_line_counts("cities") == 2
    )


def test_an_iterator_is_for_score_lines(client: Any) -> None:
    with pytest.raises(NextcharError, match="score_lines"):
        client.score("fake", iter(["a"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_sent_and_its_limits_are_exceptions(kind: str, tmp_path: Path, clean_redis_url: str) -> None:
    secret, line = new_key("typist", scopes="complete")
    (tmp_path / "keys").write_text(line)
    settings = ApiSettings(
        data_dir=tmp_path, redis_url=clean_redis_url, port=0, api_keys_file=tmp_path / "keys"
    )
    with serving(settings) as service:
        publish(service.models)
        url = str(service.http.base_url)
        with connected(kind, url, api_key=f" {secret}\n") as client:
            assert client.complete("fake", "a")["model"] == "fake@1"
            with pytest.raises(Forbidden):
                client.delete_model("fake@1")
        with connected(kind, url) as client, pytest.raises(Unauthorized) as caught:
            list(client.models())
    assert caught.value.code == "api_key_missing"
