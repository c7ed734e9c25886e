"""Blobs in an object store by URL, through obstore: S3 and similar stores, or memory for tests.

What the store acknowledges is durable. Three things are added to obstore:

- `create` puts a nonce into the object's metadata. When the response to a write is lost, or a repeated write
  conflicts with itself, the nonce tells whether this call or another writer has created the object.
- `stream` resumes a download that breaks: by range from the last byte received, and only if the object still
  has the same ETag. obstore resumes too, but not after `request_s`, which a long download exceeds.
- Errors become one sentence with the store's error code.

Requests are repeated by obstore, with exponential backoff and jitter: after a lost connection, a stall, and
the status codes 429 and 5xx (S3 throttles with 503 SlowDown).
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
)
from obstore.store import MemoryStore, ObjectStore

from nextchar.models.errors import Unavailable
from nextchar.store.blobs import CHUNK_BYTES, Blobs, StorageRefused
from nextchar.store.object_store import (
    MAX_PAUSE_S,
    NO_COPY_ONCE,
    NO_CREATE_ONCE,
    RetryLimits,
    domain_error,
    domain_errors_of_store,
    is_missing_bucket,
    open_store,
    refusal,
    unavailable,
)

PART_BYTES = 5 << 20
"""Size of the parts of an upload; the smallest that S3 allows."""

PARALLEL_PARTS = 4
"""Parts that are sent at the same time. With `PART_BYTES` this bounds the memory of an upload."""

_MAX_PARTS = 9000  # S3 allows 10,000: larger files have larger parts
_NONCE = "nonce"  # the name of the metadata; Azure allows identifiers only
_CREATE_ATTEMPTS = 3


class ObjectBlobs(Blobs):
    """The objects in one store. Safe to use from several threads."""

    def __init__(self, store: ObjectStore, uploads: ObjectStore, limits: RetryLimits) -> None:
        """Use `store`, and for requests that take longer `uploads`, which is the same store."""
        self._store, self._uploads, self._limits = store, uploads, limits

    @classmethod
    def at(cls, url: str, limits: RetryLimits | None = None) -> Self:
        """Return the storage at `url`. Raises ValueError: obstore cannot use the URL or the environment."""
        limits = limits or RetryLimits()
        try:
            store = open_store(url, limits, os.environ)
            if isinstance(store, MemoryStore):
                return cls(store, store, limits)
            patient = replace(limits, stall_s=limits.upload_s, request_s=2 * limits.upload_s)
            return cls(store, open_store(url, patient, os.environ), limits)
        except BaseError as error:
            raise ValueError(str(error).splitlines()[0]) from None

    def read(self, path: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError."""
        return b"".join(self.stream(path))

    def stream(self, path: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the object in chunks of `chunk_bytes` or more. Raises FileNotFoundError at once."""
        with domain_errors_of_store():
            opened = obstore.get(self._store, path)
        return self._chunks(path, opened, chunk_bytes)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Return the object's bytes from `start` to before `end`, or to its end. Raises FileNotFoundError."""
        if end <= start:
            return b""
        with domain_errors_of_store():
            # Of a download that breaks, obstore repeats only the request: read it as a stream.
            options: Any = {"range": (start, end)}
            opened = obstore.get(self._store, path, options=options)
        return b"".join(self._chunks(path, opened, end - start))

    def write(self, path: str, data: bytes | Path) -> None:
        """Write `data`, or the contents of a local file, to `path`, replacing any object there.

        More than `PART_BYTES` are uploaded in parts. Of a file `PARALLEL_PARTS` are in memory.
        """
        with domain_errors_of_store():
            size = data.stat().st_size if isinstance(data, Path) else len(data)
            part_bytes = max(PART_BYTES, -(-size // _MAX_PARTS))
            upload = partial(obstore.put, self._uploads if size > PART_BYTES else self._store, path, data)
            # If the response to its last request was lost, the store may not know the upload any more.
            _retry_once(
                partial(upload, chunk_size=part_bytes, max_concurrency=PARALLEL_PARTS),
                is_retryable=lambda error: not is_missing_bucket(error),
            )

    def create(self, path: str, data: bytes) -> bool:
        """Write `data` to `path` unless an object exists there; return whether it was written."""
        nonce = secrets.token_hex(12)
        with domain_errors_of_store():
            for left in reversed(range(_CREATE_ATTEMPTS)):
                try:
                    obstore.put(self._store, path, data, mode="create", attributes={_NONCE: nonce})
                    return True
                except PermissionDeniedError:
                    raise
                except BaseError as error:
                    # A conflict can be with this call's own first request. A failed request may have written.
                    # And S3 answers 409 while another request changes the object: then there may be none.
                    writer = self._nonce_of(path, error)
                    if writer is not None:
                        return writer == nonce
                    if not left:
                        raise
        raise AssertionError

    def copy(self, source: str, path: str) -> bool:
        """Copy the object at `source` to `path` unless one exists there; return whether it was copied.

        The store copies; nothing is downloaded. If its response is lost, this may return False although the
        object was copied.
        """
        with domain_errors_of_store():
            try:
                copy = partial(obstore.copy, self._uploads, source, path, overwrite=False)
                _retry_once(copy, is_retryable=_is_retryable)
            except AlreadyExistsError:
                return False
        return True

    def exists(self, path: str) -> bool:
        """Return whether there is an object at `path`."""
        with contextlib.suppress(FileNotFoundError), domain_errors_of_store():
            obstore.head(self._store, path)
            return True
        return False

    def paths(self, prefix: str) -> list[str]:
        """Return the paths of all objects below `prefix`, sorted."""
        with domain_errors_of_store():
            return sorted(o["path"] for chunk in obstore.list(self._store, prefix) for o in chunk)

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix`, sorted."""
        with domain_errors_of_store():
            prefixes = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in prefixes)

    def delete(self, *paths: str) -> None:
        """Delete the objects that exist among `paths`."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError), domain_errors_of_store():
                _retry_once(partial(obstore.delete, self._store, path), is_retryable=_is_retryable)

    def check(self) -> None:
        """Check that the store can be used, and that it creates and copies an object only once.

        Raises:
            StorageRefused: it cannot be used as it is set up.
            Unavailable: it does not work now.
        """
        probe = f"health/probe-{secrets.token_hex(8)}"
        try:
            self.paths("health")
            if not self.create(probe, b"first") or self.create(probe, b"second"):
                raise StorageRefused(NO_CREATE_ONCE)
            if self.read(probe) != b"first":
                raise StorageRefused(NO_CREATE_ONCE)
            if not self.copy(probe, f"{probe}-copy") or self.copy(probe, f"{probe}-copy"):
                raise StorageRefused(NO_COPY_ONCE)
            self.delete(probe, f"{probe}-copy")
            if self.exists(probe):
                raise StorageRefused("the store keeps objects that are deleted; allow DeleteObject")
        except FileNotFoundError as error:
            raise StorageRefused("the store does not return what was just written to it") from error
        except Unavailable as error:
            reason = refusal(str(error.__cause__))
            raise (StorageRefused(reason) if reason else error) from error

    def _nonce_of(self, path: str, failure: BaseError) -> str | None:
        """Return the nonce of the object at `path`, "" if it has none; None: there is no object.

        Raises `failure` if the store does not answer this either.
        """
        try:
            attributes = obstore.get(self._store, path, options={"head": True}).attributes
        except FileNotFoundError:
            return None
        except BaseError:
            raise failure from None
        return str(attributes.get(_NONCE, ""))

    def _chunks(self, path: str, opened: Any, chunk_bytes: int) -> Iterator[bytes]:
        """Yield the bytes of an opened object; open it again where the download breaks."""
        etag, (offset, end) = opened.meta["e_tag"], opened.range
        chunks: Iterator[bytes] | None = opened.stream(min_chunk_size=chunk_bytes)
        failures, waiting_since_s = 0, time.monotonic()
        while offset < end:
            try:
                if chunks is None:
                    chunks = self._get_from(path, etag, offset).stream(min_chunk_size=chunk_bytes)
                chunk = bytes(next(chunks, b""))
                if not chunk:
                    raise GenericError("HTTP error: the download ended early")
            except (PreconditionError, FileNotFoundError) as error:
                raise unavailable(f"{path} was replaced or deleted while it was read; try again") from error
            except BaseError as error:
                if time.monotonic() - waiting_since_s > self._limits.stream_s:
                    raise domain_error(error) from error
                chunks, failures = None, failures + 1
                time.sleep(min(0.1 * 2**failures, MAX_PAUSE_S))
                continue
            yield chunk
            offset += len(chunk)
            failures, waiting_since_s = 0, time.monotonic()

    def _get_from(self, path: str, etag: str | None, offset: int) -> Any:
        """Open the same object at an offset. Raises PreconditionError if it was replaced."""
        return obstore.get(self._store, path, options={"range": {"offset": offset}, "if_match": etag})


def _retry_once(call: Callable[[], object], *, is_retryable: Callable[[Exception], bool]) -> None:
    """Retry once after an error of a request that obstore does not repeat, such as a deletion."""
    try:
        call()
    except (BaseError, FileNotFoundError) as error:
        if not is_retryable(error):
            raise
        call()


def _is_retryable(error: Exception) -> bool:
    return isinstance(error, GenericError)
