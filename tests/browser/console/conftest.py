"""What the tests of the console share: a service with data, and browser windows that fail on errors."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.console.windows import Open, is_page_error
from tests.browser.populated_service import PopulatedService, populated_service


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[PopulatedService]:
    """A service with data for every view."""
    with populated_service(tmp_path_factory.mktemp("service"), redis_url) as running:
        yield running


@pytest.fixture
def open_window(browser: Browser) -> Iterator[Open]:
    """A function that opens an address in a new window; an error on any page fails the test."""
    contexts = []
    errors: list[str] = []

    def open_at(address: str, *, width: int = 1200, scheme: Any = "light", **options: Any) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce", **options
        )
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda log: errors.append(log.text) if is_page_error(log.text) else None)
        page.goto(address)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert errors == []
