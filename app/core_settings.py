"""The settings of the API that several rooms use, besides those shared with the worker. Rooms have others."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticUseDefault

from nextchar.app.access.keys import read_keys
from nextchar.store.settings import StoreSettings

_UNGUARDED = (
    "other machines can reach this address and there are no API keys; set NEXTCHAR_API_KEYS_FILE to a file of"
    " keys, NEXTCHAR_ALLOW_ANONYMOUS=1 to serve anyone, or"
)


def physical_memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine_memory_bytes() -> int:
    """Return the memory of this machine, or of this container where that is less."""
    physical = physical_memory_bytes()
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # not in a container, or "max"
        return physical


def default_training_memory_bytes() -> int:
    """Return the memory that a job may need by default: 80 % of this machine's."""
    return machine_memory_bytes() * 8 // 10


def listed(values: str) -> list[str]:
    """Return the values of a setting that are separated by commas."""
    return [value.strip() for value in values.split(",") if value.strip()]


def _each(pattern: str, problem: str) -> AfterValidator:
    """Return the check of a setting each of whose values, separated by commas, matches a pattern."""

    def check(values: str) -> str:
        for value in listed(values):
            if not re.fullmatch(pattern, value):
                raise ValueError(f"{value!r} {problem}")
        return values

    return AfterValidator(check)


_ORIGINS = _each(
    r"\*|[a-z][a-z0-9+.-]*://[^/\s?#@]+", "is not an origin; write https://example.org, without a path"
)
_HOST_NAMES = _each(
    r"(?a)\*|(\*\.)?[\w-]+(\.[\w-]+)*",
    "is not a host name; write example.org or *.example.org, without a scheme or a port",
)
_OBJECT_STORES = _each(
    r"(?s)(s3a?|gs|az|azure|abfss?)://[^/]+/.*",
    "is not in an object store; write s3://bucket/ or more of a URL",
)


class ServingSettings(StoreSettings):
    """What the processes that load models share: those of the API, and those that run batches."""

    model_cache_bytes: int = Field(1 << 30, ge=0)
    """Above this, loaded models are unloaded, least recently used first."""
    state_cache_bytes: int = Field(64 << 20, ge=0)
    """Memory for cached states of prompts, per loaded model."""
    model_threads: int = Field(1, ge=1, le=256, description="Threads per loaded model.")
    max_waiting: int = Field(256, ge=1)
    """Completions that may wait for one model; further ones are rejected with 429."""


