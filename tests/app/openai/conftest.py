from collections.abc import Iterator

import httpx
import openai
import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.service import Service, serving_real
from tests.models.runtime.networks import saved_model


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[httpx.Client]:
    """The API with the real runtime and the model `random`."""
    settings = ApiSettings(data_dir=tmp_path_factory.mktemp("api"), redis_url=redis_url)
    with serving_real(settings, saved_model()) as client:
        yield client


@pytest.fixture
def sdk(service: Service) -> Iterator[openai.OpenAI]:
    """OpenAI's own client for the service."""
    with openai.OpenAI(base_url=f"{service.http.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client
