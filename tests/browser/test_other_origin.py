"""The script tag on a page of another origin than the service's, allowed to call it and not."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
from playwright.sync_api import Page, expect

from nextchar.app.main import create_app
from tests.app.service import served
from tests.browser.conftest import Site
from tests.http_server import QuietHTTPServer

# What README shows, and the errors that the page gets.
PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>t</title><body>
<script>const errors = []; addEventListener("nextchar:error", (event) => errors.push(event.detail));</script>
<script type="module" src="{url}/clients/js/nextchar.js"></script>
<textarea data-nextchar="line"></textarea></body></html>"""


@pytest.fixture
def origin() -> Iterator[str]:
    """The origin of a web server whose page uses the service that the path names.

    A real server: chromium asks its user before a routed page of another host may call this machine.
    """

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(PAGE.format(url=f"http://{self.path[1:]}").encode())

        def log_message(self, *_: object) -> None: ...

    with QuietHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
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


def test_page_of_an_origin_that_is_not_allowed_names_the_setting_that_allows_it(
    page: Page, site: Site, origin: str
) -> None:
    warnings = type_on_page(page, origin, site.url)
    page.wait_for_function("errors.length >= 2")  # a second later; not logged again
    fix = f"start the service with NEXTCHAR_ALLOWED_ORIGINS={origin}"
    assert warnings == [f"nextchar: the page's origin {origin} may not call {site.url}: {fix}"]
    error = page.evaluate("(({ error, pause }) => [error.name, error.code, error.message, pause])(errors[0])")
    assert error == ["NextcharError", "origin_not_allowed", warnings[0].removeprefix("nextchar: "), 1000]


def test_page_of_an_origin_that_is_allowed_has_ghost_text(page: Page, site: Site, origin: str) -> None:
    allowed = site.settings.model_copy(update={"allowed_origins": origin})
    with served(create_app(allowed)) as url:
        assert httpx.post(f"{url}/v1/models/line/next", json={"prompt": "a"}, timeout=60).status_code == 200
        warnings = type_on_page(page, origin, url)
        expect(page.locator("textarea + div")).to_contain_text("zy-fox bug")
        assert warnings == [] and page.evaluate("errors") == []


def test_service_that_does_not_run_is_unreachable_and_the_setting_is_named_too(
    page: Page, site: Site, origin: str
) -> None:
    page.route("**/v1/models/**", lambda route: route.abort())
    page.route("**/healthz", lambda route: route.abort())
    warnings = type_on_page(page, origin, site.url)
    page.wait_for_function("errors.length >= 1")
    assert page.evaluate("errors[0].error.code") == "unreachable" and warnings == []
    fix = f"start the service, with NEXTCHAR_ALLOWED_ORIGINS={origin} to allow this page"
    assert page.evaluate("errors[0].error.message") == f"{site.url} does not respond: {fix}"


def test_highlighter_names_the_setting_too(page: Page, site: Site, origin: str) -> None:
    warnings: list[str] = []
    page.on("console", lambda said: warnings.append(said.text) if said.type == "warning" else None)
    page.goto(f"{origin}/{site.url.removeprefix('http://')}")
    code = page.evaluate(
        f"""async () => {{
          const {{ highlight }} = await import('{site.url}/clients/js/nextchar.js');
          document.body.append(Object.assign(document.createElement('p'), {{ textContent: 'lazy' }}));
          const marks = highlight(document.querySelector('p'), {{ model: 'line' }});
          return marks.ready.catch((error) => error.code);
        }}"""
    )
    assert code == "origin_not_allowed" and page.evaluate("errors[0].error.code") == code
    assert len(warnings) == 1 and f"NEXTCHAR_ALLOWED_ORIGINS={origin}" in warnings[0]


@pytest.mark.parametrize("path", ["nextchar.js", "codemirror.js", "monaco.js"])
def test_modules_themselves_are_for_every_page(page: Page, site: Site, origin: str, path: str) -> None:
    page.goto(f"{origin}/nowhere")
    assert page.evaluate(f"import('{site.url}/clients/js/{path}').then(Object.keys)")
