"""The example page of the JavaScript client: it works, is accessible, and loads nothing from other hosts."""

import itertools
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.browser.axe import violations
from tests.browser.conftest import Site

LOOKS = [*itertools.product(("light", "dark"), (800, 360))]


@pytest.fixture
def hosts(page: Page) -> list[str]:
    """The hosts that the page has sent requests to."""
    asked: list[str] = []

    def note(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob"):
            asked.append(parts.netloc)

    page.on("request", note)
    return asked


@pytest.fixture
def example(page: Page, site: Site, hosts: list[str]) -> Iterator[Page]:
    """The page with the model `line` selected; no other host gets a request."""
    page.goto(f"{site.url}/clients/js/example.html")
    page.get_by_label("Model").select_option("line")
    yield page
    assert set(hosts) == {urlsplit(site.url).netloc}


def in_use(page: Page) -> None:
    """Show ghost text and marks."""
    page.get_by_label("Check").fill("lazy-fzx bug")
    expect(page.locator("#found")).to_have_text("Anomalous: “zx”")
    page.get_by_label("Write").press_sequentially("la")
    expect(page.locator("[aria-hidden=true] span").last).to_have_text("zy-fox bug")


def test_ghost_text_list_and_highlighter_work(example: Page) -> None:
    in_use(example)
    example.keyboard.press("Tab")
    expect(example.get_by_label("Write")).to_have_value("lazy-fox bug")
    example.get_by_label("Model").select_option("names")
    example.get_by_label("Begin a line").press_sequentially("a")
    example.locator(".nextchar-list li", has_text="an").click()
    expect(example.get_by_label("Begin a line")).to_have_value("an")


@pytest.mark.parametrize(("light", "width"), LOOKS)
@pytest.mark.long  # the console's views are in make test
def test_axe_finds_no_violation_and_nothing_overflows(example: Page, light: str, width: int) -> None:
    example.emulate_media(color_scheme="dark" if light == "dark" else "light")
    example.set_viewport_size({"width": width, "height": 800})
    in_use(example)
    assert example.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(example) == {}
    example.get_by_label("Begin a line").press_sequentially("la")
    expect(example.locator(".nextchar-list li").first).to_have_text("lazy")
    example.keyboard.press("ArrowDown")
    assert violations(example) == {}


def test_ghost_text_has_enough_contrast_in_dark_mode(example: Page) -> None:
    example.emulate_media(color_scheme="dark")
    in_use(example)
    # Found and measured at once: it is drawn again four times per second.
    color = "getComputedStyle([...document.querySelectorAll('[aria-hidden=true] span')].at(-1)).color"
    assert contrast(example.evaluate(color), example) >= 4.5


def contrast(color: str, page: Page) -> float:
    """Return the WCAG contrast of a color on the textarea's background, as the browser blends them."""
    pixels = page.evaluate(
        """color => {
          const background = getComputedStyle(document.querySelector('#write')).backgroundColor;
          const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
          const pen = canvas.getContext('2d');
          return [background, color].map((fill) => {
            pen.fillStyle = fill;
            pen.fillRect(0, 0, 1, 1);
            return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
          });
        }""",
        color,
    )
    light = sorted(
        sum(
            share * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for share, c in zip((0.2126, 0.7152, 0.0722), (v / 255 for v in pixel), strict=True)
        )
        for pixel in pixels
    )
    return float((light[1] + 0.05) / (light[0] + 0.05))


def test_page_of_a_service_without_models_says_what_to_do(page: Page, site: Site) -> None:
    page.route(
        "**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": [], "has_more": False})
    )
    page.goto(f"{site.url}/clients/js/example.html")
    expect(page.locator("#state")).to_contain_text("There is no model yet: train one in the console")


def test_page_of_a_service_that_requires_a_key_says_so(page: Page, site: Site) -> None:
    error = {
        "type": "authentication_error",
        "code": "api_key_missing",
        "message": "this call needs a key",
        "param": None,
    }
    page.route("**/v1/models", lambda route: route.fulfill(status=401, json={"error": error}))
    page.goto(f"{site.url}/clients/js/example.html")
    expect(page.locator("#state")).to_have_text("this call needs a key.")


def test_module_works_under_the_consoles_content_security_policy(browser: Browser, site: Site) -> None:
    """Under the strictest Content-Security-Policy: no markup is parsed, no style is written as text."""
    from nextchar.app.console.routes import POLICY

    context = browser.new_context()
    page = context.new_page()
    broken: list[str] = []
    page.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
    html = (
        '<!doctype html><title>t</title><script type=module src="/clients/js/nextchar.js"></script>'
        "<textarea id=t data-nextchar=line></textarea>"
        "<input id=f data-nextchar=names data-nextchar-mode=list>"
    )
    headers = {"Content-Security-Policy": POLICY}
    page.route(
        "**/strict",
        lambda route: route.fulfill(body=html, headers=headers, content_type="text/html; charset=utf-8"),
    )
    page.goto(f"{site.url}/strict")
    page.locator("#t").press_sequentially("la")
    expect(page.locator("[aria-hidden=true] span").last).to_have_text("zy-fox bug")
    page.locator("#f").press_sequentially("a")
    expect(page.get_by_role("option")).to_have_text(["ad", "an", "al"])
    assert broken == []
    context.close()
