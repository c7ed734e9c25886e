"""API keys and the file they are kept in: one line a key, of its hash and never of itself.

    # name   SHA-256 of the key   what it may do          on which models      how often
    laptop   sha256=9f86d081…     scopes=read,complete
    website  sha256=60303ae2…     scopes=complete         models=names,sku-*   rate=600/minute

A key is 256 random bits, so a plain hash of it cannot be guessed back. `nextchar keys new website
--scopes complete >> keys.txt` makes one: the line goes to the file, the key to the terminal, once. The file
is read again every second, and a key that is not on a good line of it is not valid. Knows no HTTP; what a
call needs is in `app.http.auth`.
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

SCOPES = ("read", "complete", "train", "admin")
"""What keys may do; `admin` is everything."""

RELOAD_S = 1.0
"""How often the file is read, at most."""

WARN_EVERY_S = 60.0
"""How often what is wrong with the file is logged while it lasts."""

_PREFIX = "nck_"
_MAX_LOGGED = 10  # problems in one line of the log


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
    """The keys in one file, as it is now: those on its good lines, and none while it cannot be read.

    Safe to use from several threads.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._contents: bytes | None = None
        self._keys: Mapping[bytes, Key] = {}
        self._problems: tuple[str, ...] = ()
        self._read_at = -math.inf
        self._warned_at = -math.inf
        self._reading = threading.Lock()

    def find(self, secret: str) -> Key | None:
        """Return whose key `secret` is, or None if it is not in the file now."""
        self._refresh()
        digest = hashlib.sha256(secret.encode()).digest()
        found = self._keys.get(digest)
        return found if found and hmac.compare_digest(found.digest, digest) else None

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the file now, a sentence for each bad line; empty if nothing is."""
        self._refresh()
        return self._problems

    def _refresh(self) -> None:
        """Read the file if that is due. Its time and size are no guide: an edit can leave both the same."""
        now = time.monotonic()
        if now - self._read_at < RELOAD_S:
            return
        with self._reading:
            if now - self._read_at < RELOAD_S:  # another thread has just read it
                return
            self._read()
            self._read_at = now
            if self._problems and now - self._warned_at >= WARN_EVERY_S:
                self._warned_at = now
                log.error("%s; fix the file of API keys", "; ".join(self._problems[:_MAX_LOGGED]))

    def _read(self) -> None:
        had_problems = bool(self._problems)
        try:
            contents = self._path.read_bytes()
        except OSError as error:
            self._contents, self._keys = None, {}
            problems = [f"{self._path} cannot be read, so no API key is valid: {error.strerror}"]
        else:
            if contents == self._contents:
                return
            keys, problems = parse_keys(contents, where=self._path)
            self._contents, self._keys = contents, {key.digest: key for key in keys}
            if not keys:
                problems.append(f"{self._path} has no good line, so no API key is valid")
        if list(self._problems) != problems:
            self._problems, self._warned_at = tuple(problems), -math.inf
        if had_problems and not problems:
            log.info("%s is in order again", self._path)


def read_keys(path: Path) -> list[Key]:
    """Return the keys in a file, all of whose lines must be good.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is bad; the message has its number and never its contents.
    """
    keys, problems = parse_keys(path.read_bytes(), where=path)
    if problems:
        raise ValueError(problems[0])
    return keys


def parse_keys(contents: bytes, *, where: Path) -> tuple[list[Key], list[str]]:
    """Return the keys on the good lines of a file, and a sentence for each bad one.

    A sentence has the line's number and never the key's hash. Of two lines with one name the later is bad.
    """
    keys: dict[str, Key] = {}
    problems: list[str] = []
    for number, line in enumerate(contents.decode(errors="replace").splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            _check_is_first(fields[0], keys)
            keys[fields[0]] = _parse(fields)
        except ValueError as error:
            problems.append(f"line {number} of {where}: {error}")
    return list(keys.values()), problems


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


def _check_is_first(name: str, keys: Container[str]) -> None:
    if name in keys:
        raise ValueError(f"there are two keys named {name!r}, and this is the second")


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a key: its line to standard output, the key itself to standard error."""
    parser = argparse.ArgumentParser(prog="nextchar keys", description="Make API keys.")
    new = parser.add_subparsers(required=True, metavar="new").add_parser("new", help="make a key")
    new.add_argument("name", help="whose it is; shown in no answer")
    new.add_argument("--scopes", default="read,complete", help=f"some of {','.join(SCOPES)}")
    new.add_argument("--models", default="", help="patterns of model names, as names,sku-*; default: all")
    new.add_argument("--rate", default="", help="as 600/minute; default: no limit")
    given = parser.parse_args(arguments)
    try:
        secret, line = new_key(given.name, scopes=given.scopes, models=given.models, rate=given.rate)
    except ValueError as error:
        raise SystemExit(f"nextchar: {error}") from None
    print(line)
    print(f"the key, shown this once: {secret}", file=sys.stderr)


if __name__ == "__main__":
    main()
