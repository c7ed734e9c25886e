"""What holds in every view of the console: accessibility, narrow screens, no injection."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import COLOR_RULES, violations
from tests.browser.console.windows import Open, open_view
from tests.browser.populated_service import MARKUP, PopulatedService

OPTIONS: dict[str, dict[str, Any]] = {
    # A name that differs from what is shown: axe has the rule switched off.
    "light": {"rules": {"label-content-name-mismatch": {"enabled": True}}},
    "dark": COLOR_RULES,
}
"""By color scheme: all rules, and those that depend on colors."""


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_axe_finds_no_violation_in_any_view(
    service: PopulatedService, open_window: Open, scheme: str
) -> None:
    page = open_window(service.url, scheme=scheme)
    found = {}
    for name, address in service.views.items():
        open_view(page, service, address)
        if name == "anomalies":
            page.get_by_label("Log lines").fill("lazy-fox bug\nlazxyyy-fox bug#\n")
            page.get_by_role("button", name="Find anomalies").click()
            page.locator(".log-line.anomalous").click()
            page.locator(".whole-line [data-index='3']").hover()
            page.locator(".characters li").first.wait_for()
        if name == "alerts":
            page.locator("tbody tr .link").first.click()
        if name == "live lines":
            page.locator(".live-lines li").first.wait_for()
        if name == "playground":
            page.locator(".characters li").first.wait_for()
        if name == "reference":  # tests/browser/test_reference.py looks into an operation
            page.locator(".opblock").first.wait_for()
        page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
        found |= {(name, rule): elements for rule, elements in violations(page, **OPTIONS[scheme]).items()}
    assert found == {}


def test_views_fit_narrow_screens_load_nothing_from_other_hosts_and_never_run_markup(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    page = open_window(service.url, width=360)
    other_hosts: list[str] = []
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((service.url, "blob:")) else other_hosts.append(request.url)
        ),
    )
    widths = {}
    for name, address in service.views.items():
        open_view(page, service, address)
        widths[name] = page.evaluate("document.documentElement.scrollWidth")
        assert page.evaluate("window.ran") is None
    assert {name: width for name, width in widths.items() if width > 360} == {}
    # Check that there was markup, also in names that the service rejects.
    open_view(page, service, service.views["job"])
    expect(page.locator(".sample").first).to_contain_text(MARKUP)
    open_view(page, service, service.views["train"])
    page.get_by_label("Model name").fill(MARKUP)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator(".field-error:visible")).not_to_be_empty()
    open_view(page, service, service.views["corpora"])
    file = tmp_path / MARKUP.replace("/", "-")
    file.write_bytes(b"\x89PNG\r\n")
    page.set_input_files("#file", file)
    expect(page.get_by_role("alert")).to_contain_text("onerror")
    open_view(page, service, f"/#/models/{MARKUP.replace('/', '')}")
    expect(page.get_by_role("alert")).to_contain_text("There is no model")
    assert page.evaluate("window.ran") is None
    assert other_hosts == []
