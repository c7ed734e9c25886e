"""API keys and the key file: one line per key, with the key's hash instead of the key.

    # name   SHA-256 of the key   scopes                 model patterns      limits
    laptop   sha256=9f86d081…     scopes=read,complete
    website  sha256=60303ae2…     scopes=complete        models=names,sku-*  rate=600/minute max_streams=8
    team     sha256=2c26b46b…     scopes=train           models=team-*       max_jobs=3 max_corpus_bytes=10GB

A key has 256 random bits, so an unsalted hash cannot be reversed. `nextchar keys new website --scopes
complete >> keys.txt` makes one: the line goes to the file, the key is shown once on the terminal. The file is
read again every second. A file with an invalid line, or whose last line has no newline yet, is refused as a
whole, and its last valid version applies. `nextchar.app.access.auth` defines which scopes a call needs.
"""

import argparse
import hashlib
import hmac
import logging
import math
import re
import secrets
import sys
import threading
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limits import RateLimitItem

log = logging.getLogger("nextchar.api")

SCOPES = ("read", "complete", "events", "ingest", "train", "admin")
"""What keys can permit; `admin` permits everything."""

RELOAD_S = 1.0
"""The shortest time between two reads of the file."""

WARN_EVERY_S = 60.0
"""The time between two log records about a problem of the file that persists."""

_PREFIX = "nck_"
_COUNTS = ("max_jobs", "max_batches", "max_streams", "max_requests")
_FIELDS = ("sha256", "scopes", "models", "rate", "max_corpus_bytes", *_COUNTS)
_LIMIT_HELP = {
    "max_corpus_bytes": "of all corpora it uploads together, such as 10GB",
    "max_jobs": "queued and running at once, such as 3",
    "max_batches": "that have not ended, such as 3",
    "max_streams": "in progress at once, such as 8",
    "max_requests": "in progress at once, such as 32",
}
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MAX_LOGGED_PROBLEMS = 10  # in one log record


@dataclass(frozen=True)
class Key:
    """One line of the file. Without patterns it permits every model; a limit that is None is none.

    Attributes:
        max_corpus_bytes: of all corpora that it uploaded. max_jobs: of its queued and running jobs.
        max_batches: of its batches that have not ended.
        max_streams: of its streams in progress. max_requests: of its requests in progress, with the streams.
    """

    name: str
    digest: bytes  # SHA-256 of the key
    scopes: frozenset[str]
    models: tuple[str, ...] = ()
    rate: "RateLimitItem | None" = None
    max_corpus_bytes: int | None = None
    max_jobs: int | None = None
    max_batches: int | None = None
    max_streams: int | None = None
    max_requests: int | None = None

    @property
    def limits(self) -> dict[str, str]:
        """Its limits by the names that the file has for them; those that are not set are left out."""
        values = {"rate": self.rate, **{name: getattr(self, name) for name in ("max_corpus_bytes", *_COUNTS)}}
        return {name: str(value) for name, value in values.items() if value is not None}

    def allows(self, reference: str) -> bool:
        """Return whether the key permits the model `name` or `name@version`."""
        names = (reference, reference.partition("@")[0])
        return not self.models or any(fnmatchcase(name, p) for p in self.models for name in names)


