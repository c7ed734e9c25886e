import httpx
import openai
import pytest

from nextchar.app.http.rules import OPENAI
from tests.app.fakes import publish
from tests.app.service import Service

BODIES = {"POST": {"prompt": "abc"}, "PATCH": {"name": "other"}}


@pytest.fixture
def http(service: Service) -> httpx.Client:
    publish(service.models)
    return service.http


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
