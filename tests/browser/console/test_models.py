"""Models in the console: rename, download, delete, compare."""

import re

import httpx
import pytest
from playwright.sync_api import expect

from nextchar.store.open_blobs import open_blobs
from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import LINE, MARKUP, PopulatedService
from tests.browser.reciting import reciting


def test_model_is_renamed_downloaded_and_deleted(service: PopulatedService, open_window: Open) -> None:
    service.publish(reciting("shortlived", LINE))
    page = settled(open_window(f"{service.url}/#/models/shortlived"))
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("lasting")
    page.get_by_label("New name").press("Enter")
    expect(page.get_by_role("heading", name="lasting@1")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="model.onnx", exact=True).click()
    assert download.value.suggested_filename == "lasting@1-model.onnx"
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the model").click()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    assert httpx.get(f"{service.url}/v1/models/lasting").status_code == 404


def test_an_alias_is_set_moved_and_rolled_back(service: PopulatedService, open_window: Open) -> None:
    for number in (1, 2):
        service.publish(reciting("aliased", LINE), id=f"model_aliased{number}")
    page = settled(open_window(f"{service.url}/#/models/aliased@1"))
    card = page.locator("section", has=page.get_by_role("heading", name="Aliases"))
    card.get_by_role("button", name="Set alias…").click()
    page.get_by_label("Alias", exact=True).press("Enter")
    expect(card.locator("li")).to_contain_text("champion → aliased@1")
    page = settled(open_window(f"{service.url}/#/models/aliased@2"))
    card = page.locator("section", has=page.get_by_role("heading", name="Aliases"))
    card.get_by_role("button", name="Move here: champion").click()
    expect(card.locator("li")).to_contain_text("champion → aliased@2")
    card.get_by_role("button", name="Roll back: champion").click()
    expect(card.locator("li")).to_contain_text("champion → aliased@1")
    card.get_by_role("button", name="Roll back: champion").click()
    expect(page.locator(".box.danger")).to_contain_text("has not pointed to another version before")


def test_acceptance_is_shown_by_version_client_and_day(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(f"{service.url}/#/models/names"))
    expect(page.get_by_role("heading", name="Aliases")).to_be_visible()
    expect(page.get_by_role("heading", name="Acceptance")).to_have_count(0)
    service.publish(reciting("used", LINE), id="model_used1")
    kinds = ["shown"] * 3 + ["accepted"]
    events = [
        {"id": f"used {n}", "type": kind, "suggestion_id": f"{n}", "model": "used@1", "characters": 5}
        for n, kind in enumerate(kinds)
    ]
    httpx.post(f"{service.url}/v1/events", json={"events": events}).raise_for_status()
    share = {"version": 1, "share": {"version": 2, "fraction": 0.1}}
    service.publish(reciting("used", LINE), id="model_used2")
    httpx.put(f"{service.url}/v1/models/used/aliases/live", json=share).raise_for_status()
    page = settled(open_window(f"{service.url}/#/models/used@2"))
    card = page.get_by_role("region", name="Acceptance", exact=True)
    expect(card.get_by_role("row")).to_have_text(
        [
            re.compile("^Version"),
            re.compile("^used@14 ?25"),
            re.compile("^Client"),
            re.compile("^not named4 ?25"),
        ]
    )
    aliases = page.locator("section", has=page.get_by_role("heading", name="Aliases"))
    expect(aliases.locator("li")).to_contain_text("live → used@1; used@2 for 10 % of clients")


def test_damaged_model_is_listed_with_its_problem_and_can_be_deleted(
    service: PopulatedService, open_window: Open
) -> None:
    service.publish(reciting("torn", LINE))
    open_blobs(service.settings.blobs_url).write("model_cards/torn/000001.json", b"{")
    page = settled(open_window(f"{service.url}/#/models"))
    warning = page.locator(".box.warning")
    expect(warning).to_contain_text(
        "torn@1: model_cards/torn/000001.json is damaged: it is not a JSON object"
    )
    expect(warning).to_contain_text("Restore its card from a backup, or delete the model.")
    page.get_by_role("button", name="Delete torn@1").click()
    page.get_by_role("button", name="Delete the model").click()
    expect(warning).to_have_count(0)
    expect(page.get_by_role("link", name="line@1", exact=True)).to_be_visible()


def test_chart_narrower_than_its_margins_has_no_negative_width(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(f"{service.url}/#/models/line@1"))
    chart = page.get_by_role("figure", name="Learning curves")
    chart.evaluate("figure => { figure.style.width = '20px'; }")
    expect(chart.locator("clipPath rect")).to_have_attribute("width", "0")


def test_experts_of_a_model_are_compared(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(f"{service.url}/#/models/line@1"))
    card = page.locator("section", has=page.get_by_role("heading", name="Experts"))
    expect(card.locator("li")).to_have_text(
        [
            re.compile(r"Mixture \(what the model predicts with\)\s*0\.75"),
            re.compile(r"Network alone\s*0\.85"),
            re.compile(r"n-grams alone\s*0\.95"),
            re.compile(r"Network and n-grams\s*0\.80"),
        ]
    )
    expect(card).to_contain_text("default weights are used")
    older = {"validation_bits_per_character": 1.0, "baselines": {"unigram": 3.0}}
    service.publish(reciting("older", LINE), report=older)
    page = settled(open_window(f"{service.url}/#/models/older@1"))
    expect(page.get_by_role("heading", name="Baselines")).to_be_visible()
    expect(page.get_by_role("heading", name="Experts")).to_have_count(0)


def test_generated_texts_shorter_than_a_passage_have_no_figure_for_it(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(f"{service.url}/#/models/line@1"))
    rows = page.get_by_role("region", name="Copied and new text").get_by_role("row")
    expect(rows).to_have_count(3)
    expect(rows.nth(1).get_by_role("cell")).to_have_text(["20 %", "40", "10 %", "–"])
    expect(rows.nth(2).get_by_role("cell")).to_have_text(["20 %", "40", "10 %", "60 %"])


@pytest.mark.parametrize("view", ["model", "job"])
def test_problems_of_a_model_show_in_its_view_and_its_job(
    view: str, service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views[view]))
    expect(page.locator(".box.warning")).to_have_text(f"The model is worse than {MARKUP}.")


def test_compared_models_share_a_chart_that_the_keyboard_reads(
    service: PopulatedService, open_window: Open
) -> None:
    service.publish(reciting("second", LINE), report={"validation_bits_per_character": 1.0, "curve": [
        {"step": 10, "epoch": 0.5, "elapsed_seconds": 3.0, "validation_bits_per_character": 2.5},
        {"step": 20, "epoch": 1.0, "elapsed_seconds": 6.0, "validation_bits_per_character": 1.0},
    ]})  # fmt: skip
    page = settled(open_window(f"{service.url}/#/models"))
    for name in ("line@1", "second@1"):
        page.get_by_label(f"Select {name}").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".chart path.line")).to_have_count(2)
    page.locator(".chart").focus()
    page.keyboard.press("Home")
    expect(page.locator(".readout")).to_have_text("Time 0:00: line@1 4.50")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".readout")).to_have_text("Time 0:03: second@1 2.50, line@1 2.25")
    page.get_by_text("Show as table").click()
    expect(page.get_by_role("row", name="0:06 1.00 1.50")).to_be_visible()
    page.get_by_label("X axis").select_option("steps")
    expect(page.get_by_role("row", name="20 1.00 1.50")).to_be_visible()
