import json

import pytest

from tests.app.service import Service, error_of


def test_errors_of_unknown_routes_and_methods_have_the_common_shape(service: Service) -> None:
    for path in ("/nothing", "/v1", "/v1/nothing", "/v1/jobs/x/y/z"):
        error = error_of(service.http.get(path), 404)
        assert (error["code"], error["type"]) == ("no_such_route", "not_found_error")
    answer = service.http.put("/v1/jobs")
    assert error_of(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["allow"]


def test_a_path_with_a_slash_at_its_end_is_unknown_and_not_redirected(service: Service) -> None:
    answer = service.http.get("/v1/models/", headers={"Host": "localhost"})
    assert error_of(answer, 404)["code"] and "location" not in answer.headers


@pytest.mark.parametrize("content", [b'{"corpus": ', b"[1, 2", b"{'corpus': 1}", b"\xff\xfe", b"[" * 100_000])
def test_malformed_json_is_400(service: Service, content: bytes) -> None:
    answer = service.http.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert error_of(answer, 400)["code"] in ("malformed_json", "malformed_body")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"7", b""])
def test_json_that_is_no_object_is_422(service: Service, body: bytes) -> None:
    answer = service.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert error_of(answer, 422)["param"] == "body"


def test_body_that_is_not_declared_as_json_is_415(service: Service) -> None:
    content = json.dumps({"corpus": "a", "name": "b"})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    error = error_of(service.http.post("/v1/jobs", content=content, headers=headers), 415)
    assert "application/json" in error["message"]


def test_several_wrong_fields_are_counted(service: Service) -> None:
    answer = service.http.post("/v1/jobs", json={"corpus": 1, "name": 2, "seed": "x"})
    assert "2 more fields are invalid" in error_of(answer, 422)["message"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"promt": "a"}, "prompt: is missing; promt: there is no such field"),
        ({"prompt": 3}, "prompt: must be a valid string"),
        ({"prompt": "a", "temperature": -1}, "temperature: must be at least 0, not -1"),
        ({"prompt": "a", "top_p": 2}, "top_p: must be at most 1, not 2"),
        (
            {"prompt": "a", "until": "soon"},
            "until: must be 'word', 'line' or 'confidence', not \"soon\"",
        ),
        ({"prompt": "a", "n": 10**40}, "n: must be at most 64"),
    ],
)
def test_a_message_says_what_a_field_must_be_and_what_it_is(
    service: Service, fields: dict[str, object], message: str
) -> None:
    answer = service.http.post("/v1/models/any/complete", json=fields)
    assert error_of(answer, 422)["message"] == message


def test_of_many_invalid_fields_the_first_is_reported_and_of_very_many_their_number(service: Service) -> None:
    def message(count: int) -> str:
        fields = {"corpus": "a", "name": "b", **{f"k{i}": 1 for i in range(count)}}
        return str(error_of(service.http.post("/v1/jobs", json=fields), 422)["message"])

    assert message(900).startswith("k0: there is no such field (899 more")
    assert message(60_000).startswith("the body has 60,000 errors")


@pytest.mark.parametrize(
    ("method", "path", "mib"),
    [("POST", "/v1/models/any/score", 33), ("POST", "/v1/jobs", 2), ("PATCH", "/v1/models/any", 2)],
)
@pytest.mark.parametrize("declared", [True, False])
def test_body_over_the_limit_is_413(
    service: Service, method: str, path: str, mib: int, declared: bool
) -> None:
    content = b" " * (mib << 20) if declared else iter([b" " * (1 << 20)] * mib)
    headers = {"content-type": "application/json"}
    answer = service.http.request(method, path, content=content, headers=headers)
    assert error_of(answer, 413)["code"] == "body_too_large"


def test_every_answer_has_a_request_id_and_a_valid_one_is_kept(service: Service) -> None:
    ids = {service.http.get("/healthz").headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    kept = service.http.get("/healthz", headers={"X-Request-Id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    replaced = service.http.get("/healthz", headers={"X-Request-Id": "a b<script>"})
    assert replaced.headers["x-request-id"] not in ("a b<script>", "")


def test_unexpected_error_is_a_500_without_internals(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: object) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr("nextchar.store.corpora.Corpora.all", broken)
    answer = service.http.get("/v1/corpora", headers={"X-Request-Id": "find-me"})
    error = error_of(answer, 500)
    assert (error["code"], error["type"]) == ("internal_error", "server_error")
    assert "secret" not in answer.text
    assert "find-me" in caplog.text and "secret of the house" in caplog.text


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"stop": ["x"] * 17}, "stop", "at most 16 items"),
        ({"stop": ["x" * 201]}, "stop.0", "at most 200 characters"),
        ({"stop": 5}, "stop", "a valid string or a valid list"),
    ],
)
def test_error_in_a_union_field_is_about_the_matching_member(
    service: Service, fields: dict[str, object], param: str, message: str
) -> None:
    error = error_of(service.http.post("/v1/models/any/complete", json={"prompt": "a", **fields}), 422)
    assert error["param"] == param
    assert message in error["message"] and "more" not in error["message"]


@pytest.mark.parametrize(
    ("name", "param"),
    [("a.b\n<script>", r"'a.b\n<script>'"), ("", "''"), ("ü ü", "'ü ü'"), ("x " * 100, repr("x " * 50))],
)
def test_unknown_field_with_any_name_is_named_in_the_error(service: Service, name: str, param: str) -> None:
    error = error_of(service.http.post("/v1/models/any/next", json={"prompt": "a", name: 1}), 422)
    assert (error["code"], error["param"]) == ("unknown_field", param)
    assert error["message"] == f"{param}: there is no such field"
