"""The settings that every process of nextchar shares: data folder, Redis, storage, logs, instructions.

Each field is the environment variable NEXTCHAR_<FIELD>. docs/reference/settings.md lists them all, which a
test checks. An invalid value stops the start with a message that names the variable.
"""

import difflib
import os
import re
import sys
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nextchar.models.kernels.instruction_sets import check_level
from nextchar.models.validation_errors import requirement
from nextchar.store import tracing

_PREFIX = "NEXTCHAR_"


class StoreSettings(BaseSettings):
    """Read from the environment by `load`; pass values by keyword in tests."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore")

    misspelled_from: ClassVar[float] = 0.9
    """An unknown variable this similar to a setting, of 1, is refused; others are of other processes."""

    data_dir: Path = Field(Path("data"), description="Folder for all data on this machine.")
    redis_url: str = "redis://127.0.0.1:6379/0"
    """Queue, progress and leases of running jobs."""
    store_url: str | None = None
    """Object storage for corpora, jobs and models; default: a folder in the data folder."""

    model_file_cache_bytes: int = Field(4 << 30, ge=0)
    """Disk space for copies of the model files in an object store; 0: no copies."""

    log_format: Literal["text", "json"] = "text"
    """Format of log lines: text, or one JSON object per line."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Log records below this level are omitted."""

    isa: str = "auto"
    """The highest instruction set that kernels may use, such as avx2. `models.kernels` reads the variable."""

    @field_validator("isa")
    @classmethod
    def _is_available(cls, level: str) -> str:
        check_level(level)
        return level

    @field_validator("store_url")
    @classmethod
    def _is_a_storage_url(cls, url: str | None) -> str | None:
        if url and not re.match(r"(file|memory|s3a?|gs|az|azure|abfss?)://", url):
            raise ValueError("not a storage URL: file:///folder, s3://bucket/prefix, gs://…, az://…")
        return url or None

    @property
    def blobs_url(self) -> str:
        """The object store's URL: `store_url`, or `store/` in the data folder."""
        return self.store_url or (self.data_dir.resolve() / "store").as_uri()

    @property
    def spool(self) -> Path:
        """The folder of temporary files, such as uploads in progress."""
        return self.data_dir / "spool"

    @property
    def given_redis_url(self) -> str | None:
        """The URL of the user's Redis; None: an embedded Valkey is started."""
        return self.redis_url if "redis_url" in self.model_fields_set else None

    @classmethod
    def load(cls) -> Self:
        """Read the environment; on invalid values print one line per variable and exit with status 2."""
        try:
            tracing.check_environment()
            cls._check_names()
        except ValueError as error:
            print(f"nextchar: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        try:
            return cls()
        except ValidationError as error:
            for problem in error.errors():
                variable = "NEXTCHAR_" + str(problem["loc"][0]).upper() if problem["loc"] else "settings"
                # A check of several settings has all values as its input, and URLs may contain passwords.
                has_value = problem["loc"] and not variable.endswith(("_SECRET", "_URL"))
                value = f"={problem['input']!r}" if has_value else ""
                print(f"nextchar: {variable}{value}: {requirement(problem)}", file=sys.stderr)
            raise SystemExit(2) from None

    @classmethod
    def _check_names(cls) -> None:
        """Raise ValueError for a variable whose name is almost a setting's."""
        names = list(map(str.upper, cls.model_fields))
        given = [
            name.upper().removeprefix(_PREFIX) for name in os.environ if name.upper().startswith(_PREFIX)
        ]
        for name in set(given).difference(names):
            for meant in difflib.get_close_matches(name, names, n=1, cutoff=cls.misspelled_from):
                message = "there is no such setting; rename or unset it; did you mean"
                raise ValueError(f"{_PREFIX}{name}: {message} {_PREFIX}{meant}?")
