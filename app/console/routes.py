"""What a browser gets from here: the console at `/`, the API reference at `/docs`, and their files.

Everything is a file of `app/console/files/`, sent as it is; nothing is built and nothing comes from another
host, and the policy sent along makes the browser hold to that. Knows nothing of what the pages do.
"""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from nextchar.app.http.rules import OPEN, needs_no_key

_FOLDER = Path(__file__).parent / "files"

# The last two: a text can never become markup, whatever a page does with it.
POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)

# Swagger UI's style sheet has its icons as data: addresses.
REFERENCE_POLICY = f"{POLICY}; img-src 'self' data:"

_HEADERS = {
    "Content-Security-Policy": POLICY,
    # Names do not change with contents, so a browser asks each time; the ETag makes that cheap.
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",  # a page that opens the console gets no handle on its window
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_LINES = 1_500
_START = datetime(2024, 3, 4, 6)  # noqa: DTZ001 -- a local time, as logs have it

_Pick = Callable[[], float]
"""Returns the next number from 0 to 1."""

_PATHS = ("/", "/search?q=lamp", "/search?q=chair", "/cart", "/items/{n}", "/items/{n}/reviews", "/login")
_USERS = ("amira", "bo", "chen", "dana", "elif", "farid", "grace", "hugo")
_JOBS = ("send-newsletter", "rotate-keys", "reindex-search", "expire-carts")
_EVENTS = "view " * 31 + "order " * 8 + "session " * 4 + "cache " * 4 + "job " * 2 + "slow"
"""The events; one that is listed twice is twice as frequent."""


class PageFiles(StaticFiles):
    """A folder of files for pages under `POLICY`."""

    rule = OPEN

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or 304 where the browser has it already. Raises HTTPException 404."""
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        if path.endswith(".gz"):
            response.headers["Content-Encoding"] = "gzip"
        return response


def add_console(app: FastAPI, *, max_corpus_bytes: int) -> None:
    """Serve the console and the reference. It gets `max_corpus_bytes`, to refuse files before an upload."""
    files = PageFiles(directory=_FOLDER)

    @needs_no_key
    async def console(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @needs_no_key
    async def reference(request: Request) -> Response:
        page = await files.get_response("reference.html", request.scope)
        page.headers["Content-Security-Policy"] = REFERENCE_POLICY
        return page

    @needs_no_key
    async def about(_: Request) -> Response:
        return JSONResponse(
            {"version": app.version, "max_corpus_bytes": max_corpus_bytes},
            headers={"Cache-Control": "no-cache"},
        )

    @needs_no_key
    async def sample(_: Request) -> Response:
        return PlainTextResponse(await run_in_threadpool(sample_text))

    @needs_no_key
    async def sample_lines(_: Request) -> Response:
        return PlainTextResponse(await run_in_threadpool(sample_log))

    app.add_route("/", console, include_in_schema=False)
    app.add_route("/docs", reference, include_in_schema=False)
    app.add_route("/console/about.json", about, include_in_schema=False)
    app.add_route("/console/sample.txt", sample, include_in_schema=False)
    app.add_route("/console/sample.log", sample_lines, include_in_schema=False)
    app.mount("/console", files, name="console")


def sample_text() -> str:
    """Return the text for users without a text of their own: Python's language reference."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


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
