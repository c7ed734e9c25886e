import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from nextchar.app.access.keys import new_key
from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, bearer_of, error_of, serving, serving_with_keys, until

KEYS = {
    "reader": new_key("reader", scopes="read"),
    "typist": new_key("typist", scopes="complete"),
    "agent": new_key("agent", scopes="ingest"),
    "host": new_key("host", scopes="ingest", models="fake*"),
    "trainer": new_key("trainer", scopes="train"),
    "owner": new_key("owner", scopes="admin"),
    "site": new_key("site", scopes="complete,train", models="fake*"),
    "team": new_key("team", scopes="admin", models="fake*"),
    "slow": new_key("slow", scopes="read", rate="3/minute"),
}


@pytest.fixture
def guarded(settings: ApiSettings) -> Iterator[Service]:
    """The API with keys, and a model."""
    with serving_with_keys(settings, KEYS) as running:
        publish(running.models)
        yield running


as_ = bearer_of(KEYS)


def test_pages_and_health_checks_need_no_key_and_everything_else_does(guarded: Service) -> None:
    for path in ("/healthz", "/readyz", "/health", "/openapi.json"):
        assert guarded.http.get(path).status_code == 200, path
    for path in ("/v1/models", "/v1/jobs", "/metrics", "/props", "/v1/nothing"):
        answer = guarded.http.get(path)
        assert error_of(answer, 401)["code"] == "api_key_missing"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.http.options("/v1/models").status_code != 401


def test_who_scores_cannot_read_alerts_and_who_reads_cannot_judge_them(guarded: Service) -> None:
    alerts, label = "/v1/models/fake/alerts", "/v1/models/fake/alerts/alert_000000000000/label"
    suppressions = "/v1/models/fake/suppressions"
    for name, reads, judges in (("reader", 200, 403), ("typist", 403, 403), ("trainer", 200, 404)):
        assert guarded.http.get(alerts, headers=as_(name)).status_code == reads
        assert guarded.http.get(suppressions, headers=as_(name)).status_code == reads
        answer = guarded.http.post(label, json={"label": "normal"}, headers=as_(name))
        assert answer.status_code == judges
        deleted = guarded.http.delete(f"{suppressions}/suppression_000000000000", headers=as_(name))
        assert deleted.status_code == judges
    scored = guarded.http.post(
        "/v1/models/fake/score", json={"lines": ["a"], "alerts": True}, headers=as_("typist")
    )
    assert scored.status_code == 200


def test_who_completes_does_not_move_aliases(guarded: Service) -> None:
    aliases, body = "/v1/models/fake/aliases", {"version": 1}
    for name, reads in (("reader", 200), ("typist", 403), ("agent", 403), ("trainer", 403), ("team", 200)):
        assert guarded.http.get(aliases, headers=as_(name)).status_code == reads
    for name in ("reader", "typist", "trainer"):
        for answer in (
            guarded.http.put(f"{aliases}/champion", json=body, headers=as_(name)),
            guarded.http.post(f"{aliases}/champion/rollback", headers=as_(name)),
            guarded.http.delete(f"{aliases}/champion", headers=as_(name)),
        ):
            assert error_of(answer, 403)["code"] == "scope_missing"
    moved = guarded.http.put(f"{aliases}/champion", json=body, headers=as_("team"))
    assert moved.json()["moved_by"] == "team"
    publish(guarded.models, name="other")
    for path in ("/v1/models/other/aliases/champion", "/v1/models/other/aliases"):
        answer = guarded.http.put(path, json=body, headers=as_("team"))
        assert error_of(answer, 403)["code"] == "model_not_permitted"


def test_a_key_of_one_alias_follows_it(settings: ApiSettings, tmp_path: Path) -> None:
    secret, line = new_key("shop", scopes="complete", models="fake@champion")
    (tmp_path / "keys").write_text(line)
    with serving(settings.model_copy(update={"api_keys_file": tmp_path / "keys"})) as running:
        for _ in range(2):
            publish(running.models)
        headers = {"Authorization": f"Bearer {secret}"}
        for version in (1, 2):
            aliases = running.models.aliases
            aliases.move("fake", "champion", version, after=aliases.newest("fake", "champion"))

            def version_that_answers() -> str:
                body = {"prompt": "a"}
                path = "/v1/models/fake@champion/complete"
                return str(running.http.post(path, json=body, headers=headers).json()["model"])

            until(lambda version=version: version_that_answers() == f"fake@{version}")  # type: ignore[misc]
        for model in ("fake", "fake@1", "fake@2", "fake@other"):
            answer = running.http.post(f"/v1/models/{model}/complete", json={"prompt": "a"}, headers=headers)
            assert error_of(answer, 403)["code"] == "model_not_permitted"


