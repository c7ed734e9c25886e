"""The API reference: what is listed and found, a call that is tried, its key, and how it looks."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Locator, Page, Request, expect

from nextchar.app.access.keys import new_key
from nextchar.app.main import create_app
from tests.app.service import served
from tests.browser.axe import COLOR_RULES, violations
from tests.browser.conftest import Site

COMPLETE = "/v1/models/{model}/complete"
COLORS_FADED = """async () => {
  while (document.getAnimations().length) {
    await Promise.allSettled(document.getAnimations().map(({ finished }) => finished));
  }
}"""
LOOKS = [*itertools.product(("light", "dark"), (1200, 390))]


@pytest.fixture
def requests(page: Page) -> list[Request]:
    """All requests of the page so far."""
    made: list[Request] = []
    page.on("request", lambda request: made.append(request))  # noqa: PLW0108 - playwright marks the function
    return made


@pytest.fixture
def reference(page: Page, site: Site, requests: list[Request]) -> Iterator[Page]:
    """The reference, which breaks its policy nowhere and loads nothing from another host."""
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
    page.goto(f"{site.url}/docs")
    page.locator(".opblock").first.wait_for()
    yield page
    assert {urlsplit(one.url).netloc for one in requests if not one.url.startswith("data:")} == {
        urlsplit(site.url).netloc
    }
    assert messages == []


def open_operation(page: Page, path: str = COMPLETE) -> Locator:
    """Expand an operation, ready to be tried."""
    page.get_by_label("Search operations and fields").fill(path)
    operation = page.locator(".opblock", has=page.get_by_text(path, exact=True))
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    return operation


def try_completion(page: Page) -> Locator:
    """Ask the model `line` to complete; return what is shown of the answer."""
    operation = open_operation(page)
    operation.get_by_placeholder("model").fill("line")
    operation.get_by_label("Request body").fill('{"prompt": "la", "until": "line", "temperature": 0}')
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table")
    answer.wait_for()
    return answer


def test_every_operation_is_listed_and_search_finds_them_by_path_description_and_field(
    reference: Page, site: Site
) -> None:
    paths = httpx.get(f"{site.url}/openapi.json").json()["paths"]
    operations = sum(len(methods) for methods in paths.values())
    expect(reference.locator(".opblock")).to_have_count(operations)
    reference.keyboard.press("/")
    search = reference.get_by_label("Search operations and fields")
    expect(search).to_be_focused()
    for words, path in (
        ("confidence_bits", COMPLETE),
        ("delete calibrations", "/v1/models/{model}/calibrations/{name}"),
        ("previous VERSION; repeat further", "/v1/models/{model}/aliases/{alias}/rollback"),
    ):
        search.fill(words)
        expect(reference.locator(".opblock")).to_have_count(1)
        expect(reference.locator(".opblock-summary-path")).to_have_attribute("data-path", path)
        expect(reference.locator("#found")).to_contain_text("1 of ")
    search.fill("no such words anywhere")
    expect(reference.locator(".opblock")).to_have_count(0)
    search.fill("")
    expect(reference.locator(".opblock")).to_have_count(operations)
    expect(reference.locator(".opblock").last).to_be_visible()


def test_an_address_opens_an_operation(reference: Page, site: Site) -> None:
    open_operation(reference)
    address = reference.url
    assert urlsplit(address).fragment
    reference.goto("about:blank")
    reference.goto(address)
    expect(reference.locator(".opblock.is-open .opblock-summary-path")).to_have_attribute(
        "data-path", COMPLETE
    )


def test_the_menu_leads_to_the_operations_of_a_subject(reference: Page, site: Site) -> None:
    document = httpx.get(f"{site.url}/openapi.json").json()
    used = {tag for methods in document["paths"].values() for one in methods.values() for tag in one["tags"]}
    menu = reference.get_by_role("navigation", name="Operations by subject").get_by_role("button")
    assert set(map(str.lower, menu.all_inner_texts())) == set(map(str.lower, used))
    assert used == {tag["name"] for tag in document["tags"]}
    menu.filter(has_text="alerts").click()
    expect(reference.locator('[data-tag="alerts"]')).to_be_in_viewport()


def test_every_operation_says_what_it_does_and_shows_its_call_by_curl_and_python(
    reference: Page, site: Site
) -> None:
    paths = httpx.get(f"{site.url}/openapi.json").json()["paths"]
    for methods in paths.values():
        for operation in methods.values():
            summary = operation["summary"]
            assert " " in summary and summary[0].isupper() and not summary.istitle(), summary
    operation = open_operation(reference)
    curl, python = operation.locator(".examples pre").all_inner_texts()
    calls = f"'{site.url}{COMPLETE.replace('{model}', 'line')}'"
    shell = curl.replace("MODEL", "line")
    assert calls in shell and "Authorization" not in curl + python
    for command in (["bash", "-c", f"{shell} -s"], [sys.executable, "-c", python.replace("MODEL", "line")]):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert json.loads(done.stdout)["object"] == "completion", done.stdout
    expect(reference.locator(".authorization__btn, .btn.authorize")).to_have_count(0)


def test_a_key_is_sent_in_a_header_only_and_shared_with_the_console(
    page: Page, site: Site, tmp_path: Path, requests: list[Request]
) -> None:
    secret, line = new_key("reader", scopes="read,complete")
    (tmp_path / "keys.txt").write_text(line)
    settings = site.settings.model_copy(update={"api_keys_file": tmp_path / "keys.txt"})
    with served(create_app(settings)) as url:
        page.goto(f"{url}/docs")
        expect(try_completion(page)).to_contain_text("this call needs an API key")
        expect(page.locator(".examples pre").first).to_contain_text("Bearer $NEXTCHAR_API_KEY")
        page.get_by_label("Search operations and fields").fill("/healthz")
        expect(page.locator(".opblock .authorization__btn")).to_have_count(0)
        page.get_by_label("Search operations and fields").fill(COMPLETE)
        page.locator(".scheme-container").get_by_role("button", name="Authorize").click()
        page.locator("#auth-bearer-value").fill(secret)
        page.get_by_label("Apply credentials").click()
        page.locator(".modal-ux").get_by_role("button", name="Close").last.click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table")).to_contain_text("zy-fox bug")

        page.goto(f"{url}/#/models")  # asks for no key
        expect(page.get_by_role("link", name="line", exact=False).first).to_be_visible()
        page.goto(f"{url}/docs")
        expect(try_completion(page)).to_contain_text("zy-fox bug")
    sent = [one for one in requests if one.method == "POST"]
    assert [one.headers.get("authorization") for one in sent] == [None, *[f"Bearer {secret}"] * 2]
    assert not any(secret in one.url for one in requests)


@pytest.mark.long  # the console's views are in make test
def test_axe_finds_nothing_and_nothing_sticks_out(reference: Page) -> None:
    try_completion(reference)
    reference.get_by_text("Schema", exact=True).first.click()
    for scheme, width in LOOKS:
        reference.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        reference.set_viewport_size({"width": width, "height": 800})
        reference.evaluate(COLORS_FADED)
        assert reference.evaluate("document.documentElement.scrollWidth") <= width
        is_dark = reference.evaluate(
            """() => Math.max(...getComputedStyle(document.querySelector("#reference .opblock"))
              .backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)) < 64"""
        )
        assert is_dark == (scheme == "dark")
        assert violations(reference, **(COLOR_RULES if is_dark else {})) == {}, (scheme, width)
