"""Every environment variable that the API reads, beside those it shares with the worker."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationInfo, field_validator

from app.keys import read_keys
from store.settings import StoreSettings, load_settings


def machine_memory_bytes() -> int:
    """Return the memory of this machine, or of this container where that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return physical


class ApiSettings(StoreSettings):
    """Read from the environment by `load`; pass values by keyword in tests."""

    # Before `host`, whose check looks at both.
    api_keys_file: Path | None = Field(
        None,
        description="The API keys, a line each; `python -m app.keys new` makes one. Without, none is asked.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Serve without API keys on an address that other machines reach.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    max_corpus_bytes: int = Field(1 << 30, ge=1, description="The largest text accepted, in bytes.")
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
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="API processes on the one port; each loads its own models and counts its own metrics.",
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
                raise ValueError("there is no key in this file; make one with `python -m app.keys new NAME`")
        except OSError as error:
            raise ValueError(f"the file of API keys cannot be read: {error.strerror}") from None
        return path

    @field_validator("host")
    @classmethod
    def _open_to_others_only_on_purpose(cls, host: str, info: ValidationInfo) -> str:
        # A keys file that is wrong has an error of its own.
        has_keys = info.data.get("api_keys_file", "wrong") is not None
        is_guarded = has_keys or info.data.get("allow_anonymous")
        if not (_is_loopback(host) or is_guarded):
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