def test_only_an_unlimited_admin_lists_the_keys_without_their_secrets(guarded: Service) -> None:
    def answer(name: str) -> httpx.Response:
        return guarded.http.get("/v1/keys", headers={"X-API-Key": KEYS[name][0]})

    assert [answer(name).status_code for name in ("owner", "trainer", "team")] == [200, 403, 403]
    listed = {key["id"]: key for key in answer("owner").json()["data"]}
    assert list(listed) == list(KEYS)
    assert listed["site"] == {
        "id": "site",
        "object": "api_key",
        "scopes": ["complete", "train"],
        "models": ["fake*"],
        "limits": {},
    }
    assert listed["slow"]["limits"] == {"rate": "3 per 1 minute"}


def test_only_an_unlimited_admin_has_notification_targets(guarded: Service) -> None:
    path = "/v1/notification_targets"
    body = {"kind": "webhook", "url": "https://93.184.216.34/"}
    for name, status in (("reader", 403), ("trainer", 403), ("team", 403), ("owner", 200)):
        assert guarded.http.get(path, headers=as_(name)).status_code == status
        made = guarded.http.post(path, json=body, headers=as_(name))
        assert made.status_code == (201 if status == 200 else 403)


def test_who_suppressed_an_alert_is_recorded(guarded: Service) -> None:
    body = {"template": "*", "until": time.time() + 60}
    made = guarded.http.post("/v1/models/fake/suppressions", json=body, headers=as_("site"))
    assert made.json()["created_by"] == "site"
    other = guarded.http.get("/v1/models/other/suppressions", headers=as_("site"))
    assert error_of(other, 403)["code"] == "model_not_permitted"


def test_a_key_for_one_version_cannot_read_alerts_of_all(settings: ApiSettings, tmp_path: Path) -> None:
    secret, line = new_key("one", scopes="read", models="fake@1")
    file = tmp_path / "keys"
    file.write_text(line)
    with serving(settings.model_copy(update={"api_keys_file": file})) as running:
        publish(running.models)
        answer = running.http.get("/v1/models/fake@1/alerts", headers={"Authorization": f"Bearer {secret}"})
    assert error_of(answer, 403)["code"] == "model_not_permitted"


def test_limited_key_cannot_rename_a_model_to_a_name_outside_its_patterns(guarded: Service) -> None:
    refused = guarded.http.patch("/v1/models/fake", json={"name": "prod"}, headers=as_("team"))
    assert error_of(refused, 403)["code"] == "model_not_permitted"
    assert guarded.http.get("/v1/models/fake@1", headers=as_("team")).status_code == 200
    renamed = guarded.http.patch("/v1/models/fake", json={"name": "fake-2"}, headers=as_("team"))
    assert renamed.json()["id"] == "fake-2@1"


def test_no_other_spelling_of_a_path_avoids_the_key(guarded: Service) -> None:
    secret = ("/v1/audit", "/v1/notification_targets")
    for path, methods in guarded.http.get("/openapi.json").json()["paths"].items():
        if path in ("/healthz", "/readyz", "/health"):
            continue
        for ending in ("%0A", "/", "%2F"):
            url = re.sub(r"\{\w+\}", "fake", path) + ending
            for method in map(str.upper, methods):
                assert guarded.http.request(method, url).status_code in (401, 404), (method, url)
            if path in secret:
                assert guarded.http.get(url, headers=as_("reader")).status_code in (403, 404), url


def test_path_that_ends_with_a_line_feed_does_not_exist(guarded: Service) -> None:
    for path in ("/metrics", "/v1/audit", "/healthz", "/v1/models/fake/streams/a"):
        answer = guarded.http.get(f"{path}%0A", headers=as_("owner"))
        assert error_of(answer, 404)["code"] == "no_such_route"


