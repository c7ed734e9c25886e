"""Blobs in an object store by URL, through obstore: S3 and similar stores, or memory for tests.

What the store acknowledges is durable. Three things are added to obstore:

- `create` puts a nonce into the object's metadata. When the answer to a write is lost, or a repeated write
  conflicts with itself, the nonce tells whether this call or another writer has created the object.
- `stream` resumes a download that breaks: by range from the last byte received, and only if the object still
  has the same ETag. obstore resumes too, but not after `request_s`, which a long download exceeds.
- Errors become one sentence with the store's error code.

Requests are repeated by obstore, with exponential backoff and jitter: after a lost connection, a stall, and
the status codes 429 and 5xx (S3 throttles with 503 SlowDown).
"""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
)
from obstore.store import MemoryStore, ObjectStore, from_url

from models.errors import Unavailable
from store.blobs import Blobs, StorageRefused, as_domain_error

PART_BYTES = 5 << 20
"""Size of the parts of an upload; the smallest that S3 allows."""

PARALLEL_PARTS = 4
"""Parts that are sent at the same time. With `PART_BYTES` this bounds the memory of an upload."""

_MAX_PARTS = 9000  # S3 allows 10,000: larger files have larger parts
_NONCE = "nonce"  # the name of the metadata; Azure allows identifiers only
_CREATE_ATTEMPTS = 3
_MAX_PAUSE_S = 5.0
_MAX_RETRIES = 8
_ENVIRONMENTS = {"s3": "AWS", "s3a": "AWS", "gs": "GOOGLE", "az": "AZURE", "azure": "AZURE"} | {
    "abfs": "AZURE", "abfss": "AZURE"
}  # fmt: skip
SCHEMES = frozenset(_ENVIRONMENTS)
"""Of URLs of object stores."""

# Options of connections that the environment may set, such as AWS_ALLOW_HTTP. obstore ignores the environment
# once it is given any option.
_CLIENT_OPTIONS = (
    "allow_http",
    "allow_invalid_certificates",
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
)


_NO_CREATE_ONCE = (
    "the store ignores If-None-Match, so two processes could overwrite each other's records; use a store with"
    " conditional writes (Amazon S3, Google Cloud Storage, Azure Blob Storage, MinIO, Ceph and R2 have them)"
)
_NO_COPY_ONCE = (
    "the store overwrites an object when it copies; use one that completes uploads in parts conditionally, or"
    " set AWS_COPY_IF_NOT_EXISTS to what it offers (R2: header:cf-copy-destination-if-none-match:*)"
)
_REFUSALS = {
    r"(latest/(?:api/token|meta-data)|metadata\.google\.internal|metadata/identity)": (
        "there are no credentials: not in the environment, and this machine has no role; set them (for S3:"
        " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
    ),
    r"<Code>(NoSuchBucket|ContainerNotFound)<": "the bucket does not exist; create it, or correct the URL",
    r"<Code>(InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|AuthenticationFailed)<": (
        "the store does not accept the credentials ({}); correct them (for S3: AWS_ACCESS_KEY_ID,"
        " AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN)"
    ),
    r"<Code>(RequestTimeTooSkewed)<": "the clock of this machine is wrong; set it (for example with NTP)",
    r"<Code>(AuthorizationHeaderMalformed|PermanentRedirect)<|(redirect) without LOCATION": (
        "the bucket is in another region ({}); set AWS_REGION to its region"
    ),
    r"<Code>(NotImplemented)<|status code: (501)|(does not support)": _NO_CREATE_ONCE,
    r"status code: (40[13])": (
        "the credentials do not permit a call ({}); allow ListBucket on the bucket and GetObject, PutObject,"
        " DeleteObject and AbortMultipartUpload on its objects"
    ),
    r"Error performing \w+ (http://)\S+ in .* builder error": (
        "the endpoint has plain HTTP; use https://, or set AWS_ALLOW_HTTP=true in a network that you trust"
    ),
}
"""Patterns of obstore's errors that only a change of the configuration can end, with what to do."""


