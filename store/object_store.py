"""Opens an object store by its URL, with the options and credentials of the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from obstore.store import ObjectStore, from_url

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
