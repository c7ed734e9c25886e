"""Windows of the console in tests."""

import re
from collections.abc import Callable

from playwright.sync_api import Page

from tests.browser.populated_service import PopulatedService

Open = Callable[..., Page]


def settled(page: Page) -> Page:
    """Wait until the view of the address is shown."""
    page.locator("#main:not([aria-busy]) h1").first.wait_for()
    return page


def open_view(page: Page, service: PopulatedService, address: str) -> Page:
    """Show another view in the same window."""
    page.goto(service.url + address)
    return settled(page)


def is_page_error(message: str) -> bool:
    """Return whether a console message reports a script error or a policy violation, not a failed request."""
    return re.search("Content Security Policy|TrustedHTML|TypeError|ReferenceError", message) is not None
