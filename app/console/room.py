"""The web console, the API reference, and the browser client's files."""

from fastapi import FastAPI

from nextchar.app.console.routes import add_console, add_js_client
from nextchar.app.core_settings import CoreSettings
from nextchar.app.room import Room


def _mount(app: FastAPI, settings: CoreSettings) -> None:
    add_console(app, max_corpus_bytes=settings.max_corpus_bytes)
    add_js_client(app, allowed_origins=settings.origins)


CONSOLE = Room("console", mount=_mount)