def test_key_is_accepted_in_either_header_and_a_wrong_one_is_not_taken_for_none(guarded: Service) -> None:
    def answer(headers: dict[str, str], path: str = "/v1/models") -> httpx.Response:
        return guarded.http.get(path, headers=headers)

    secret = KEYS["reader"][0]
    for headers in (
        {"X-API-Key": secret},
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"bearer  {secret}"},
        {"Authorization": "Basic abc", "X-API-Key": secret},
    ):
        assert answer(headers).status_code == 200
    for headers in ({"Authorization": "Bearer nck_guess"}, {"X-API-Key": secret[:-1]}):
        assert error_of(answer(headers), 401)["code"] == "api_key_wrong"
    for value in ("Basic abc", "Bearer", "", secret):
        assert error_of(answer({"Authorization": value, "Cookie": secret}), 401)["code"] == "api_key_missing"
    assert answer(as_("owner"), "/metrics").status_code == 200
    assert error_of(answer(as_("team"), "/metrics"), 403)["code"] == "model_not_permitted"


COMPLETION = {"prompt": "abc", "max_characters": 3}


SCOPES = [
    ("reader", "GET", "/v1/jobs", 200),
    ("reader", "GET", "/metrics", 200),
    ("reader", "POST", "/v1/models/fake/complete", 403),
    ("reader", "DELETE", "/v1/models/fake", 403),
    ("typist", "POST", "/v1/models/fake/complete", 200),
    ("typist", "GET", "/v1/models", 200),
    ("typist", "GET", "/v1/corpora", 403),
    ("typist", "GET", "/v1/models/fake/files/model.onnx", 403),
    ("trainer", "GET", "/v1/corpora", 200),
    ("trainer", "POST", "/v1/models/fake/complete", 403),
    ("trainer", "DELETE", "/v1/models/fake", 403),
    ("trainer", "DELETE", "/v1/models/fake/calibrations/none", 404),
    ("trainer", "DELETE", "/v1/models/fake/streams/none", 403),
    ("trainer", "DELETE", "/v1/models/fake/aliases/none", 403),
    ("typist", "DELETE", "/v1/models/fake/streams/of/none", 204),
    ("typist", "DELETE", "/v1/models/fake/calibrations/none", 403),
    ("agent", "POST", "/v1/models/fake/ingest", 422),  # permitted, but the model has no calibration
    ("agent", "GET", "/v1/models/fake/ingest", 403),
    ("agent", "DELETE", "/v1/models/fake/ingest", 403),
    ("trainer", "PUT", "/v1/models/fake/ingest/nothing", 403),
    ("agent", "POST", "/v1/models/fake/complete", 403),
    ("typist", "POST", "/v1/models/fake/ingest", 403),
    ("typist", "POST", "/v1/logs", 403),
    ("owner", "POST", "/v1/models/fake/complete", 200),
    ("owner", "GET", "/v1/fine_tuning/jobs", 200),
    ("owner", "DELETE", "/v1/models/fake", 200),
]


def test_scopes_decide_what_a_key_may_do(guarded: Service) -> None:
    for name, method, path, status in SCOPES:
        body = COMPLETION if method == "POST" else None
        answer = guarded.http.request(method, path, headers=as_(name), json=body)
        assert answer.status_code == status, (name, method, path, answer.text)
        if status == 403:
            assert error_of(answer, 403)["code"] == "scope_missing"


def test_patterns_apply_to_models_in_paths_and_in_bodies(guarded: Service) -> None:
    publish(guarded.models, name="secret")
    corpus = guarded.http.post("/v1/corpora", content=b"abc\n" * 100, headers=as_("site")).json()["id"]
    completion = {"prompt": "a", "max_tokens": 2}
    calls = [
        ("/v1/models/{}/complete", COMPLETION, "fake", "secret"),
        ("/v1/completions", completion, "fake@1", "secret@1"),
        ("/v1/models/{}/v1/completions", completion, "fake", "secret"),
        ("/infill?model={}", {"prompt": "a"}, "fake", "secret"),
        ("/tokenize?model={}", {"prompt": "a"}, "fake", "secret"),
        ("/v1/fine_tuning/jobs", {"training_file": corpus, "model": "tiny"}, "fake2", "mine"),
        ("/v1/jobs", {"corpus": corpus, "preset": "tiny"}, "fake2", "mine"),
    ]
    for path, body, mine, others in calls:
        for name, is_allowed in ((mine, True), (others, False)):
            field = {"/v1/fine_tuning/jobs": "suffix", "/v1/jobs": "name"}.get(path, "model")
            named = body if "{}" in path else body | {field: name}
            answer = guarded.http.post(path.format(name), json=named, headers=as_("site"))
            if is_allowed:
                assert answer.status_code in (200, 202), (path, answer.text)
            else:
                assert error_of(answer, 403)["code"] == "model_not_permitted", path