class KeyFile:
    """The keys of the last valid version of a file, which is read again when it changes.

    None is valid while the file cannot be read. Safe to use from several threads.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._contents: bytes | None = None
        self._keys: Mapping[bytes, Key] = {}
        self._problems: tuple[str, ...] = ()
        self._read_at = -math.inf
        self._warned_at = -math.inf
        self._lock = threading.Lock()  # held while the file is read

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret, or None if it is not in the file now."""
        self._refresh()
        digest = hashlib.sha256(secret.encode()).digest()
        key = self._keys.get(digest)
        return key if key and hmac.compare_digest(key.digest, digest) else None

    @property
    def keys(self) -> list[Key]:
        """The keys in use, in the order of the file."""
        self._refresh()
        return list(self._keys.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """The file's present problems, a message for each invalid line; empty if its keys are in use."""
        self._refresh()
        return self._problems

    def _refresh(self) -> None:
        """Read the file if RELOAD_S has passed. An edit can leave its time and size unchanged."""
        now = time.monotonic()
        if now - self._read_at < RELOAD_S:
            return
        with self._lock:
            if now - self._read_at < RELOAD_S:  # another thread has just done it
                return
            self._read()
            self._read_at = now
            if self._problems and now - self._warned_at >= WARN_EVERY_S:
                self._warned_at = now
                log.error(
                    "%s; until the file of API keys is fixed, %s",
                    "; ".join(self._problems[:_MAX_LOGGED_PROBLEMS]),
                    "its last valid version applies" if self._keys else "no API key is valid",
                )

    def _read(self) -> None:
        had_problems = bool(self._problems)
        try:
            contents = self._path.read_bytes()
        except OSError as error:
            self._contents, self._keys = None, {}
            problems = [f"{self._path} cannot be read: {error.strerror}"]
        else:
            if contents == self._contents:
                return
            self._contents = contents
            keys, problems = parse_keys(contents, where=self._path)
            if not keys and not problems:
                problems = [f"{self._path} has no key"]
            if not problems:
                self._keys = {key.digest: key for key in keys}
        if list(self._problems) != problems:
            self._problems, self._warned_at = tuple(problems), -math.inf
        if had_problems and not problems:
            log.info("%s has no problems any more", self._path)


def read_keys(path: Path) -> list[Key]:
    """Return the keys in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is invalid; the message has its number and never its contents.
    """
    keys, problems = parse_keys(path.read_bytes(), where=path)
    if problems:
        raise ValueError(problems[0])
    return keys


def parse_keys(contents: bytes, *, where: Path) -> tuple[list[Key], list[str]]:
    """Return the keys on the valid lines of a file, and a message for each invalid one.

    A message has the line's number and never the key's hash. Of two lines with the same name or the same key
    the later is invalid. A last line without a newline is too: it may be the beginning of one with `models=`.
    """
    keys: list[Key] = []
    problems: list[str] = []
    taken: set[str] = set()  # names and hashes
    *lines, rest = contents.decode(errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        fields = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].split()
        if not fields:
            continue
        try:
            keys.append(_parse(fields, taken))
        except ValueError as error:
            problems.append(f"line {number} of {where}: {error}")
        else:
            taken |= {keys[-1].name, keys[-1].digest.hex()}
    if rest:
        problems.append(
            f"line {len(lines) + 1} of {where}: there is no newline at its end, so it may be incomplete"
        )
    return keys, problems


def _parse(fields: Sequence[str], taken: Container[str] = ()) -> Key:
    name = fields[0]
    if name in taken:
        raise ValueError(f"there are two keys named {name!r}, and this is the second")
    if any("#" in field for field in fields):
        raise ValueError("put a space before the '#' of a comment")
    options: dict[str, str] = {}
    for field in fields[1:]:
        option, equals, value = field.partition("=")
        if not equals:
            raise ValueError("the name is followed by fields like scopes=read,complete")
        if option in options:
            raise ValueError(f"{option}= occurs twice")
        options[option] = value
    if not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII):
        raise ValueError("a key's name is 1 to 64 letters, digits, '.', '_' and '-'")
    if unknown := options.keys() - set(_FIELDS):
        raise ValueError(f"there is no field {min(unknown)!r}; a line can have {', '.join(_FIELDS)}")
    digest = options.get("sha256", "")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("sha256= must be 64 hexadecimal digits")
    if digest in taken:
        raise ValueError("its key is that of a line before")
    return Key(
        name=name,
        digest=bytes.fromhex(digest),
        scopes=_scopes(options.get("scopes", "")),
        models=_models(options["models"]) if "models" in options else (),
        rate=_rate(options["rate"]) if "rate" in options else None,
        max_corpus_bytes=_byte_count(options["max_corpus_bytes"]) if "max_corpus_bytes" in options else None,
        **{name: _count(name, options[name]) for name in _COUNTS if name in options},
    )


def _models(text: str) -> tuple[str, ...]:
    patterns = tuple(filter(None, text.split(",")))
    if not patterns:
        raise ValueError("models= must list patterns, such as names,sku-*; for all models leave it out")
    return patterns


def _scopes(text: str) -> frozenset[str]:
    scopes = frozenset(filter(None, text.split(",")))
    if not scopes or not scopes <= set(SCOPES):
        raise ValueError(f"scopes= must list some of {', '.join(SCOPES)}")
    return scopes


def _count(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f"{name}={text} must be a number such as 4")
    return int(text)


def _byte_count(text: str) -> int:
    """Return a number of bytes.

    >>> _byte_count("10GB"), _byte_count("1.5MB"), _byte_count("500")
    (10000000000, 1500000, 500)
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)(B|kB|MB|GB|TB)?", text, re.ASCII)
    if not match:
        raise ValueError(f"max_corpus_bytes={text} must be like 500MB or 10GB")
    return int(float(match[1]) * _UNITS[match[2] or "B"])


def _rate(text: str) -> "RateLimitItem":
    from limits import parse_many  # importing it takes long, and few keys have a rate

    try:
        [rate] = parse_many(text)
        return rate
    except ValueError:
        raise ValueError(f"rate={text} must be like 10/second or 600/minute") from None


def new_key(
    name: str, *, scopes: str, models: str | None = None, rate: str | None = None, **limits: str | int | None
) -> tuple[str, str]:
    """Return a new key and its line for the file, with a newline. Raises ValueError for an invalid option."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    options = {"sha256": digest, "scopes": scopes, "models": models, "rate": rate, **limits}
    fields = [name, *(f"{option}={value}" for option, value in options.items() if value is not None)]
    _parse(fields)
    line = " ".join(fields)
    if line.split() != fields:
        raise ValueError("an option of a key must not contain spaces")
    return secret, f"{line}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a key: print its line to standard output, and the key to standard error."""
    parser = argparse.ArgumentParser(prog="nextchar keys", description="Make API keys.")
    new = parser.add_subparsers(required=True, metavar="new").add_parser("new", help="make a key")
    new.add_argument("name", help="a name for the key, used in the file and in logs")
    new.add_argument("--scopes", default="read,complete", help=f"some of {','.join(SCOPES)}")
    new.add_argument("--models", help="patterns of model names, such as names,sku-*; default: all")
    new.add_argument("--rate", help="such as 600/minute; default: no limit")
    for limit, help_ in _LIMIT_HELP.items():
        new.add_argument(f"--{limit.replace('_', '-')}", help=f"{help_}; default: no limit")
    options = parser.parse_args(arguments)
    try:
        limits = {limit: getattr(options, limit) for limit in _LIMIT_HELP}
        secret, line = new_key(
            options.name, scopes=options.scopes, models=options.models, rate=options.rate, **limits
        )
    except ValueError as error:
        raise SystemExit(f"nextchar: {error}") from None
    print(line, end="")
    print(f"the key, shown this once: {secret}", file=sys.stderr)


if __name__ == "__main__":
    main()
