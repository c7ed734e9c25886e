import pytest

from tests.app.service import Service, error_of


def test_errors_of_unknown_routes_and_methods_have_their_type_and_header(service: Service) -> None:
    assert error_of(service.http.get("/nothing"), 404)["type"] == "not_found_error"
    answer = service.http.put("/v1/jobs")
    assert error_of(answer, 405)["type"] == "invalid_request_error" and answer.headers["allow"]


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
