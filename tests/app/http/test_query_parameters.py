import httpx
import openai
import pytest

from nextchar.app.http.query_parameters import OPENAI
from tests.app.fakes import publish
from tests.app.service import Service, error_of

BODIES = {"POST": {"prompt": "abc"}, "PATCH": {"name": "other"}}


@pytest.fixture
def http(service: Service) -> httpx.Client:
    publish(service.models)
    return service.http


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v1/corpora?limt=1", "limt"),
        ("GET", "/v1/jobs?limit=1&status=running", "status"),
        ("GET", "/v1/architectures?verbose", "verbose"),
        ("POST", "/v1/models/fake/complete?stream=1", "stream"),  # would otherwise take the fast path
        ("POST", "/v1/models/fake/ingest?lines=message", "lines"),  # its parameters are fields of a class
        ("PATCH", "/v1/models/fake@1?forced=true", "forced"),
        ("GET", "/v1/models/fake/report?client_version=1", "client_version"),
        ("GET", "/v1/corpora?" + "x" * 500 + "=1", "x" * 100),
    ],
)
def test_unknown_parameter_is_refused(http: httpx.Client, method: str, path: str, name: str) -> None:
    answer = http.request(method, path, json=BODIES.get(method))
    error = error_of(answer, 422)
    assert (error["code"], error["param"]) == ("unknown_field", name)
    assert http.get("/v1/models/fake@1").status_code == 200


def test_message_names_the_parameters_of_the_call(http: httpx.Client) -> None:
    assert error_of(http.get("/v1/corpora?limt=1"), 422)["message"] == (
        "limt: there is no such query parameter of this call, which has after, limit"
    )
    assert error_of(http.get("/v1/architectures?verbose"), 422)["message"].endswith("which has none")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/corpora?limit=1",
        "/v1/models/fake/report?format=json",
        "/v1/models/fake/alerts?severity=warning&label=none",
        "/healthz?from=balancer",
        "/metrics?format=text",
        "/v1/fine_tuning/jobs?limit=1&before=x",
        "/v1/files?trace=1",
        "/v1/models?limit=1&client_version=1",
        "/v1/models/fake?client_version=1",
    ],
)
def test_known_parameters_and_those_of_other_protocols_are_accepted(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


def test_openais_client_calls_models_with_its_default_query(http: httpx.Client) -> None:
    with openai.OpenAI(
        base_url=f"{http.base_url}/v1", api_key="any", max_retries=0, default_query={"client_version": "1"}
    ) as client:
        assert [model.id for model in client.models.list()] == ["fake@1"]
        assert client.models.retrieve("fake").id == "fake@1"
        assert client.models.delete("fake").deleted


def test_exempt_operations_exist(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"].values()
    assert {one["operationId"] for methods in paths for one in methods.values()} >= OPENAI