def test_patterns_apply_to_the_models_of_otlp_records(guarded: Service) -> None:
    publish(guarded.models, name="other")
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "ab"}}]}]}]}
    for model, status, code in (("other", 403, "model_not_permitted"), ("fake", 422, "no_calibration")):
        answer = guarded.http.post("/v1/logs", params={"model": model}, headers=as_("host"), json=logs)
        assert error_of(answer, status)["code"] == code


def test_revoked_key_is_refused_and_a_bad_file_is_counted(guarded: Service) -> None:
    file = guarded.settings.api_keys_file
    assert file is not None
    assert "nextchar_api_keys_file_errors 0.0" in guarded.http.get("/metrics", headers=as_("reader")).text
    without_owner = [line for name, (_, line) in KEYS.items() if name != "owner"]
    file.write_text("".join(["a typo\n", *without_owner]))
    errors = "nextchar_api_keys_file_errors 1.0"
    until(lambda: errors in guarded.http.get("/metrics", headers=as_("reader")).text)
    assert "keys" in [one["part"] for one in guarded.http.get("/readyz").json()["degraded"]]
    assert guarded.http.get("/v1/models", headers=as_("owner")).status_code == 200
    file.write_text("".join(without_owner))
    until(lambda: guarded.http.get("/v1/models", headers=as_("owner")).status_code == 401)
    file.unlink()
    until(lambda: guarded.http.get("/v1/models", headers=as_("reader")).status_code == 401)
    for headers in ({}, as_("owner"), as_("typist")):
        assert error_of(guarded.http.get("/v1/models", headers=headers), 401)
    assert "keys" in [one["part"] for one in guarded.http.get("/readyz").json()["degraded"]]
    assert guarded.http.get("/healthz").status_code == 200


def test_nothing_of_a_refused_body_is_read(guarded: Service) -> None:
    answer = guarded.http.post("/v1/models/fake/complete", content=b"{" * 1000)
    assert error_of(answer, 401)["code"] == "api_key_missing"


def test_rate_limit_spans_calls_and_answers_with_retry_after(guarded: Service) -> None:
    answers = [guarded.http.get("/v1/models", headers=as_("slow")) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert error_of(answers[-1], 429)["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert guarded.http.get("/v1/models", headers=as_("reader")).status_code == 200
    metrics = guarded.http.get("/metrics", headers=as_("reader")).text
    assert 'nextchar_rate_limited_requests_total{key="slow"} 1.0' in metrics


def test_without_redis_no_request_is_limited(
    settings: ApiSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(KEYS["slow"][1])
    away = {"api_keys_file": file, "redis_url": f"unix://{tmp_path}/no-such-socket"}
    with serving(settings.model_copy(update=away)) as running:
        answers = [running.http.get("/v1/models", headers=as_("slow")).status_code for _ in range(5)]
    assert answers == [200] * 5
    assert caplog.text.count("API keys are not limited") == 1


def test_while_redis_refuses_writes_no_request_is_limited(guarded: Service) -> None:
    with Redis.from_url(guarded.settings.redis_url) as redis:
        redis.config_set("maxmemory", "1")
        try:
            answers = [guarded.http.get("/v1/models", headers=as_("slow")).status_code for _ in range(5)]
        finally:
            redis.config_set("maxmemory", "0")
    assert answers == [200] * 5


def test_without_a_key_file_no_key_is_required(service: Service) -> None:
    publish(service.models)
    assert service.http.post("/v1/models/fake/complete", json=COMPLETION).status_code == 200
