"""The application behind a real server, on a real Redis and a folder of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.service import MAX_CORPUS_BYTES, TRAINING_MEMORY_BYTES, Service, serving


@pytest.fixture
def settings(tmp_path: Path, clean_redis_url: str) -> ApiSettings:
    """Settings with small limits, in a fresh folder, on an empty Redis."""
    return ApiSettings(
        data_dir=tmp_path,
        redis_url=clean_redis_url,
        port=0,
        max_corpus_bytes=MAX_CORPUS_BYTES,
        training_memory_bytes=TRAINING_MEMORY_BYTES,
    )


@pytest.fixture
def service(settings: ApiSettings) -> Iterator[Service]:
    """The API as production runs it, but for the engine, which is a fake."""
    with serving(settings) as running:
        yield running
