"""Texts, reports and samples of an attacker in the console, and the key of its user."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Request, expect

from nextchar.app.main import create_app
from tests.app.service import served
from tests.browser.console.windows import Open, open_view, settled
from tests.browser.populated_service import MARKUP, PopulatedService, populated_service
from tests.browser.reciting import reciting

RECITED = "<img src=x>"
"""Markup that a model can recite: each of its characters is there once."""

HOSTILE_VIEWS = ("model", "compare", "playground", "anomalies", "models", "home")


def with_markup(value: Any) -> Any:
    """Return a report with markup in place of each string."""
    if isinstance(value, dict):
        return {key: with_markup(one) for key, one in value.items()}
    if isinstance(value, list):
        return [with_markup(one) for one in value]
    return MARKUP if isinstance(value, str) else value


def test_what_a_model_generates_is_shown_as_text(service: PopulatedService, open_window: Open) -> None:
    service.publish(reciting("markup", RECITED))
    page = open_window(f"{service.url}/#/playground?model=markup@1")
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    settled(page)
    area = page.get_by_label("Your text")
    expect(area).to_have_attribute("aria-autocomplete", "inline")
    area.press_sequentially("<i")
    page.get_by_text("mg src=x>").first.wait_for()  # the ghost text
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".generated")).to_contain_text("mg src=x><img src=x>")
    assert page.locator("main img").count() == 0 and f"{service.url}/x" not in loaded


def test_report_of_an_imported_model_is_shown_as_text(service: PopulatedService, open_window: Open) -> None:
    report = service.models.get("line@1").card.report
    hostile = service.publish(reciting("hostile", RECITED), report=with_markup(report), masks=("ip",))
    page = open_window(service.url)
    for view in HOSTILE_VIEWS:
        open_view(page, service, service.views[view].replace("line@1", hostile))
        page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
        assert page.evaluate("window.ran") is None, view
        assert page.locator("main img, main script").count() == 0, view
    open_view(page, service, f"/#/models/{hostile}")
    expect(page.locator("main")).to_contain_text("onerror")


def test_key_is_in_no_address_no_storage_that_stays_and_no_log(
    tmp_path: Path, redis_url: str, open_window: Open, caplog: pytest.LogCaptureFixture
) -> None:
    key = "nck_a-key-that-nobody-may-see"
    (tmp_path / "keys").write_text(f"user sha256={hashlib.sha256(key.encode()).hexdigest()} scopes=admin\n")
    with populated_service(tmp_path / "data", redis_url) as filled:
        settings = filled.settings.model_copy(update={"api_keys_file": tmp_path / "keys"})
    made: list[Request] = []
    said: list[str] = []
    with served(create_app(settings)) as url:
        page = open_window("about:blank")
        page.on("request", lambda request: made.append(request))  # noqa: PLW0108 - playwright marks the function
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{url}/#/models", timeout=60_000)
        page.get_by_role("textbox", name="API key").fill(key)
        page.get_by_role("button", name="Use key").click()
        settled(page)
        for address in filled.views.values():
            page.goto(url + address)
            page.locator("h1").first.wait_for()
            assert key not in page.url
        kept = page.evaluate("[JSON.stringify(localStorage), document.cookie, document.referrer]")
    assert key not in json.dumps(kept)
    assert all(key not in request.url and key not in (request.post_data or "") for request in made)
    sent = [request.headers.get("authorization") for request in made]
    assert f"Bearer {key}" in sent  # the calls had it, as a header
    assert key not in "\n".join(said) and key not in caplog.text
