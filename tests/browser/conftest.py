"""A real browser, and a real service for it to look at. Without a browser these tests are skipped by name.

page     a fresh window of chromium, in which an error on the page fails the test
site     the running API, with models whose answers are obvious (`tests/browser/reciting.py`)
visit    a window at a page of the site, with whatever HTML the test gives it
asked    what the page has asked the service to complete
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect, sync_playwright

from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from nextchar.models.saved_model import SavedModel
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.service import served
from tests.browser.reciting import following, reciting

expect.set_options(timeout=60_000)

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
"""The program. The headless shell is the same engine without a desktop's windows: a page takes a third of the
processor time."""

FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

LINE = "lazy-fox bug\n"
"""What the model `line` recites, over and over."""

HEBREW = "שלומ עבד\n"
"""What the model `hebrew` recites."""

NAMES: dict[str, dict[str, float]] = {
    "\n": {"a": 1.0},
    "a": {"d": 0.5, "n": 0.3, "l": 0.2},
    "d": {"\n": 1.0},
    "n": {"\n": 1.0},
    "l": {"\n": 1.0},
}
"""The model `names` knows ad, an and al, from likely to less so."""


@dataclass(frozen=True)
class Site:
    """A running service."""

    url: str
    models: Models
    settings: ApiSettings

    def publish(self, saved: SavedModel) -> None:
        """Publish a model as its name's next version."""
        self.models.publish(saved.card, {name: saved.file(name) for name in saved.card.files})


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, for the package: while it runs, this thread is not free for another event loop."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Site]:
    """The API as production runs it, with the models `line`, `hebrew` and `names`."""
    settings = ApiSettings(data_dir=tmp_path_factory.mktemp("site"), redis_url=redis_url, port=0)
    models = Models(open_blobs(settings.blobs_url))
    with served(create_app(settings)) as url:
        running = Site(url, models, settings)
        for saved in (reciting("line", LINE), reciting("hebrew", HEBREW), following("names", NAMES)):
            running.publish(saved)
            answer = httpx.post(f"{url}/v1/models/{saved.card.name}/next", json={"prompt": "a"}, timeout=60)
            assert answer.status_code == 200, answer.text  # loaded: no test waits for it
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window 800 pixels wide, in light colours; an uncaught error in it fails the test."""
    context = browser.new_context(viewport={"width": 800, "height": 600}, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    errors: list[str] = []
    window = context.new_page()
    window.on("pageerror", lambda error: errors.append(str(error)))
    yield window
    context.close()
    assert errors == []


@pytest.fixture
def visit(page: Page, site: Site) -> Callable[[str], Page]:
    """A function that shows a body of HTML as a page of the site, with the module loaded, and returns it."""

    def show(body: str) -> Page:
        html = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>t</title>"
            f'<script type=module src="/clients/js/nextchar.js"></script><body>{body}</body></html>'
        )

        def answer(route: Route) -> None:
            route.fulfill(body=html, content_type="text/html; charset=utf-8")

        page.route("**/test-page", answer)
        page.goto(f"{site.url}/test-page")
        return page

    return show


@pytest.fixture
def asked(page: Page) -> list[dict[str, Any]]:
    """The bodies of the completions and suggestions that the page has asked for so far."""
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith(("/complete", "/suggest")) and request.method == "POST":
            bodies.append(request.post_data_json)

    page.on("request", note)
    return bodies


def module_path(name: str) -> Path:
    """Return the path of a file of the JavaScript client."""
    return Path(__file__).parents[2] / "clients" / "js" / name