class CoreSettings(ServingSettings):
    """Read from the environment by `load`, as a part of `nextchar.app.rooms.ApiSettings`."""

    misspelled_from: ClassVar[float] = 0.75

    # Before `published_address` and `host`, whose checks look at both.
    api_keys_file: Path | None = None
    """The file of API keys, one per line; `nextchar keys new` makes one. Without it no key is required."""
    allow_anonymous: bool = False
    """Serve without API keys on an address that other machines can reach."""
    published_address: str = ""
    """`address:port` at which a container's host publishes this port; docker-compose.yml sets it from
    NEXTCHAR_PUBLISH. If it is set, it decides who can reach the API, not `host`."""
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 chooses a free one.")
    max_corpus_bytes: int = Field(1 << 30, ge=1, description="The largest text accepted, in bytes.")
    corpus_sources: Annotated[str, _OBJECT_STORES] = ""
    """Beginnings of URLs in object stores from which corpora may be read, such as `s3://logs/`, separated by
    commas; default: none. Credentials are those of the environment."""
    max_model_bytes: int = Field(1 << 30, ge=1)
    """The largest archive of a model that can be imported, in bytes."""
    min_free_bytes: int = Field(1 << 29, ge=0)
    """The disk watermark: uploads and jobs are refused while fewer bytes are free; 0: never."""
    worker_memory: str = ""
    """Memory limit of the worker's container, such as `8g`, if it has one of its own; docker-compose.yml sets
    it."""
    training_memory_bytes: int = Field(default_factory=default_training_memory_bytes, ge=1)
    """A job that would need more memory is refused. Default: 80 % of this machine's."""
    allowed_origins: Annotated[str, _ORIGINS] = ""
    """Origins whose pages may call the API from a browser, such as `https://example.org`, separated by
    commas, or `*`; this service's own pages always may."""
    allowed_hosts: Annotated[str, _HOST_NAMES] = ""
    """Host names of this service: `example.org`, `*.example.org` or `*`, separated by commas; localhost, IP
    addresses, this machine's name and NEXTCHAR_HOST are always allowed."""
    trusted_proxies: str = ""
    """Addresses or networks of proxies whose `X-Forwarded-For` names the client, such as
    `127.0.0.1,10.0.0.0/8`, separated by commas; all others' is ignored."""
    processes: int = Field(1, ge=1, le=256)
    """API processes on the port; each loads its own models and counts its own metrics."""

    max_connections: int = Field(0, ge=0)
    """Connections per API process; 0: a third of the limit on open files, at most 8192."""
    drain_s: float = Field(25.0, ge=0)
    """Seconds that requests in progress have to end when the process is stopped; afterwards they are rejected
    with 503."""
    header_timeout_s: float = Field(10.0, gt=0)
    """Seconds in which the header of a request must be complete."""
    body_timeout_s: float = Field(30.0, gt=0)
    """Seconds in which each 16 KiB of a body must arrive; a JSON body must be complete after four times as
    long."""
    body_memory_bytes: int = Field(256 << 20, ge=1 << 20)
    """Memory for the JSON bodies of all requests together; above it, the oldest incomplete one is rejected
    with 503. Also for responses that are not read; above it, the oldest is broken off."""

    @field_validator("api_keys_file", "allow_anonymous", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        if value == "":
            raise PydanticUseDefault
        return value

    @field_validator("api_keys_file")
    @classmethod
    def _has_keys(cls, path: Path | None) -> Path | None:
        try:
            if path is not None and not read_keys(path):
                raise ValueError("the file of API keys has no key; make one with `nextchar keys new NAME`")
        except OSError as error:
            raise ValueError(f"the file of API keys cannot be read: {error.strerror}") from None
        return path

    @field_validator("published_address")
    @classmethod
    def _published_needs_keys(cls, published: str, info: ValidationInfo) -> str:
        host = published.rpartition(":")[0].strip("[]")  # empty: every interface
        if published and not (_is_loopback(host) or _is_guarded(info)):
            raise ValueError(f"{_UNGUARDED} NEXTCHAR_PUBLISH=127.0.0.1:8000")
        return published

    @field_validator("worker_memory")
    @classmethod
    def _is_amount_of_memory(cls, amount: str) -> str:
        _bytes_of(amount)
        return amount

    @model_validator(mode="after")
    def _limit_training_to_worker_memory(self) -> Self:
        limit_bytes = _bytes_of(self.worker_memory)
        if limit_bytes and "training_memory_bytes" not in self.model_fields_set:
            self.training_memory_bytes = min(limit_bytes, physical_memory_bytes()) * 8 // 10
        return self

    @field_validator("host")
    @classmethod
    def _public_host_needs_keys(cls, host: str, info: ValidationInfo) -> str:
        # A published address is checked by its own validator.
        is_published = info.data.get("published_address", "wrong") != ""
        if not (_is_loopback(host) or is_published or _is_guarded(info)):
            raise ValueError(f"{_UNGUARDED} listen on 127.0.0.1")
        return host

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: str) -> str:
        for proxy in listed(proxies):
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"{error}; write an address or a network, such as 10.0.0.0/8") from None
        return proxies


def _is_guarded(info: ValidationInfo) -> bool:
    # An invalid key file is reported by its own validator.
    has_keys = info.data.get("api_keys_file", "wrong") is not None
    return has_keys or bool(info.data.get("allow_anonymous"))


def _bytes_of(amount: str) -> int:
    """Return an amount of memory in Docker's notation in bytes; 0 for an empty one.

    >>> _bytes_of("8g"), _bytes_of("512MB"), _bytes_of("")
    (8589934592, 536870912, 0)
    """
    match = re.fullmatch(r"(\d+)(b|[kmg]b?)?", amount.lower())
    if amount and not match:
        raise ValueError("not an amount of memory: write 8g, or 512m")
    return int(match[1]) << {"k": 10, "m": 20, "g": 30}.get((match[2] or "b")[0], 0) if match else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
