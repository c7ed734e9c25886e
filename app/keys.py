"""API keys and the file they are kept in: one line a key, of its hash and never of itself.

    # name   SHA-256 of the key   what it may do          on which models      how often
    laptop   sha256=9f86d081…     scopes=read,complete
    website  sha256=60303ae2…     scopes=complete         models=names,sku-*   rate=600/minute

A key is 256 random bits, so a plain hash of it cannot be guessed back. `python -m app.keys new website
--scopes complete >> keys.txt` makes one: the line goes to the file, the key to the terminal, once. The file
is read again when it changes. Knows no HTTP; what a call needs is in `app.auth`.
"""

import argparse
import hashlib
import hmac
import logging
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import DomainError

if TYPE_CHECKING:
    from limits import RateLimitItem

log = logging.getLogger("nextchar.api")

SCOPES = ("read", "complete", "train", "admin")
"""What keys may do; `admin` is everything."""

RELOAD_S = 1.0
"""How often the file is looked at, at most."""

_PREFIX = "nck_"


class Unauthorized(DomainError):
    """No key, or one that is not in the file."""

    code = "api_key_missing"


class Forbidden(DomainError):
    """The key is good, but not for this."""

    code = "not_permitted"


@dataclass(frozen=True)
class Key:
    """One line of the file. No patterns: every model. No rate: as often as it likes."""

    name: str
    digest: bytes  # SHA-256 of the key
    scopes: frozenset[str]
    models: tuple[str, ...] = ()
    rate: "RateLimitItem | None" = None

    def allows(self, reference: str) -> bool:
        """Return whether the key reaches the model `name` or `name@version`."""
        names = (reference, reference.partition("@")[0])
        return not self.models or any(fnmatchcase(name, p) for p in self.models for name in names)


class KeyFile:
    """The keys in one file, as it is now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: Mapping[bytes, Key] = {}
        self._seen: tuple[int, int] | None = None  # modification time in ns, and size
        self._looked_at = -RELOAD_S

    def find(self, secret: str) -> Key | None:
        """Return whose key `secret` is. A file that has become unreadable leaves the keys as they were."""
        now = time.monotonic()
        if now - self._looked_at >= RELOAD_S:
            self._looked_at = now
            self._look()
        digest = hashlib.sha256(secret.encode()).digest()
        found = self._keys.get(digest)
        return found if found and hmac.compare_digest(found.digest, digest) else None

    def _look(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                self._keys = {key.digest: key for key in read_keys(self._path)}
                self._seen = seen
        except (OSError, ValueError) as error:
            log.warning("the API keys stay as they were: %s", error)


def read_keys(path: Path) -> list[Key]:
    """Return the keys in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is wrong; the message has its number and never its contents.
    """
    keys: list[Key] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            keys.append(_parse(fields))
        except ValueError as error:
            raise ValueError(f"line {number} of {path}: {error}") from None
    names = [key.name for key in keys]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{path} has two keys named {twice!r}")
    return keys


def _parse(fields: Sequence[str]) -> Key:
    name, options = fields[0], dict(_option(field) for field in fields[1:])
    _check_name(name)
    if unknown := options.keys() - {"sha256", "scopes", "models", "rate"}:
        raise ValueError(f"there is no field {min(unknown)!r}; a line has sha256, scopes, models and rate")
    digest = options.get("sha256", "")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("sha256= has to be 64 hexadecimal digits")
    return Key(
        name=name,
        digest=bytes.fromhex(digest),
        scopes=_scopes(options.get("scopes", "")),
        models=tuple(filter(None, options.get("models", "").split(","))),
        rate=_rate(options["rate"]) if "rate" in options else None,
    )


def _option(field: str) -> tuple[str, str]:
    name, is_given, value = field.partition("=")
    if not is_given:
        raise ValueError("after the name come fields like scopes=read,complete")
    return name, value


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII):
        raise ValueError("a key's name is 1 to 64 letters, digits, '.', '_' and '-'")


def _scopes(text: str) -> frozenset[str]:
    scopes = frozenset(filter(None, text.split(",")))
    if not scopes or not scopes <= set(SCOPES):
        raise ValueError(f"scopes= has to name some of {', '.join(SCOPES)}")
    return scopes


def _rate(text: str) -> "RateLimitItem":
    from limits import parse  # takes longer than the rest of the program's start, and few keys have a rate

    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"rate={text} has to be like 10/second or 600/minute") from None


def new_key(name: str, *, scopes: str, models: str = "", rate: str = "") -> tuple[str, str]:
    """Return a fresh key and its line for the file. Raises ValueError for what the file could not hold."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    fields = [name, f"sha256={digest}", f"scopes={scopes}"]
    fields += [f"models={models}"] if models else []
    fields += [f"rate={rate}"] if rate else []
    _parse(fields)
    return secret, " ".join(fields)


def main() -> None:
    """Make a key: its line to standard output, the key itself to standard error."""
    parser = argparse.ArgumentParser(prog="python -m app.keys", description="Make API keys.")
    new = parser.add_subparsers(required=True, metavar="new").add_parser("new", help="make a key")
    new.add_argument("name", help="whose it is; shown in no answer")
    new.add_argument("--scopes", default="read,complete", help=f"some of {','.join(SCOPES)}")
    new.add_argument("--models", default="", help="patterns of model names, as names,sku-*; default: all")
    new.add_argument("--rate", default="", help="as 600/minute; default: no limit")
    given = parser.parse_args()
    try:
        secret, line = new_key(given.name, scopes=given.scopes, models=given.models, rate=given.rate)
    except ValueError as error:
        raise SystemExit(f"nextchar: {error}") from None
    print(line)
    print(f"the key, shown this once: {secret}", file=sys.stderr)


if __name__ == "__main__":
    main()
