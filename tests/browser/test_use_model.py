"""The card "Use this model": its tabs, and each snippet taken from the page and run as it is."""

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from nextchar.app.access.keys import new_key
from nextchar.app.main import create_app
from tests.app.service import served
from tests.browser.axe import violations
from tests.browser.conftest import Site
from tests.browser.reciting import reciting
from tests.http_server import QuietHTTPServer

CLIENT = Path(__file__).parents[2] / "clients" / "python"
LINE = "I'm \"so&<$up>\n"
"""What the model recites: each character once, and those that a shell, a string or a page could mistake."""

START, END = LINE[:7], LINE[7:-1]
"""The prompt of the snippets, and what follows it."""

Host = Callable[[str], str]
Run = Callable[[list[str]], str]

both, open_, keyed = (
    pytest.mark.parametrize("service", keys, ids=["key" if one else "no key" for one in keys], indirect=True)
    for keys in ([False, True], [False], [True])
)
"""Whether the service requires API keys; each snippet is run with some of them."""


@dataclass(frozen=True)
class Service:
    """A service with a model trained on LINE, and the key that it requires, if any."""

    url: str
    key: str | None

    def open_model(self, page: Page) -> Locator:
        """Open the model's page; return the card."""
        if self.key:
            page.add_init_script(f"sessionStorage.setItem('nextchar.key', '{self.key}')")
        page.goto(f"{self.url}/#/models/quoted@1")
        return card_of(page)

    def snippet(self, page: Page, tab: str) -> str:
        """Return the code of a tab, with the key in place of its placeholder."""
        card = self.open_model(page)
        card.get_by_role("tab", name=tab, exact=True).click()
        code = card.locator("pre").text_content() or ""
        assert ("YOUR_API_KEY" in code) == bool(self.key)
        return code.replace("YOUR_API_KEY", self.key or "")


@pytest.fixture
def host() -> Iterator[Host]:
    """A function that serves a page of HTML at another origin than the service's; returns its address."""
    pages: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if self.path == "/":
                self.wfile.write(pages[-1].encode())

        def log_message(self, *_: object) -> None: ...

    with QuietHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def serve(body: str = "") -> str:
            pages.append(f"<!doctype html><html lang=en><meta charset=utf-8><title>t</title>{body}</html>")
            return f"http://127.0.0.1:{server.server_address[1]}/"

        yield serve
        server.shutdown()
        thread.join()


