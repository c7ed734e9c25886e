"""What a browser gets from here: the console at `/`, the API reference at `/docs`, and their files.

Everything is a file of `app/console/files/`, sent as it is; nothing is built and nothing comes from another
host, and the policy sent along makes the browser hold to that. Knows nothing of what the pages do. The log
for users without one, `sample-log.txt.gz`, is a day of a small web shop that does not exist.

The JavaScript client, `clients/js/`, is sent, too, with the CORS headers of the API. Pages of every origin
may load its files. Only pages of the allowed origins may call the API; by default none.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from nextchar.app.core_settings import CoreSettings, listed
from nextchar.app.http.rules import OPEN, needs_no_key
from nextchar.app.room import Room

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

JS_PATH = "/clients/js"

_JS_FOLDER = Path(__file__).absolute().parents[2] / "js"
_TYPES = {  # `mimetypes` depends on the machine; on some `.ts` is a video
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".jsx": "text/plain; charset=utf-8",
    ".vue": "text/plain; charset=utf-8",
    ".svelte": "text/plain; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
_JS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    # A file keeps its name when its content changes, so a browser revalidates it each time, by its ETag.
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
_WORKER_POLICY = (
    "default-src 'none'; script-src 'wasm-unsafe-eval'"  # offline-worker.js compiles nextchar.wasm
)
_PREFLIGHT_S = 24 * 3600  # how long a browser may cache a preflight response


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

    app.add_route("/", console, include_in_schema=False)
    app.add_route("/docs", reference, include_in_schema=False)
    app.add_route("/console/about.json", about, include_in_schema=False)
    app.add_route("/console/sample.txt", sample, include_in_schema=False)
    app.mount("/console", files, name="console")


def sample_text() -> str:
    """Return the text for users without a text of their own: Python's language reference."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


class ModuleFiles(StaticFiles):
    """A folder of modules that pages of any origin may load."""

    rule = OPEN

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or 304 if the browser has it. Raises HTTPException 404."""
        response = await super().get_response(path, scope)
        response.headers.update(_JS_HEADERS)
        if "content-type" in response.headers:
            response.headers["Content-Type"] = _TYPES.get(Path(path).suffix, "application/octet-stream")
        if path.endswith("worker.js"):
            response.headers["Content-Security-Policy"] = _WORKER_POLICY
        if path.endswith(".html") and response.status_code == 200:
            response.headers["Content-Security-Policy"] = _policy_of((_JS_FOLDER / path).read_text())
        return response


@cache
def _policy_of(page: str) -> str:
    """Return the Content-Security-Policy under which the inline scripts and styles of a page run."""

    def hashes(element: str) -> str:
        contents = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in contents)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'self'; script-src 'self' {hashes('script')}; style-src 'self' {hashes('style')};"
        " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def add_js_client(app: FastAPI, *, allowed_origins: Sequence[str]) -> None:
    """Serve the client; let pages of `allowed_origins` call the API, with keys but without cookies.

    Call it after other middleware is added, so that CORS is handled first: a preflight request has no key.
    """
    # nextchar.wasm is a link in the source.
    app.mount(JS_PATH, ModuleFiles(directory=_JS_FOLDER, follow_symlink=True), name="js_client")
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
                "X-Document",
                "X-Request-Id",
            ],
            expose_headers=["Retry-After", "X-Request-Id", "Location"],
            max_age=_PREFLIGHT_S,
        )


def _mount(app: FastAPI, settings: CoreSettings) -> None:
    add_console(app, max_corpus_bytes=settings.max_corpus_bytes)
    add_js_client(app, allowed_origins=listed(settings.allowed_origins))


CONSOLE = Room("console", mount=_mount)
