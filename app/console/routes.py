"""What a browser gets from here: the console at `/`, the API reference at `/docs`, and their files.

Everything is a file of `app/console/files/`, sent as it is; nothing is built and nothing comes from another
host, and the policy sent along makes the browser hold to that. Knows nothing of what the pages do.
"""

from pathlib import Path

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from nextchar.app.console.sample_log import sample_log
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