@dataclass(frozen=True)
class RetryLimits:
    """How long the store may be slow or broken before a call raises Unavailable, in seconds."""

    connect_s: float = 5.0
    stall_s: float = 20.0
    """Without a byte from the store; then the request is repeated."""
    request_s: float = 45.0
    """After this a failed request is not repeated."""
    upload_s: float = 120.0
    """Without an answer while a part of an upload is sent, or an object is made of its parts or copied."""
    stream_s: float = 120.0
    """Without a byte of a download, over all its requests."""


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

    def stream(self, path: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
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
            # If the answer to its last request was lost, the store may not know the upload any more.
            _twice(
                partial(upload, chunk_size=part_bytes, max_concurrency=PARALLEL_PARTS),
                is_repeatable=lambda error: not is_missing_bucket(error),
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

        The store copies; nothing is downloaded. If its answer is lost, this may return False although the
        object was copied.
        """
        with domain_errors_of_store():
            try:
                copy = partial(obstore.copy, self._uploads, source, path, overwrite=False)
                _twice(copy, is_repeatable=_may_be_repeated)
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
                _twice(partial(obstore.delete, self._store, path), is_repeatable=_may_be_repeated)

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
                raise StorageRefused(_NO_CREATE_ONCE)
            if self.read(probe) != b"first":
                raise StorageRefused(_NO_CREATE_ONCE)
            if not self.copy(probe, f"{probe}-copy") or self.copy(probe, f"{probe}-copy"):
                raise StorageRefused(_NO_COPY_ONCE)
            self.delete(probe, f"{probe}-copy")
            if self.exists(probe):
                raise StorageRefused("the store keeps objects that are deleted; allow DeleteObject")
        except FileNotFoundError as error:
            raise StorageRefused("the store does not return what was just written to it") from error
        except Unavailable as error:
            reason = _refusal(str(error.__cause__))
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
                    chunks = self._rest(path, etag, offset).stream(min_chunk_size=chunk_bytes)
                chunk = bytes(next(chunks, b""))
                if not chunk:
                    raise GenericError("HTTP error: the download ended early")
            except (PreconditionError, FileNotFoundError) as error:
                raise _unavailable(f"{path} was replaced or deleted while it was read; try again") from error
            except BaseError as error:
                if time.monotonic() - waiting_since_s > self._limits.stream_s:
                    raise _domain_error(error) from error
                chunks, failures = None, failures + 1
                time.sleep(min(0.1 * 2**failures, _MAX_PAUSE_S))
                continue
            yield chunk
            offset += len(chunk)
            failures, waiting_since_s = 0, time.monotonic()

    def _rest(self, path: str, etag: str | None, offset: int) -> Any:
        """Open the same object at an offset. Raises PreconditionError if it was replaced."""
        return obstore.get(self._store, path, options={"range": {"offset": offset}, "if_match": etag})


def _twice(call: Callable[[], object], *, is_repeatable: Callable[[Exception], bool]) -> None:
    """Call once more after an error of a request that obstore does not repeat, such as a deletion."""
    try:
        call()
    except (BaseError, FileNotFoundError) as error:
        if not is_repeatable(error):
            raise
        call()


def _may_be_repeated(error: Exception) -> bool:
    return isinstance(error, GenericError)


def open_store(
    url: str, limits: RetryLimits | None = None, environment: Mapping[str, str] | None = None
) -> ObjectStore:
    """Open the store at a URL, with the options and credentials of the environment.

    Raises ValueError: obstore cannot use the URL or the environment.
    """
    limits = limits or RetryLimits()
    environment = os.environ if environment is None else environment
    provider = _ENVIRONMENTS.get(urlsplit(url).scheme)
    if provider is None:  # memory
        return from_url(url)
    client = {
        "connect_timeout": timedelta(seconds=limits.connect_s),
        "read_timeout": timedelta(seconds=limits.stall_s),
        "timeout": timedelta(days=1),  # of a whole request: a large download may take long
    }
    given = {o: environment[v] for o in _CLIENT_OPTIONS if (v := f"{provider}_{o.upper()}") in environment}
    backoff = {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=_MAX_PAUSE_S),
        "base": 2,
    }
    retries = {
        "backoff": backoff,
        "max_retries": _MAX_RETRIES,
        "retry_timeout": timedelta(seconds=limits.request_s),
    }
    options: dict[str, Any] = {"client_options": client | given, "retry_config": retries}
    if provider == "AWS":
        options["disable_bulk_delete"] = True  # not every store has bulk deletion
        if "AWS_COPY_IF_NOT_EXISTS" not in environment:
            options["copy_if_not_exists"] = "multipart"  # the conditional copy of S3 itself
    return from_url(url, **options)


@contextlib.contextmanager
def domain_errors_of_store() -> Iterator[None]:
    """Raise errors of obstore and of local files as domain errors, except FileNotFoundError for an object."""
    try:
        yield
    except FileNotFoundError as error:
        if not is_missing_bucket(error):
            raise
        raise _domain_error(error) from error
    except (BaseError, OSError) as error:
        raise _domain_error(error) from error


def is_missing_bucket(error: Exception) -> bool:
    """Return whether obstore's error says that the bucket or container does not exist."""
    return error_code(error) in ("NoSuchBucket", "ContainerNotFound")


def error_code(error: Exception) -> str:
    """Return the code in the store's answer, such as SlowDown; "" if there is none."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""


def _domain_error(error: Exception) -> Exception:
    if not isinstance(error, (BaseError, FileNotFoundError)):
        return as_domain_error(error)
    return _unavailable(f"the storage does not work: {describe(error)}")


def describe(error: Exception) -> str:
    """Return obstore's error in a few words, without addresses."""
    text = str(error)
    status = re.search(r"status code: (\d+[A-Za-z ]*)", text)
    if status:
        return f"it answers {status[1].strip()} {error_code(error)}".strip()
    if "kind: Timeout" in text or "TimedOut" in text:
        return "it does not answer in time"
    if "kind: Connect," in text:
        return "it cannot be reached"
    if "HTTP error" in text:
        return "the connection broke"
    return re.sub(r"https?://\S+", "…", text.splitlines()[0]) if text else type(error).__name__


def _refusal(text: str) -> str | None:
    """Return what to change, for an error that will not end by itself; None for others."""
    for pattern, sentence in _REFUSALS.items():
        if found := re.search(pattern, text):
            return sentence.format(next(filter(None, found.groups())))
    return None


def _unavailable(message: str) -> Unavailable:
    return Unavailable(message, code="storage_unavailable")
