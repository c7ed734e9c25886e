"""Backup of a whole installation while it runs, and restoring it into an empty one.

A backup is one tar file:

    nextchar-backup.json    format version, time
    storage/<path>          the objects of the storage, what is referred to before what refers to it
    redis.jsonl             keys of Redis: alerts, notifications, ingested lines
    manifest.jsonl          path, size and SHA-256 of every entry before; last, so a torn backup has none

No lock is needed, because records are created once. The paths of what refers to others are listed first, so
all that a listed record refers to is listed after it. Contents are copied first: a record that is still
there when it is copied, last, was not deleted, so neither were its contents, which are deleted after it. What
is created during the backup is not in it.

A model that is renamed gets another card, and then the records of its alerts and ingest settings get other
paths. So these are read when they are listed. What has moved since is in the backup under its old path; where
the card is in it under another name, the retention sweep after the restoration moves the rest.

Not in it is what Redis can lose: the queue, leases and progress of jobs (the reconciler queues them again
from their records), rate limits, and the states of streams of lines.

Redis keys as JSON, with which they move between servers of any version, Redis or Valkey.

Equal keys have equal JSON, but for the time to live. Bytes that are not UTF-8 are lone surrogates.
"""

import base64
import contextlib
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from nextchar.app.rooms import all_folders, all_rooms
from nextchar.models.errors import Conflict, InvalidInput
from nextchar.store.blobs import Blobs
from nextchar.store.models import Models, model_id_in, tombstone_path

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
    if stored["type"] not in _WRITE:
        raise ValueError(f"no key has the type {stored['type']!r}")
    pipe.delete(key)
    _WRITE[stored["type"]](pipe, key, from_json(stored["value"]))
    if stored["ttl_ms"]:
        pipe.pexpire(key, int(stored["ttl_ms"]))


def _write_stream(pipe: Pipeline, key: bytes, stream: dict[bytes, Any]) -> None:
    entries, last_id = stream[b"entries"], stream[b"last_id"]
    for entry_id, fields in entries:
        pipe.xadd(key, fields, id=entry_id)
    for name in stream[b"groups"]:
        pipe.xgroup_create(key, name, "0", mkstream=True)
    if last_id not in (b"0-0", *(entry_id for entry_id, _ in entries)):  # the newest entries were deleted
        pipe.xadd(key, {b"": b""}, id=last_id)
        pipe.xdel(key, last_id)


_WRITE: dict[str, Callable[[Pipeline, bytes, Any], object]] = {
    "string": lambda pipe, key, value: pipe.set(key, value),
    "list": lambda pipe, key, value: pipe.rpush(key, *value),
    "set": lambda pipe, key, value: pipe.sadd(key, *value),
    "zset": lambda pipe, key, value: pipe.zadd(key, dict(value)),
    "hash": lambda pipe, key, value: pipe.hset(key, mapping=value),
    "stream": _write_stream,
}


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


FORMAT_VERSION = 2
_DUMPS_VERSION = 1  # keys of Redis as results of DUMP, which only a server at least as new can restore

_ROOMS = all_rooms()
_FOLDERS = {folder.name: folder for folder in all_folders(_ROOMS)}
_CARDS = "model_cards"

FOLDERS = tuple(_FOLDERS)
"""All folders of the storage, in the order in which they are listed."""

_REDIS_KEYS = [room.redis_keys for room in _ROOMS]
REDIS_KEYS = tuple(pattern for keys in _REDIS_KEYS for pattern in keys.patterns)
_NOT_COPIED = tuple(key for keys in _REDIS_KEYS for key in keys.not_copied)
_MAY_EXIST = (*_NOT_COPIED, *(key for keys in _REDIS_KEYS for key in keys.made_at_start))

_SCRATCH_KEY = b"nextchar:restore"

_HEADER, _REDIS, _MANIFEST = "nextchar-backup.json", "redis.jsonl", "manifest.jsonl"
_STORAGE = "storage/"
_MEMORY_BYTES = 1 << 22  # a larger object is spooled to a file
_CHUNK_BYTES = 1 << 20


@dataclass
class Totals:
    """Counts of a backup or a restore."""

    objects: int = 0
    bytes: int = 0
    redis_keys: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)


def back_up(blobs: Blobs, redis: Redis, out: IO[bytes]) -> Totals:
    """Write a backup of a storage and a Redis (without `decode_responses`) to a file.

    Raises redis.exceptions.RedisError, OSError, and as Blobs does; the file is then no backup.
    """
    totals = Totals()
    with (
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar,
        tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as file,
    ):

        def add(path: str, chunks: Iterator[bytes] | list[bytes]) -> None:
            totals.bytes += _add(tar, totals, _STORAGE + path, chunks)
            totals.objects += 1

        header = {"format_version": FORMAT_VERSION, "created_at": int(time.time())}
        _add(tar, totals, _HEADER, [json.dumps(header).encode()])
        read = _ReadRecords(file)
        for folder, paths in _listed(blobs, read):
            if _FOLDERS[folder].moves:
                for path, data in _read_before(folder, paths, blobs, read):
                    add(path, [data])
                continue
            choose = _FOLDERS[folder].choose
            copied = {entry["path"].removeprefix(_STORAGE) for entry in totals.entries} if choose else ()
            for path in choose(paths, blobs, copied) if choose else paths:
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    add(path, blobs.stream(path, _CHUNK_BYTES))
        _add(tar, totals, _REDIS, _redis_lines(redis, totals))
        manifest = [json.dumps(entry).encode() + b"\n" for entry in totals.entries]
        _add(tar, totals, _MANIFEST, manifest)
    return totals


