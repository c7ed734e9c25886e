"""Every environment variable that the API reads, beside those it shares with the worker."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from app.keys import read_keys
from store.settings import StoreSettings, load_settings


def physical_memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine_memory_bytes() -> int:
    """Return the memory of this machine, or of this container where that is less."""
    physical = physical_memory_bytes()
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return physical


class ApiSettings(StoreSettings):
    """Read from the environment by `load`; pass values by keyword in tests."""

    # Before `published_address` and `host`, whose checks look at both.
    api_keys_file: Path | None = Field(
        None,
        description="The API keys, a line each; `nextchar keys new` makes one. Without, none is asked.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Serve without API keys on an address that other machines reach.",
    )
    published_address: str = Field(
        "",
        description="`address:port` at which a container's host publishes this port; docker-compose.yml sets"
        " it from NEXTCHAR_PUBLISH. It decides who reaches the API, then, not the address to listen on.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    max_corpus_bytes: int = Field(1 << 30, ge=1, description="The largest text accepted, in bytes.")
    max_model_bytes: int = Field(
        1 << 30, ge=1, description="The largest archive of a model that can be imported, in bytes."
    )
    worker_memory: str = Field(
        "",
        description="Memory of the worker's container, as `8g`, if it has a limit that the API's has not;"
        " docker-compose.yml sets it.",
    )
    training_memory_bytes: int = Field(
        default_factory=lambda: machine_memory_bytes() * 8 // 10,
        ge=1,
        description="A job that would need more memory is refused. Default: 80 % of this machine's.",
    )
    model_cache_bytes: int = Field(
        1 << 30,
        ge=0,
        description="Loaded models are unloaded, least recently used first, above this.",
    )
    state_cache_bytes: int = Field(
        64 << 20,
        ge=0,
        description="Memory for remembered prompts, for each loaded model.",
    )
    model_threads: int = Field(1, ge=1, le=256, description="Threads that one loaded model computes on.")
    max_waiting: int = Field(
        256,
        ge=1,
        description="Completions that may wait for one model; above it the answer is 429.",
    )
    max_streams: int = Field(
        10_000,
        ge=1,
        description="Streams of lines (`stream_id`) whose memory is kept; above it the least recently used"
        " begin anew. With API keys each may take a quarter.",
    )
    max_stream_bytes: int = Field(
        64 << 20,
        ge=1 << 20,
        description="The same in bytes of Redis.",
    )
    pinned_models: str = Field(
        "",
        description="Models, by name or `name@version`, separated by commas, that are loaded at the start and"
        " never unloaded to make room; of a bare name the newest version.",
    )
    default_model: str = Field(
        "",
        description="The model for calls that name none, as those of editors; default: the newest.",
    )
    allowed_origins: str = Field(
        "",
        description="Whose pages may call the API from a browser: origins as `https://example.org`, separated"
        " by commas, or `*`; this service's own pages always may.",
    )
    allowed_hosts: str = Field(
        "",
        description="Names that this service is reached by: `example.org`, `*.example.org` or `*`, separated"
        " by commas; localhost, IP addresses, this machine's name and NEXTCHAR_HOST always may.",
    )
    failed_checkpoint_days: float = Field(
        7.0,
        ge=0,
        description="How long a failed job keeps its last checkpoint, to be resumed from; 0: for ever.",
    )
    job_retention_days: float = Field(
        90.0,
        ge=0,
        description="How long the record and the events of a finished job are kept; 0: for ever.",
    )
    idempotency_retention_days: float = Field(
        7.0,
        ge=0,
        description="How long a request with an Idempotency-Key can be sent again; 0: for ever.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="API processes on the one port; each loads its own models and counts its own metrics.",
    )

    max_connections: int = Field(
        0,
        ge=0,
        description="Connections of one API process; 0 takes a third of the files it may open, at most 8192.",
    )
    header_timeout_s: float = Field(
        10.0, gt=0, description="Seconds for a new connection, or a begun request, to send its whole header."
    )
    body_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds for each 16 KiB of a body to come; a JSON body must be complete after four times"
        " as long.",
    )
    body_memory_bytes: int = Field(
        256 << 20,
        ge=1 << 20,
        description="Memory for JSON bodies, of all requests together; above it, the oldest incomplete one is"
        " answered 503.",
    )

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _empty_is_none(cls, path: object) -> object:
        return path or None

    @field_validator("api_keys_file")
    @classmethod
    def _has_keys(cls, path: Path | None) -> Path | None:
        try:
            if path is not None and not read_keys(path):
                raise ValueError("there is no key in this file; make one with `nextchar keys new NAME`")
        except OSError as error:
            raise ValueError(f"the file of API keys cannot be read: {error.strerror}") from None
        return path

    @field_validator("allow_anonymous", mode="before")
    @classmethod
    def _empty_is_false(cls, allow: object) -> object:
        return allow or False

    @field_validator("published_address")
    @classmethod
    def _published_to_others_only_on_purpose(cls, published: str, info: ValidationInfo) -> str:
        host = published.rpartition(":")[0].strip("[]")  # none: on every interface
        if published and not (_is_loopback(host) or _is_guarded(info)):
            raise ValueError(
                "other machines can reach the API here and there are no API keys; name a file of keys in"
                " NEXTCHAR_API_KEYS_FILE, set NEXTCHAR_ALLOW_ANONYMOUS=1 if it is meant to be open, or set"
                " NEXTCHAR_PUBLISH=127.0.0.1:8000"
            )
        return published

    @field_validator("worker_memory")
    @classmethod
    def _is_amount_of_memory(cls, amount: str) -> str:
        _bytes_of(amount)
        return amount

    @model_validator(mode="after")
    def _limit_training_to_the_workers_memory(self) -> Self:
        limit_bytes = _bytes_of(self.worker_memory)
        if limit_bytes and "training_memory_bytes" not in self.model_fields_set:
            self.training_memory_bytes = min(limit_bytes, physical_memory_bytes()) * 8 // 10
        return self

    @field_validator("host")
    @classmethod
    def _open_to_others_only_on_purpose(cls, host: str, info: ValidationInfo) -> str:
        # An address that is published has a check of its own.
        is_published = info.data.get("published_address", "wrong") != ""
        if not (_is_loopback(host) or is_published or _is_guarded(info)):
            raise ValueError(
                "other machines can reach this address and there are no API keys; name a file of keys in"
                " NEXTCHAR_API_KEYS_FILE, set NEXTCHAR_ALLOW_ANONYMOUS=1 if it is meant to be open, or listen"
                " on 127.0.0.1"
            )
        return host

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: str) -> str:
        for origin in _listed(origins):
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin: one is written https://example.org, without a path"
                )
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _are_host_names(cls, hosts: str) -> str:
        for host in _listed(hosts):
            if host != "*" and not re.fullmatch(r"(\*\.)?[\w-]+(\.[\w-]+)*", host, re.ASCII):
                raise ValueError(
                    f"{host!r} is no host name: one is written example.org or *.example.org, without a scheme"
                    " and a port"
                )
        return hosts

    @property
    def hosts(self) -> list[str]:
        """The allowed host names, one by one."""
        return _listed(self.allowed_hosts)

    @property
    def origins(self) -> list[str]:
        """The allowed origins, one by one."""
        return _listed(self.allowed_origins)

    @classmethod
    def load(cls) -> Self:
        """Read the environment; on a wrong value print one line a variable and exit with status 2."""
        return load_settings(cls)


def _listed(values: str) -> list[str]:
    return [value.strip() for value in values.split(",") if value.strip()]


def _is_guarded(info: ValidationInfo) -> bool:
    # A keys file that is wrong has an error of its own.
    has_keys = info.data.get("api_keys_file", "wrong") is not None
    return has_keys or bool(info.data.get("allow_anonymous"))


def _bytes_of(amount: str) -> int:
    """Return the bytes that Docker understands by an amount of memory; 0 for none.

    >>> _bytes_of("8g"), _bytes_of("512MB"), _bytes_of("")
    (8589934592, 536870912, 0)
    """
    found = re.fullmatch(r"(\d+)(b|[kmg]b?)?", amount.lower())
    if amount and not found:
        raise ValueError("not an amount of memory: write 8g, or 512m")
    return int(found[1]) << {"k": 10, "m": 20, "g": 30}.get((found[2] or "b")[0], 0) if found else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
