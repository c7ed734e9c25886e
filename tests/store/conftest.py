"""Storages of every kind and a Redis, for the tests of what is kept in them."""

from collections.abc import Iterator

import pytest
from redis import Redis

from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs
from tests.s3_server import S3Server


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a prefix in an empty bucket; the environment has its credentials."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.new_bucket()}/some/prefix"


@pytest.fixture(params=["file", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    """An empty storage: in a folder, in memory, in S3."""
    if request.param == "s3":
        return open_blobs(request.getfixturevalue("s3_url"))
    if request.param == "memory":
        return open_blobs("memory:///")
    return open_blobs(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture
def redis(clean_redis_url: str) -> Iterator[Redis]:
    """An empty Redis, on a connection that decodes responses."""
    with Redis.from_url(clean_redis_url, decode_responses=True) as connection:
        yield connection
