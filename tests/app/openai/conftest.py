from collections.abc import Iterator

import openai
import pytest

from tests.app.service import Service


@pytest.fixture
def sdk(service: Service) -> Iterator[openai.OpenAI]:
    """OpenAI's own client for the service."""
    with openai.OpenAI(base_url=f"{service.http.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client