def restore(blobs: Blobs, redis: Redis, file: IO[bytes]) -> Totals:
    """Restore a backup into an empty storage and Redis. Can be repeated after it was interrupted.

    Nothing is written before the whole backup is checked.

    Raises:
        InvalidInput: not a backup, or damaged or incomplete (code `backup_invalid`), of a newer format
            (`backup_format_unknown`), or of an older one that this Redis cannot read.
        Conflict: the storage or Redis has something else (code `not_empty`); nothing was written.
    """
    entries, keys = _verify(file, redis)
    _check_empty(blobs, redis, entries, keys)
    totals = Totals()
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for entry in tar:
            if entry.name.startswith(_STORAGE):
                _write(blobs, entry.name.removeprefix(_STORAGE), _content(tar, entry))
                totals.objects += 1
                totals.bytes += entry.size
            elif entry.name == _REDIS:
                for key, stored in _keys(_content(tar, entry), redis):
                    with redis.pipeline() as pipe:
                        write_key(pipe, key, stored)
                        pipe.execute()
                    totals.redis_keys += 1
    return totals


@dataclass
class _ReadRecords:
    """Records that were read when they were listed, one after the other in a temporary file."""

    file: IO[bytes]
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # where each begins and ends

    def add(self, blobs: Blobs, folder: str) -> list[str]:
        """Read the records of a folder; return their paths."""
        added = []
        for _ in range(2):  # one listing can miss a record that is being moved
            for path in blobs.paths(folder):
                if path not in self.places:
                    with contextlib.suppress(FileNotFoundError):
                        start = self.file.tell()
                        self.file.writelines(blobs.stream(path, _CHUNK_BYTES))
                        self.places[path] = start, self.file.tell()
                        added.append(path)
        return sorted(added)

    def content(self, path: str) -> bytes:
        start, end = self.places[path]
        self.file.seek(start)
        return self.file.read(end - start)


