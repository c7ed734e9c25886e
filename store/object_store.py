"""Opens an object store by its URL, and says which of its errors what change of the configuration ends."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from nextchar.models.errors import Unavailable
from nextchar.store.blobs import as_domain_error

MAX_PAUSE_S = 5.0
"""The longest pause before a request is repeated."""

_MAX_RETRIES = 8
_ENVIRONMENTS = {"s3": "AWS", "s3a": "AWS", "gs": "GOOGLE", "az": "AZURE", "azure": "AZURE"} | {
    "abfs": "AZURE", "abfss": "AZURE"
}  # fmt: skip
SCHEMES = frozenset(_ENVIRONMENTS)
"""The schemes of URLs of object stores."""

# Options of connections that the environment may set, such as AWS_ALLOW_HTTP. obstore ignores the environment
# once it is given any option.
_CLIENT_OPTIONS = (
    "allow_http",
    "allow_invalid_certificates",
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
)


@dataclass(frozen=True)
class RetryLimits:
    """How long the store may be slow or broken before a call raises Unavailable, in seconds."""

    connect_s: float = 5.0
    stall_s: float = 20.0
    """Time without a byte from the store after which a request is repeated."""
    request_s: float = 45.0
    """Time after which a failed request is not repeated any more."""
    upload_s: float = 120.0
    """The same as `stall_s`, while a part of an upload is sent, or an object is completed or copied."""
    stream_s: float = 120.0
    """Time without a byte of a download, over all its requests, after which it fails."""


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
        "max_backoff": timedelta(seconds=MAX_PAUSE_S),
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


NO_CREATE_ONCE = (
    "the store ignores If-None-Match, so two processes could overwrite each other's records; use a store with"
    " conditional writes (Amazon S3, Google Cloud Storage, Azure Blob Storage, MinIO, Ceph and R2 have them)"
)
NO_COPY_ONCE = (
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
    r"<Code>(NotImplemented)<|status code: (501)|(does not support)": NO_CREATE_ONCE,
    r"status code: (40[13])": (
        "the credentials do not permit a call ({}); allow ListBucket on the bucket and GetObject, PutObject,"
        " DeleteObject and AbortMultipartUpload on its objects"
    ),
    r"Error performing \w+ (http://)\S+ in .* builder error": (
        "the endpoint has plain HTTP; use https://, or set AWS_ALLOW_HTTP=true in a network that you trust"
    ),
}
"""Patterns of obstore's errors that only a change of the configuration can end, with what to do."""


@contextlib.contextmanager
def domain_errors_of_store() -> Iterator[None]:
    """Raise errors of obstore and of local files as domain errors, except FileNotFoundError for an object."""
    try:
        yield
    except FileNotFoundError as error:
        if not is_missing_bucket(error):
            raise
        raise domain_error(error) from error
    except (BaseError, OSError) as error:
        raise domain_error(error) from error


def is_missing_bucket(error: Exception) -> bool:
    """Return whether obstore's error says that the bucket or container does not exist."""
    return error_code(error) in ("NoSuchBucket", "ContainerNotFound")


def error_code(error: Exception) -> str:
    """Return the code in the store's response, such as SlowDown; "" if there is none."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""


def domain_error(error: Exception) -> Exception:
    """Return the domain error for an error of obstore or of a local file."""
    if not isinstance(error, (BaseError, FileNotFoundError)):
        return as_domain_error(error)
    return unavailable(f"the storage does not work: {describe(error)}")


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


def refusal(text: str) -> str | None:
    """Return what to change, for an error that will not end by itself; None for others."""
    for pattern, sentence in _REFUSALS.items():
        if found := re.search(pattern, text):
            return sentence.format(next(filter(None, found.groups())))
    return None


def unavailable(message: str) -> Unavailable:
    """Return the error for a store that does not work now."""
    return Unavailable(message, code="storage_unavailable")
