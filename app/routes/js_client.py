"""The JavaScript client, `clients/js/`, as web pages load it; and which other hosts' pages may call the API.

The files are public and every page may read them: a script of another host is a CORS request too. The API's
answers are for the pages of the hosts that are allowed, which is none unless the settings name some.
"""

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PATH = "/clients/js"

_FOLDER = Path(__file__).parents[2] / "clients" / "js"
_TYPES = {  # not those of the machine, of which some take `.ts` for a film
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
}
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    # Names do not change with contents, so a browser asks each time; the ETag makes that cheap.
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
_PREFLIGHT_S = 24 * 3600  # for so long a browser need not ask again whether it may call


class ModuleFiles(StaticFiles):
    """A folder of modules for the pages of any host."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or 304 where the browser has it already. Raises HTTPException 404."""
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        if "content-type" in response.headers:
            response.headers["Content-Type"] = _TYPES.get(Path(path).suffix, "application/octet-stream")
        return response


def add_js_client(app: FastAPI, *, allowed_origins: Sequence[str]) -> None:
    """Serve the client; let pages of `allowed_origins` call the API, with keys but without cookies.

    To be called after other middleware is added: a browser asks whether it may send a key without the key.
    """
    app.mount(PATH, ModuleFiles(directory=_FOLDER), name="js_client")
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
                "X-Request-Id",
            ],
            expose_headers=["Retry-After", "X-Request-Id", "Location"],
            max_age=_PREFLIGHT_S,
        )