def _read_before(
    folder: str, paths: list[str], blobs: Blobs, read: _ReadRecords
) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and contents of the records of a folder that were read when they were listed.

    Of the cards that are gone since: a model that still has a card gets the one that was read, unless another
    of its cards is in the backup. For others there are tombstones, by which the sweep finds what belongs to
    the name.
    """
    present = set(blobs.paths(folder)) if folder == _CARDS else set(paths)
    yield from ((path, read.content(path)) for path in paths if path in present)
    live = [path for path in paths if path.endswith(".json") and tombstone_path(path) not in read.places]
    gone = [path for path in live if path not in present]
    copied = {model_id_in(read.content(path)) for path in live if path in present} if gone else set()
    for path in gone:
        card, tombstone = read.content(path), tombstone_path(path)
        model_id = model_id_in(card)
        if model_id and model_id not in copied and Models(blobs).has_card(model_id):
            copied.add(model_id)
            yield path, card
        else:
            yield tombstone, blobs.read(tombstone)


def _listed(blobs: Blobs, read: _ReadRecords) -> list[tuple[str, list[str]]]:
    """Return folders and the paths to copy, in the order of copying: the reverse of that of listing."""
    listed = {f: read.add(blobs, f) if _FOLDERS[f].moves else blobs.paths(f) for f in FOLDERS}
    everything = {path for paths in listed.values() for path in paths}

    def is_corpus(path: str) -> bool:
        return path.startswith("corpora/") and path.endswith("/corpus.json")

    def is_whole(path: str) -> bool:  # not if it was uploaded while its folder was listed
        return not is_corpus(path) or path.replace("/corpus.json", "/text") in everything

    # The text of a corpus before its record.
    return [
        (folder, [path for path in sorted(paths, key=is_corpus) if is_whole(path)])
        for folder, paths in reversed(listed.items())
    ]


def _add(tar: tarfile.TarFile, totals: Totals, name: str, chunks: Iterator[bytes] | list[bytes]) -> int:
    """Add an entry to the archive and note it for the manifest; return its size in bytes."""
    digest = hashlib.sha256()
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as spool:
        for chunk in chunks:
            digest.update(chunk)
            spool.write(chunk)
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime = spool.tell(), int(time.time())
        spool.seek(0)
        tar.addfile(entry, spool)
    totals.entries.append({"path": name, "bytes": entry.size, "sha256": digest.hexdigest()})
    return entry.size


def _redis_lines(redis: Redis, totals: Totals) -> Iterator[bytes]:
    for pattern in REDIS_KEYS:
        for key in redis.scan_iter(match=pattern, count=1000):
            if key not in _NOT_COPIED and (stored := read_key(redis, key)):
                totals.redis_keys += 1
                yield json.dumps({"key": to_json(key)} | stored).encode() + b"\n"


def _verify(file: IO[bytes], redis: Redis) -> tuple[set[str], dict[bytes, bytes]]:
    """Return the names of a backup's entries, and the digests of its keys in Redis. Raises InvalidInput."""
    found: list[dict[str, Any]] = []
    manifest: list[dict[str, Any]] | None = None
    keys: dict[bytes, bytes] = {}
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.name == _MANIFEST:
                    manifest = [json.loads(line) for line in _content(tar, entry)]
                    continue
                digest = hashlib.file_digest(_content(tar, entry), "sha256")  # type: ignore[arg-type]
                found.append({"path": entry.name, "bytes": entry.size, "sha256": digest.hexdigest()})
                if entry.name == _REDIS:
                    for key, stored in _keys(_content(tar, entry), redis):
                        write_key(redis.pipeline(), key, stored)  # to see that it can be read
                        keys[key] = _digest(stored)
                if len(found) == 1:
                    _check_header(tar, entry)
    except (tarfile.TarError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise _invalid(f"it cannot be read: {error}") from None
    if manifest is None:
        raise _invalid("its end is missing, so it is incomplete")
    if manifest != found:
        names = {one["path"] for one in manifest if one not in found}
        raise _invalid(f"{min(names, default='an entry')} is damaged or missing")
    for one in found:
        _check_path(one["path"])
    return {one["path"] for one in found}, keys


def _check_header(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
    if entry.name != _HEADER:
        raise _invalid("it has no header")
    version = json.load(_content(tar, entry)).get("format_version")
    if version not in (_DUMPS_VERSION, FORMAT_VERSION):
        raise InvalidInput(
            f"the backup has format {version!r} and this program reads {FORMAT_VERSION}; upgrade nextchar",
            code="backup_format_unknown",
        )


def _check_path(name: str) -> None:
    path = name.removeprefix(_STORAGE)
    is_ours = name in (_HEADER, _REDIS) or (path != name and path.split("/")[0] in FOLDERS)
    if not is_ours or ".." in path.split("/"):
        raise _invalid(f"it has an entry {name!r} that no backup has")


def _check_empty(blobs: Blobs, redis: Redis, restored: set[str], keys: dict[bytes, bytes]) -> None:
    """Check that there is nothing but what an interrupted restoration of the same backup has left."""
    for folder in FOLDERS:
        for path in blobs.paths(folder):
            if _STORAGE + path not in restored:
                raise Conflict(
                    f"the storage is not empty, it has {path}: restore into an empty one, and stop the"
                    " service meanwhile",
                    code="not_empty",
                )
    for pattern in REDIS_KEYS:
        for key in redis.scan_iter(match=pattern, count=1000):
            if key in _MAY_EXIST or (stored := read_key(redis, key)) is None:
                continue
            if keys.get(key) == _digest(stored):
                continue
            raise Conflict(
                f"Redis is not empty, it has {key.decode(errors='replace')}: restore into an empty one",
                code="not_empty",
            )


def _digest(stored: dict[str, Any]) -> bytes:
    """Return the hash of a key's type and value, but not of its time to live."""
    value = json.dumps([stored["type"], stored["value"]], sort_keys=True)
    return hashlib.sha256(value.encode()).digest()


def _write(blobs: Blobs, path: str, content: IO[bytes]) -> None:
    """Write an object, from a file, so that a large one is not in memory."""
    # Under this name the retention sweep deletes it, if this process is killed.
    with tempfile.NamedTemporaryFile(prefix="upload-") as spool:
        shutil.copyfileobj(content, spool, _CHUNK_BYTES)
        spool.flush()
        blobs.write(path, Path(spool.name))


def _keys(lines: IO[bytes], redis: Redis) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield Redis keys, each with its stored value."""
    for line in lines:
        stored = json.loads(line)
        if "dump" in stored:
            yield base64.b64decode(stored["key"]), _from_dump(redis, stored)
        else:
            yield from_json(stored["key"]), stored


def _from_dump(redis: Redis, stored: dict[str, Any]) -> dict[str, Any]:
    """Return the stored value of a key of an old backup."""
    try:
        redis.restore(_SCRATCH_KEY, 60_000, base64.b64decode(stored["dump"]), replace=True)
    except ResponseError as error:
        raise _invalid(
            "it is of an older version, whose Redis keys this Redis cannot read; restore it with the Redis or"
            f" Valkey that it is of, and back that up again ({error})"
        ) from None
    found = read_key(redis, _SCRATCH_KEY) or {}
    redis.delete(_SCRATCH_KEY)
    return found | {"ttl_ms": stored["ttl_ms"]}


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    if not entry.isfile():
        raise _invalid(f"it has an entry {entry.name!r} that is not a file")
    return tar.extractfile(entry) or io.BytesIO()


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(f"this is not a backup that can be restored: {problem}", code="backup_invalid")
