"""The console's playground: ghost text, the next character, several models."""

import re

import httpx
from playwright.sync_api import expect

from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import LINE, PopulatedService
from tests.browser.reciting import reciting


def test_ghost_text_and_the_distribution_follow_the_cursor(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views["playground"]))
    area = page.get_by_label("Your text")
    expect(area).to_have_attribute("aria-autocomplete", "inline")  # the client is loaded
    area.press_sequentially("laz")
    first = page.locator(".characters li .visually-hidden").first
    expect(first).to_have_text("y, 100 %")
    page.get_by_text("y-fox bug").wait_for()  # the ghost text
    area.press("Tab")
    expect(area).to_have_value("lazy-fox bug")
    expect(first).to_have_text("new line, 100 %")
    for _ in range(4):
        area.press("ArrowLeft")
    expect(first).to_have_text("space, 100 %")
    page.get_by_role("button", name="space, 100 %").click()
    expect(area).to_have_value("lazy-fox  bug")


def test_several_models_generate_side_by_side(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url + service.views["playground"]))
    page.get_by_label("Your text").fill("la")
    page.get_by_label("Compare with…").select_option("names@1")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Stop at").select_option("line")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator('[data-model="line@1"] .generated')).to_have_text("zy-fox bug")
    expect(page.locator('[data-model="names@1"] .generated')).to_have_text(re.compile("[dn]"))
    page.locator('[data-model="line@1"]').get_by_role("button", name="Insert").click()
    expect(page.get_by_label("Your text")).to_have_value("lazy-fox bug")


def test_model_deleted_in_use_is_reported_and_replaced(service: PopulatedService, open_window: Open) -> None:
    service.publish(reciting("doomed", LINE))
    page = settled(open_window(f"{service.url}/#/playground?model=doomed@1"))
    page.get_by_label("Your text").fill("la")
    assert httpx.delete(f"{service.url}/v1/models/doomed").status_code == 200
    page.get_by_role("button", name="Generate").click()
    expect(page.locator('[data-model="doomed@1"]')).to_contain_text("may have been deleted")
    page.reload()
    expect(page.get_by_text("There is no model doomed@1")).to_be_visible()
