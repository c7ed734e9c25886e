"""Keys of Redis are the same on another server."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import nextchar.launcher.valkey
from nextchar.app.backup import connect, read_key, write_key
from nextchar.launcher.valkey import EmbeddedValkey, server_binary

VALUES = (b"", b"\x00\xff", "→".encode(), b"\xed\xb3\xbf", "\U0001f600".encode() + b"\x80", b"1.0")


def put_one_of_each_type(redis: Redis) -> None:
    for number, data in enumerate(VALUES):
        redis.set(b"string:" + data, data, px=3_600_000 if number == 0 else None)
    redis.rpush("list", *VALUES, *VALUES)
    redis.sadd("set", *VALUES, *(str(number) for number in range(600)))
    redis.zadd("zset", {data: number / 7 for number, data in enumerate(VALUES)} | {"least": float("-inf")})
    redis.hset(
        "hash", mapping=dict(zip(VALUES, VALUES, strict=True)) | {str(n).encode(): b"x" for n in range(600)}
    )
    redis.xadd("stream", {b"\xff": b"\x00", b"line": "→".encode()}, id="5-1")
    redis.xadd("stream", {b"meta": b"{}"}, id="7-0")
    redis.xadd("deleted", {b"line": b"x"}, id="9-9")
    redis.xdel("deleted", "9-9")
    redis.xgroup_create("deleted", "scoring", "0")
    redis.xgroup_create("new", b"\xff", "0", mkstream=True)
    redis.xgroup_create("stream", "scoring", "0")
    redis.xreadgroup("scoring", "one", {"stream": ">"}, count=1)


def read_all(redis: Redis) -> dict[str, dict[str, Any] | None]:
    return {key: read_key(redis, key) for key in sorted(redis.keys())}  # type: ignore[type-var, arg-type]


def copy(source: Redis, target: Redis) -> None:
    for key, stored in read_all(source).items():
        assert stored is not None
        with target.pipeline() as pipe:
            write_key(pipe, key, stored)
            pipe.execute()


def check(source: Redis, target: Redis) -> None:
    """Check that all keys are the same on another server."""
    found, expected = read_all(target), read_all(source)
    assert len(found) == len(VALUES) + 7
    for stored in (*found.values(), *expected.values()):
        assert stored is not None
        stored["ttl_ms"] = stored["ttl_ms"] > 3_500_000
    assert found == expected
    assert target.get(b"string:\x00\xff") == "\x00\udcff"
    assert target.zscore("zset", "least") == float("-inf")
    waiting: Any = target.xreadgroup("scoring", "two", {"stream": ">"})
    assert "meta" in str(waiting) and "line" in str(waiting), "also what was delivered and not acknowledged"
    assert target.xadd("deleted", {b"x": b"y"}, id="9-*") == "9-10", "no id is used twice"


@pytest.fixture
def other(clean_redis_url: str) -> Iterator[Redis]:
    """Another database of the same server."""
    with connect(clean_redis_url, db=1) as redis:
        yield redis


def test_keys_of_all_types_are_the_same_on_another_server(clean_redis_url: str, other: Redis) -> None:
    with connect(clean_redis_url) as redis:
        put_one_of_each_type(redis)
        copy(redis, other)
        check(redis, other)


@contextlib.contextmanager
def server(binary: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    monkeypatch.setattr(nextchar.launcher.valkey, "server_binary", lambda: binary)
    with EmbeddedValkey(folder) as embedded, connect(embedded.url) as redis:
        yield redis


@pytest.mark.parametrize("is_to_redis", [True, False])
def test_keys_move_between_redis_and_valkey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_to_redis: bool
) -> None:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("there is no redis-server on this machine")
    with monkeypatch.context() as without_path:
        without_path.setattr(nextchar.launcher.valkey.shutil, "which", lambda _: None)
        valkey = server_binary()
    first, second = (valkey, Path(found)) if is_to_redis else (Path(found), valkey)
    with (
        server(first, tmp_path / "first", monkeypatch) as source,
        server(second, tmp_path / "second", monkeypatch) as target,
    ):
        put_one_of_each_type(source)
        copy(source, target)
        check(source, target)
