"""The script tag on a page of another origin than the service's: what it needs, and what it says without."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from playwright.sync_api import Page, expect

from app.main import create_app
from tests.app.service import served
from tests.browser.conftest import Site

# Exactly what README shows, and what the page hears of it.
PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>t</title><body>
<script>const heard = []; addEventListener("nextchar:error", (event) => heard.push(event.detail));</script>
<script type="module" src="{url}/clients/js/nextchar.js"></script>
<textarea data-nextchar="line"></textarea></body></html>"""


@pytest.fixture
def origin() -> Iterator[str]:
    """A web server with the page of somebody else, for the service that the path names; its origin.

    A real one: for a page that only pretends to be from this machine, chromium asks its user first.
    """

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(PAGE.format(url=f"http://{self.path[1:]}").encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def type_on_page(page: Page, origin: str, url: str) -> list[str]:
    """Type into the page of `origin` with the script of the service at `url`; return the growing warnings."""
    warnings: list[str] = []
    page.on("console", lambda said: warnings.append(said.text) if said.type == "warning" else None)
    page.goto(f"{origin}/{url.removeprefix('http://')}")
    page.locator("textarea").press_sequentially("la")
    return warnings


def test_page_of_an_origin_that_is_not_allowed_says_which_setting_allows_it(
    page: Page, site: Site, origin: str
) -> None:
    warnings = type_on_page(page, origin, site.url)
    page.wait_for_function("heard.length >= 2")  # the second time, a second later, there is no more to say
    fix = f"start it with NEXTCHAR_ALLOWED_ORIGINS={origin}"
    assert warnings == [f"nextchar: the service at {site.url} does not allow pages of {origin}: {fix}"]
    error = page.evaluate("(({ error, pause }) => [error.name, error.code, error.message, pause])(heard[0])")
    assert error == ["NextcharError", "origin_not_allowed", warnings[0].removeprefix("nextchar: "), 1000]


def test_page_of_an_origin_that_is_allowed_has_ghost_text(page: Page, site: Site, origin: str) -> None:
    allowed = site.settings.model_copy(update={"allowed_origins": origin})
    with served(create_app(allowed)) as url:
        assert httpx.post(f"{url}/v1/models/line/next", json={"prompt": "a"}, timeout=60).status_code == 200
        warnings = type_on_page(page, origin, url)
        expect(page.locator("textarea + div")).to_contain_text("zy-fox bug")
        assert warnings == [] and page.evaluate("heard") == []


def test_page_says_that_a_service_that_is_gone_does_not_answer(page: Page, site: Site, origin: str) -> None:
    page.route("**/v1/models/**", lambda route: route.abort())
    page.route("**/healthz", lambda route: route.abort())
    warnings = type_on_page(page, origin, site.url)
    page.wait_for_function("heard.length >= 1")
    assert page.evaluate("heard[0].error.code") == "unreachable" and warnings == []


@pytest.mark.parametrize("path", ["nextchar.js", "codemirror.js", "monaco.js"])
def test_modules_themselves_are_for_every_page(page: Page, site: Site, origin: str, path: str) -> None:
    page.goto(f"{origin}/nowhere")
    assert page.evaluate(f"import('{site.url}/clients/js/{path}').then(Object.keys)")
