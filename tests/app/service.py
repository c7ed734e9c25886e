"""The application behind a real server in this process, and both its sides to look at."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import uvicorn.server
from fastapi import FastAPI
from redis import Redis
from starlette.routing import BaseRoute

import nextchar.app.main
from nextchar.app.main import create_app, server_config
from nextchar.app.models.engines import Loaded
from nextchar.app.room import Room
from nextchar.app.rooms import ROOMS, ApiSettings
from nextchar.models.saved_model import SavedModel
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.jobs import Jobs
from nextchar.store.live import EventLog, Live
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.fakes import FakeEngine, loaded
from tests.waiting import eventually

MAX_CORPUS_BYTES = 3_000_000
TRAINING_MEMORY_BYTES = 2_000_000_000

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain HTTP: without it, each of them reads the machine's certificates."""

TEXT = "the quick brown fox jumps over the lazy dog\n" * 10


Keys = Mapping[str, tuple[str, str]]
"""Secrets and lines of keys by name, as `new_key` makes them."""


@dataclass
class Service:
    """A running API: a client for it, and its storage and Redis seen from behind."""

    http: httpx.Client
    settings: ApiSettings
    blobs: Blobs
    corpora: Corpora
    jobs: Jobs
    models: Models
    live: Live
    event_log: EventLog
    engines: list[FakeEngine]

    def upload(self, text: str = TEXT) -> str:
        """Upload a text; return its id."""
        answer = self.http.post("/v1/corpora", content=text.encode())
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    def submit(self, **changes: object) -> str:
        """Queue a job on TEXT; return its id."""
        body = {"corpus": self.upload(), "name": "fox", "preset": "tiny"} | changes
        answer = self.http.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    @property
    def spooled(self) -> list[Path]:
        """Files of uploads under way."""
        return list((self.settings.data_dir / "spool").glob("*"))


class Server(uvicorn.Server):
    """A server for use in a thread, which gets no signals: sets `stopping` when it shuts down."""

    def __init__(self, config: uvicorn.Config, *, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        self._stopping.set()
        await super().shutdown(sockets)


@contextlib.contextmanager
def serving(settings: ApiSettings, *, rooms: Sequence[Room] = ROOMS) -> Iterator[Service]:
    """Run the API with a fake engine until the block ends."""
    engines: list[FakeEngine] = []

    def load(saved: SavedModel) -> Loaded:
        engines.append(FakeEngine(saved))
        return loaded(saved, engines[-1])

    with served(create_app(settings, rooms=rooms, load_engine=load)) as url:
        blobs = open_blobs(settings.blobs_url)
        redis = Redis.from_url(settings.redis_url, decode_responses=True)
        with httpx.Client(base_url=url, timeout=300, verify=NO_TLS) as http, redis:
            yield Service(
                http,
                settings,
                blobs,
                Corpora(blobs),
                Jobs(blobs),
                Models(blobs),
                Live(redis),
                EventLog(blobs),
                engines,
            )


@contextlib.contextmanager
def serving_with_keys(settings: ApiSettings, keys: Keys, **options: Any) -> Iterator[Service]:
    """Serve the API with a file of these keys."""
    file = settings.data_dir / "keys"
    file.write_text("\n".join(line for _, line in keys.values()))
    with serving(settings.model_copy(update={"api_keys_file": file}), **options) as running:
        yield running


def bearer_of(keys: Keys) -> Callable[[str], dict[str, str]]:
    """Return what returns the headers of calls with one of these keys."""
    return lambda name: {"Authorization": f"Bearer {keys[name][0]}"}


@contextlib.contextmanager
def serving_real(settings: ApiSettings, *saved: SavedModel) -> Iterator[httpx.Client]:
    """Run the API with the real runtime and these models until the block ends."""
    registry = Models(open_blobs(settings.blobs_url))
    for model in saved:
        registry.publish(model.card, {name: model.file(name) for name in model.card.files})
    with served(create_app(settings)) as url, httpx.Client(base_url=url, timeout=300, verify=NO_TLS) as http:
        yield http


_built_routes: dict[int, BaseRoute] = {}  # by the id of their router, which is a module's


def reuse_built_routes(app: FastAPI) -> None:
    """Give the application the routes that were built for one before it.

    FastAPI builds each router's routes when an application starts, from nothing that an application changes.
    That takes most of the time of a start, and the tests start many hundreds.
    """
    for at, route in enumerate(app.router.routes):
        router = getattr(route, "original_router", None)
        if router is not None:
            app.router.routes[at] = _built_routes.setdefault(id(router), route)


class _PromptAsyncio:
    """asyncio for uvicorn's server, which stops in steps of a tenth of a second: there are many hundreds."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, _: float) -> None:
        await asyncio.sleep(0.001)


uvicorn.server.asyncio = _PromptAsyncio()  # type: ignore[assignment,attr-defined]


class _CollectingGarbage:
    """gc for the application, which freezes what there is at its start: here also what others have left.

    Each would leave 8 MB and 9 open files for good.
    """

    @staticmethod
    def freeze() -> None:
        pass


nextchar.app.main.gc = _CollectingGarbage  # type: ignore[assignment]


class _PromptServer(Server):
    def __init__(self, config: uvicorn.Config, *, stopping: threading.Event) -> None:
        super().__init__(config, stopping=stopping)
        self.has_begun = threading.Event()  # to serve, or has ended

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        finally:
            self.has_begun.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_begun.set()

    async def main_loop(self) -> None:
        """Look whether to stop every 10 ms, where uvicorn does every 100: a test waits for it."""
        while not await self.on_tick(0):  # noqa: ASYNC110 -- another thread sets what it looks at
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def served(app: FastAPI, *, trusted_proxies: Sequence[str] = ()) -> Iterator[str]:
    """Serve `app` on a free port in a thread; yield its URL."""
    reuse_built_routes(app)
    config = server_config(
        app, trusted_proxies=trusted_proxies, port=0, log_level="warning", timeout_graceful_shutdown=1
    )
    with run_in_thread(config, stopping=app.state.stopping) as url:
        yield url


@contextlib.contextmanager
def run_in_thread(config: uvicorn.Config, *, stopping: threading.Event) -> Iterator[str]:
    """Run a server in a thread; yield its URL."""
    server = _PromptServer(config, stopping=stopping)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        server.has_begun.wait(120)
        assert server.started, "the application did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)


def error_of(answer: httpx.Response, status: int) -> dict[str, str]:
    """Check that an answer is an error of the one shape with this status; return the error."""
    assert answer.status_code == status, answer.text
    error: dict[str, str] = answer.json()["error"]
    assert set(answer.json()) == {"error"} and set(error) == {"type", "code", "message", "param"}
    assert answer.headers["x-request-id"]
    return error


def read_stream(lines: Iterator[str]) -> Iterator[tuple[str | None, str, dict[str, Any]]]:
    """Yield (id, event, data) of each server-sent event in the lines of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields.get("id"), fields["event"], json.loads(fields["data"])
            fields = {}


def until(condition: Callable[[], object], *, deadline_s: float = 120) -> None:
    """Wait until `condition()` is true; fail after `deadline_s` seconds."""
    eventually(condition, within_s=deadline_s)
