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
from their records), rate limits, and the states of streams of lines. Keys of Redis are JSON, with which they
move between servers of any version, Redis or Valkey.
"""

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from redis import Redis
from redis.client import Pipeline

from nextchar.app.rooms import all_folders, all_rooms
from nextchar.models.errors import Conflict, InvalidInput
from nextchar.store import queue
from nextchar.store.blobs import Blobs
from nextchar.store.models import Models, model_id_in, tombstone_path

FORMAT_VERSION = 2

_ROOMS = all_rooms()
_FOLDERS = {folder.name: folder for folder in all_folders(_ROOMS)}
_CARDS = "model_cards"

FOLDERS = tuple(_FOLDERS)
"""All folders of the storage, in the order in which they are listed."""

_REDIS_KEYS = [room.redis_keys for room in _ROOMS]
REDIS_KEYS = tuple(pattern for keys in _REDIS_KEYS for pattern in keys.patterns)
_NOT_COPIED = tuple(key for keys in _REDIS_KEYS for key in keys.not_copied)
_MAY_EXIST = (*_NOT_COPIED, *(key for keys in _REDIS_KEYS for key in keys.made_at_start))

_RESTORING = "nextchar:restoring"  # the hash of the backup whose restoration has begun and has not ended

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


def connect(url: str, **options: Any) -> Redis:
    """Return a client whose values are text, as in a backup: bytes that are not UTF-8 are lone surrogates."""
    return queue.connect(url, decode_responses=True, encoding_errors="surrogateescape", **options)


def back_up(blobs: Blobs, redis: Redis, out: IO[bytes]) -> Totals:
    """Write a backup of a storage and a Redis (of `connect`) to a file.

    Raises redis.exceptions.RedisError, OSError, and as Blobs does; the file is then no backup.
    """
    totals = Totals()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        header = {"format_version": FORMAT_VERSION, "created_at": int(time.time())}
        _add(tar, totals, _HEADER, [json.dumps(header).encode()])
        for path, data in _objects(blobs, totals):
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                chunks = blobs.stream(path, _CHUNK_BYTES) if data is None else [data]
                totals.bytes += _add(tar, totals, _STORAGE + path, chunks)
                totals.objects += 1
        _add(tar, totals, _REDIS, _redis_lines(redis, totals))
        _add(tar, totals, _MANIFEST, [json.dumps(entry).encode() + b"\n" for entry in totals.entries])
    return totals


def restore(blobs: Blobs, redis: Redis, file: IO[bytes]) -> Totals:
    """Restore a backup into an empty storage and Redis. Can be repeated after it was interrupted.

    Nothing is written before the whole backup is checked.

    Raises:
        InvalidInput: not a backup, or damaged or incomplete (code `backup_invalid`), or of another format
            (`backup_format_unknown`).
        Conflict: the storage or Redis has something else (code `not_empty`); nothing was written.
    """
    entries = _verify(file, redis)
    digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    _check_empty(
        blobs, redis, {entry["path"] for entry in entries}, is_repeated=redis.get(_RESTORING) == digest
    )
    redis.set(_RESTORING, digest)
    totals = Totals()
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for entry in tar:
            if entry.name.startswith(_STORAGE):
                _write(blobs, entry.name.removeprefix(_STORAGE), _content(tar, entry))
                totals.objects += 1
                totals.bytes += entry.size
            elif entry.name == _REDIS:
                for stored in map(json.loads, _content(tar, entry)):
                    with redis.pipeline() as pipe:
                        write_key(pipe, stored["key"], stored)
                        pipe.execute()
                    totals.redis_keys += 1
    redis.delete(_RESTORING)
    return totals


def read_key(redis: Redis, key: str) -> dict[str, Any] | None:
    """Return `type`, `value` and `ttl_ms` (0: it does not expire) of a key; None if there is none.

    Of a stream's groups only the names. Equal keys have equal values.
    """
    kind = str(redis.type(key))  # "none" if there is no key
    with redis.pipeline() as pipe:
        pipe.pttl(key)
        if kind in _TYPES:
            _TYPES[kind][0](pipe, key)
        if kind == "stream":
            pipe.xinfo_stream(key)
            pipe.xinfo_groups(key)
        ttl_ms, *found = pipe.execute(raise_on_error=False)
    if ttl_ms == -2:  # it has expired meanwhile
        return None
    if error := next((one for one in found if isinstance(one, Exception)), None):
        raise error
    value = sorted(found[0]) if kind == "set" else found[0]
    if kind == "stream":
        groups = [group["name"] for group in found[2]]
        value = {"entries": value, "last_id": found[1]["last-generated-id"], "groups": groups}
    return {"type": kind, "value": value, "ttl_ms": max(0, ttl_ms)}


def write_key(pipe: Pipeline, key: str, stored: dict[str, Any]) -> None:
    """Queue the commands that replace a key by what `read_key` returned.

    Of a stream all entries are delivered again to its groups: ours delete what is acknowledged.
    """
    pipe.delete(key)
    _TYPES[stored["type"]][1](pipe, key, stored["value"])
    if stored["ttl_ms"]:
        pipe.pexpire(key, int(stored["ttl_ms"]))


def _write_stream(pipe: Pipeline, key: str, stream: dict[str, Any]) -> None:
    entries, last_id = stream["entries"], stream["last_id"]
    for entry_id, fields in entries:
        pipe.xadd(key, fields, id=entry_id)
    for name in stream["groups"]:
        pipe.xgroup_create(key, name, "0", mkstream=True)
    if last_id not in ("0-0", *(entry_id for entry_id, _ in entries)):  # the newest entries were deleted
        pipe.xadd(key, {"": ""}, id=last_id)
        pipe.xdel(key, last_id)


_Read = Callable[[Pipeline, str], object]
_Write = Callable[[Pipeline, str, Any], object]
_TYPES: dict[str, tuple[_Read, _Write]] = {
    "string": (Pipeline.get, Pipeline.set),
    "list": (lambda pipe, key: pipe.lrange(key, 0, -1), lambda pipe, key, value: pipe.rpush(key, *value)),
    "set": (Pipeline.smembers, lambda pipe, key, value: pipe.sadd(key, *value)),
    "zset": (
        lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
        lambda pipe, key, value: pipe.zadd(key, dict(value)),
    ),
    "hash": (Pipeline.hgetall, lambda pipe, key, value: pipe.hset(key, mapping=value)),
    "stream": (Pipeline.xrange, _write_stream),
}
"""How a key of each type is read and written."""


def _objects(blobs: Blobs, totals: Totals) -> Iterator[tuple[str, bytes | None]]:
    """Yield the objects to copy, last listed first, with their contents if they were read when listed."""
    read: dict[str, bytes] = {}
    listed = {f: _read_now(blobs, f, read) if _FOLDERS[f].moves else blobs.paths(f) for f in FOLDERS}
    for folder, paths in reversed(listed.items()):
        if _FOLDERS[folder].moves:
            yield from _read_before(folder, paths, blobs, read)
        elif choose := _FOLDERS[folder].choose:
            copied = {entry["path"].removeprefix(_STORAGE) for entry in totals.entries}
            yield from ((path, None) for path in choose(paths, blobs, copied))
        else:
            yield from ((path, None) for path in paths)


def _read_now(blobs: Blobs, folder: str, read: dict[str, bytes]) -> list[str]:
    before = set(read)
    for _ in range(2):  # one listing can miss a record that is being moved
        for path in blobs.paths(folder):
            if path not in read:
                with contextlib.suppress(FileNotFoundError):
                    read[path] = blobs.read(path)
    return sorted(read.keys() - before)


def _read_before(
    folder: str, paths: list[str], blobs: Blobs, read: dict[str, bytes]
) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and contents of the records of a folder that were read when they were listed.

    Of the cards that are gone since: a model that still has a card gets the one that was read, unless another
    of its cards is in the backup. For others there are tombstones, by which the sweep finds what belongs to
    the name.
    """
    present = set(blobs.paths(folder)) if folder == _CARDS else set(paths)
    yield from ((path, read[path]) for path in paths if path in present)
    live = [path for path in paths if path.endswith(".json") and tombstone_path(path) not in read]
    gone = [path for path in live if path not in present]
    copied = {model_id_in(read[path]) for path in live if path in present} if gone else set()
    for path in gone:
        card, tombstone = read[path], tombstone_path(path)
        model_id = model_id_in(card)
        if model_id and model_id not in copied and Models(blobs).has_card(model_id):
            copied.add(model_id)
            yield path, card
        else:
            yield tombstone, blobs.read(tombstone)


