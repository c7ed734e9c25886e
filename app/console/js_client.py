"""The JavaScript client, `clients/js/`, as static files, and the CORS headers of the API.

Pages of every origin may load the files. Only pages of the allowed origins may call the API; by default none.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from nextchar.app.http.rules import OPEN

PATH = "/clients/js"

_FOLDER = Path(__file__).absolute().parents[2] / "js"
_TYPES = {  # `mimetypes` depends on the machine; on some `.ts` is a video
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".jsx": "text/plain; charset=utf-8",
    ".vue": "text/plain; charset=utf-8",
    ".svelte": "text/plain; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
}
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    # A file keeps its name when its content changes, so a browser revalidates it each time, by its ETag.
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
_PREFLIGHT_S = 24 * 3600  # how long a browser may cache a preflight response


class ModuleFiles(StaticFiles):
    """A folder of modules that pages of any origin may load."""

    rule = OPEN

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or 304 if the browser has it. Raises HTTPException 404."""
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        if "content-type" in response.headers:
            response.headers["Content-Type"] = _TYPES.get(Path(path).suffix, "application/octet-stream")
        if path.endswith(".html") and response.status_code == 200:
            response.headers["Content-Security-Policy"] = _policy_of((_FOLDER / path).read_text())
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
    app.mount(PATH, ModuleFiles(directory=_FOLDER), name="js_client")
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
