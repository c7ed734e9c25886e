"""Redis keys as JSON, with which they move between servers of any version, Redis or Valkey.

Equal keys have equal JSON, but for the time to live. Bytes that are not UTF-8 are lone surrogates.
"""

from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.client import Pipeline

_READ: dict[str, Callable[[Pipeline, bytes], object]] = {
    "string": lambda pipe, key: pipe.get(key),
    "list": lambda pipe, key: pipe.lrange(key, 0, -1),
    "set": lambda pipe, key: pipe.smembers(key),
    "zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
    "hash": lambda pipe, key: pipe.hgetall(key),
    "stream": lambda pipe, key: pipe.xrange(key),
}


def read_key(redis: Redis, key: bytes) -> dict[str, Any] | None:
    """Return `type`, `value` and `ttl_ms` (0: it does not expire) of a key; None if there is none.

    Of a stream's groups only the names.
    """
    kind: str = to_json(redis.type(key))  # "none" if there is no key
    with redis.pipeline() as pipe:
        pipe.pttl(key)
        if kind in _READ:
            _READ[kind](pipe, key)
        if kind == "stream":
            pipe.xinfo_stream(key)
            pipe.xinfo_groups(key)
        ttl_ms, *found = pipe.execute(raise_on_error=False)
    if ttl_ms == -2:  # it has expired meanwhile
        return None
    if error := next((one for one in found if isinstance(one, Exception)), None):
        raise error
    if kind == "stream":
        entries, about, groups = found
        names = [group["name"] for group in groups]
        found = [{"entries": entries, "last_id": about["last-generated-id"], "groups": names}]
    return {"type": kind, "value": to_json(found[0]), "ttl_ms": max(0, ttl_ms)}


def write_key(pipe: Pipeline, key: bytes, stored: dict[str, Any]) -> None:
    """Queue the commands that replace a key by what `read_key` returned.

    Of a stream all entries are delivered again to its groups: ours delete what is acknowledged.
    """
    value = from_json(stored["value"])
    pipe.delete(key)
    match stored["type"]:
        case "string":
            pipe.set(key, value)
        case "list":
            pipe.rpush(key, *value)
        case "set":
            pipe.sadd(key, *value)
        case "zset":
            pipe.zadd(key, dict(value))
        case "hash":
            pipe.hset(key, mapping=value)
        case "stream":
            _write_stream(pipe, key, value[b"entries"], value[b"last_id"], value[b"groups"])
        case other:
            raise ValueError(f"no key has the type {other!r}")
    if stored["ttl_ms"]:
        pipe.pexpire(key, int(stored["ttl_ms"]))


def _write_stream(
    pipe: Pipeline, key: bytes, entries: list[Any], last_id: bytes, groups: list[bytes]
) -> None:
    for entry_id, fields in entries:
        pipe.xadd(key, fields, id=entry_id)
    for name in groups:
        pipe.xgroup_create(key, name, "0", mkstream=True)
    if last_id not in (b"0-0", *(entry_id for entry_id, _ in entries)):  # the newest entries were deleted
        pipe.xadd(key, {b"": b""}, id=last_id)
        pipe.xdel(key, last_id)


def to_json(value: Any) -> Any:
    """Return a value of redis-py with text instead of bytes, and lists instead of sets."""
    match value:
        case bytes():
            return value.decode("utf-8", "surrogateescape")
        case set():
            return sorted(map(to_json, value))
        case list() | tuple():
            return [to_json(one) for one in value]
        case dict():
            return {to_json(name): to_json(one) for name, one in value.items()}
        case _:
            return value


def from_json(value: Any) -> Any:
    """Return a value of `to_json` with bytes instead of text."""
    match value:
        case str():
            return value.encode("utf-8", "surrogateescape")
        case list():
            return [from_json(one) for one in value]
        case dict():
            return {from_json(name): from_json(one) for name, one in value.items()}
        case _:
            return value