def _add(tar: tarfile.TarFile, totals: Totals, name: str, chunks: Iterable[bytes]) -> int:
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
                yield json.dumps({"key": key} | stored).encode() + b"\n"


def _verify(file: IO[bytes], redis: Redis) -> list[dict[str, Any]]:
    """Return the entries of a backup's manifest, if all is as it says. Raises InvalidInput."""
    found: list[dict[str, Any]] = []
    manifest: list[dict[str, Any]] | None = None
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.name == _MANIFEST:
                    manifest = [json.loads(line) for line in _content(tar, entry)]
                    continue
                digest = hashlib.file_digest(_content(tar, entry), "sha256")  # type: ignore[arg-type]
                found.append({"path": entry.name, "bytes": entry.size, "sha256": digest.hexdigest()})
                if len(found) == 1:
                    _check_header(entry.name, _content(tar, entry))
                if entry.name == _REDIS:
                    for stored in map(json.loads, _content(tar, entry)):
                        write_key(redis.pipeline(), stored["key"], stored)  # to see that it can be read
    except (tarfile.TarError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise _invalid(f"it cannot be read: {error}") from None
    if manifest is None:
        raise _invalid("its end is missing, so it is incomplete")
    if manifest != found:
        names = {one["path"] for one in manifest if one not in found}
        raise _invalid(f"{min(names, default='an entry')} is damaged or missing")
    for one in found:
        _check_path(one["path"])
    return found


def _check_path(name: str) -> None:
    first, *rest = name.split("/")
    is_object = f"{first}/" == _STORAGE and rest[0] in FOLDERS and ".." not in rest
    if not is_object and name not in (_HEADER, _REDIS):
        raise _invalid(f"it has an entry {name!r} that no backup has")


def _check_header(name: str, content: IO[bytes]) -> None:
    if name != _HEADER:
        raise _invalid("it has no header")
    version = json.load(content).get("format_version")
    if version != FORMAT_VERSION:
        message = f"the backup has format {version!r}, and this version of nextchar reads {FORMAT_VERSION}"
        raise InvalidInput(
            f"{message}; restore it with the version that wrote it", code="backup_format_unknown"
        )


def _check_empty(blobs: Blobs, redis: Redis, restored: set[str], *, is_repeated: bool) -> None:
    """Check that there is nothing but what an interrupted restoration of the same backup has left."""
    for path in (path for folder in FOLDERS for path in blobs.paths(folder)):
        if not is_repeated or _STORAGE + path not in restored:
            raise Conflict(
                f"the storage is not empty, it has {path}: restore into an empty one, and stop the"
                " service meanwhile",
                code="not_empty",
            )
    for key in (key for pattern in REDIS_KEYS for key in redis.scan_iter(match=pattern, count=1000)):
        if not is_repeated and key not in _MAY_EXIST:
            message = f"Redis is not empty, it has {key}: restore into an empty one"
            raise Conflict(message, code="not_empty")


def _write(blobs: Blobs, path: str, content: IO[bytes]) -> None:
    """Write an object, from a file, so that a large one is not in memory."""
    # Under this name the retention sweep deletes it, if this process is killed.
    with tempfile.NamedTemporaryFile(prefix="upload-") as spool:
        shutil.copyfileobj(content, spool, _CHUNK_BYTES)
        spool.flush()
        blobs.write(path, Path(spool.name))


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    if not entry.isfile():
        raise _invalid(f"it has an entry {entry.name!r} that is not a file")
    return tar.extractfile(entry) or io.BytesIO()


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(f"this is not a backup that can be restored: {problem}", code="backup_invalid")