@pytest.fixture
def service(request: pytest.FixtureRequest, site: Site, host: Host, tmp_path: Path) -> Iterator[Service]:
    """A service that allows pages of `host`; with `both`, without and with API keys."""
    changes: dict[str, object] = {"allowed_origins": host("").rstrip("/")}
    secret = None
    if getattr(request, "param", False):
        secret, line = new_key("test", scopes="read,complete,train")
        (tmp_path / "keys.txt").write_text(line)
        changes["api_keys_file"] = tmp_path / "keys.txt"
    with served(create_app(site.settings.model_copy(update=changes))) as url:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            corpus = http.post("/v1/corpora", content=(LINE * 20).encode()).json()["id"]
            if http.get("/v1/models/quoted@1").status_code == 404:  # the storage is the site's, for all tests
                saved = reciting("quoted", LINE)
                card = saved.card.model_copy(update={"corpus": corpus})
                site.models.publish(card, {name: saved.file(name) for name in card.files})
            assert http.post("/v1/models/quoted@1/next", json={"prompt": "o"}).status_code == 200  # loaded
        yield Service(url, secret)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs a program as on a machine where `nextchar` is installed; returns its output."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "nextchar"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m nextchar "$@"\n')
    command.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("NEXTCHAR_", "OPENAI_"))
    }
    environment |= {"PYTHONPATH": str(CLIENT), "PATH": f"{command.parent}:{os.environ['PATH']}"}

    def output(arguments: list[str]) -> str:
        done = subprocess.run(
            arguments, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return output


def card_of(page: Page) -> Locator:
    """Return the card, once it is there."""
    card = page.get_by_role("region", name="Use this model")
    card.wait_for()
    return card


# Each snippet runs


@pytest.mark.parametrize(("service", "tab"), [(False, "Python"), (True, "openai SDK")], indirect=["service"])
def test_python_snippets_run(service: Service, page: Page, run: Run, tab: str) -> None:
    assert run([sys.executable, "-c", service.snippet(page, tab)]).startswith(END)


@both
def test_the_curl_snippet_runs(service: Service, page: Page, run: Run) -> None:
    answer = run(["sh", "-c", service.snippet(page, "curl")])
    assert json.loads(answer)["completions"][0]["text"].startswith(END)


@keyed
def test_the_command_line_snippet_runs(service: Service, page: Page, run: Run) -> None:
    assert END in run(["sh", "-c", service.snippet(page, "Command line")])


@open_
def test_the_html_snippet_gives_ghost_text_on_a_page_of_another_origin(
    service: Service, page: Page, host: Host
) -> None:
    page.goto(host(service.snippet(page, "HTML")))
    page.locator("textarea").press_sequentially(START)
    expect(page.locator("textarea + div")).to_contain_text(END)


@keyed
def test_the_javascript_snippet_runs_on_a_page_of_another_origin(
    service: Service, page: Page, host: Host
) -> None:
    address = host(f'<script type="module">{service.snippet(page, "JavaScript")}</script>')
    with page.expect_console_message() as message:
        page.goto(address)
    assert message.value.text.startswith(END)


# The card


def test_a_prompt_is_the_start_of_the_training_text_or_a_known_character(
    service: Service, page: Page
) -> None:
    assert f'"prompt": {json.dumps(START)}'.replace("'", "'\\''") in service.snippet(page, "curl")
    page.goto(f"{service.url}/#/models/line@1")  # its text is not there
    expect(card_of(page).locator("pre")).to_contain_text('{"prompt": "')


@open_
@pytest.mark.parametrize(
    ("kind", "tabs", "call"),
    [("records", ["HTML", "JavaScript"], "/suggest"), ("log", ["JavaScript", "Python"], "/score")],
)
def test_the_code_does_what_the_kind_of_the_model_is_for(
    service: Service, site: Site, page: Page, run: Run, kind: str, tabs: list[str], call: str
) -> None:
    saved = reciting(kind, LINE)
    site.models.publish(
        saved.card.model_copy(update={"kind": kind}), {name: saved.file(name) for name in saved.card.files}
    )
    page.goto(f"{service.url}/#/models/{kind}")
    card = card_of(page)
    assert card.get_by_role("tab").all_text_contents()[:2] == tabs
    card.get_by_role("tab", name="curl").click()
    code = card.locator("pre").text_content() or ""
    assert call in code
    answer = json.loads(run(["sh", "-c", code]))
    assert "suggestions" in answer or "lines" in answer, answer


def test_tabs_are_used_by_keyboard_and_the_chosen_one_is_remembered(service: Service, page: Page) -> None:
    card = service.open_model(page)
    tabs = card.get_by_role("tab")
    expect(tabs).to_have_count(6)
    tabs.first.focus()
    for key, name in (
        ("ArrowLeft", "openai SDK"),
        ("ArrowRight", "HTML"),
        ("End", "openai SDK"),
        ("Home", "HTML"),
        ("ArrowRight", "JavaScript"),
        ("ArrowRight", "Python"),
    ):
        page.keyboard.press(key)
        tab = card.get_by_role("tab", name=name, exact=True)
        expect(tab).to_be_focused()
        expect(card.get_by_role("tab", selected=True)).to_have_text(name)
        expect(card.get_by_role("tabpanel", name=name)).to_be_visible()
    page.keyboard.press("Tab")
    expect(card.get_by_role("tabpanel")).to_be_focused()
    page.keyboard.press("Tab")
    expect(card.get_by_role("button", name="Copy")).to_be_focused()
    page.reload()
    expect(card_of(page).get_by_role("tab", selected=True)).to_have_text("Python")


@pytest.mark.parametrize("clipboard", ["allowed", "denied", "missing"])
def test_copy_needs_no_permission(service: Service, page: Page, clipboard: str) -> None:
    if clipboard == "allowed":
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    elif clipboard == "denied":
        page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(new Error('denied'))")
    else:  # as on a page that came by plain HTTP from another machine
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    card = service.open_model(page)
    card.get_by_role("tab", name="curl").click()
    card.get_by_role("button", name="Copy").click()
    expect(card.get_by_role("status")).to_have_text("Copied")
    expect(card.get_by_role("button", name="Copy")).to_be_focused()
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), { id: 'paste' }))")
    page.locator("#paste").focus()
    page.keyboard.press("Control+V")
    expect(page.locator("#paste")).to_have_value(card.locator("pre").text_content() or "")


def test_tabs_for_pages_explain_which_origins_are_allowed(service: Service, page: Page) -> None:
    card = service.open_model(page)
    for tab, is_for_pages in (("HTML", True), ("JavaScript", True), ("Python", False), ("curl", False)):
        card.get_by_role("tab", name=tab, exact=True).click()
        expect(card.get_by_text("NEXTCHAR_ALLOWED_ORIGINS")).to_have_count(int(is_for_pages))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.long  # the console's views are in make test
def test_axe_finds_nothing_and_nothing_sticks_out(service: Service, page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 390, "height": 800})
    card = service.open_model(page)
    for name in ("HTML", "Command line", "openai SDK"):
        card.get_by_role("tab", name=name, exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(page, "[aria-labelledby='use-model-title']") == {}
