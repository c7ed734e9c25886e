"""A sample log for users without one: a day of a small web shop, written by this program.

It is the same text in every call and on every machine.
"""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

_LINES = 1_500
_START = datetime(2024, 3, 4, 6)  # noqa: DTZ001 -- a local time, as logs have it

_Pick = Callable[[], float]
"""Returns the next number from 0 to 1."""

_PATHS = ("/", "/search?q=lamp", "/search?q=chair", "/cart", "/items/{n}", "/items/{n}/reviews", "/login")
_USERS = ("amira", "bo", "chen", "dana", "elif", "farid", "grace", "hugo")
_JOBS = ("send-newsletter", "rotate-keys", "reindex-search", "expire-carts")
_EVENTS = "view " * 31 + "order " * 8 + "session " * 4 + "cache " * 4 + "job " * 2 + "slow"
"""The events; one that is listed twice is twice as frequent."""


def sample_log() -> str:
    """Return the log, about 140,000 characters with a newline at the end."""
    # Of the methods of Random this is the one that gives the same numbers in every version of Python.
    pick = random.Random(7).random
    time, worker = _START, 300
    lines: list[str] = []
    while len(lines) < _LINES:
        time += timedelta(milliseconds=_integer(pick, 200, 15_000))
        if _integer(pick, 0, 50) == 0:  # restarted, with another process id
            worker += _integer(pick, 1, 5)
        for text in _event(pick):
            lines.append(f"{time.isoformat(sep=' ', timespec='milliseconds')} shop[{worker}]: {text}")
            time += timedelta(milliseconds=_integer(pick, 1, 40))
    return "\n".join(lines[:_LINES]) + "\n"


def _event(pick: _Pick) -> list[str]:
    """Return the lines of one thing that happens."""
    request = f"{_integer(pick, 0, 16**8):08x}"
    client = f"10.{_integer(pick, 0, 4)}.{_integer(pick, 0, 256)}.{_integer(pick, 0, 256)}"
    user, ms = _one_of(pick, _USERS), _integer(pick, 3, 95)
    match _one_of(pick, _EVENTS.split()):
        case "view":
            path = _one_of(pick, _PATHS).format(n=_integer(pick, 1_000, 10_000))
            status = 404 if _integer(pick, 0, 30) == 0 else 200
            return [f"INFO request {request} GET {path} {status} in {ms} ms from {client}"]
        case "order":
            number, items = _integer(pick, 10_000_000, 100_000_000), _integer(pick, 1, 5)
            return [
                f"INFO request {request} POST /orders 201 in {ms} ms from {client}",
                f"INFO order {number} of {user} paid by card, {items} items",
            ]
        case "session":
            return [f"INFO session {request} opened for {user} from {client}"]
        case "cache":
            share, entries = _integer(pick, 80, 99), _integer(pick, 100, 5_000)
            return [f"DEBUG cache hit rate {share} %, {entries} entries"]
        case "job":
            job = _one_of(pick, _JOBS)
            return [f"INFO job {job} started", f"INFO job {job} finished in {ms} s"]
        case _:
            return [f"WARN slow query on orders took {_integer(pick, 900, 1_500)} ms, request {request}"]


def _integer(pick: _Pick, start: int, end: int) -> int:
    """Return an integer from `start` to before `end`."""
    return start + int((end - start) * pick())


def _one_of(pick: _Pick, choices: Sequence[str]) -> str:
    return choices[_integer(pick, 0, len(choices))]
