"""The console's page of suggestions: the list under the field, and its figures."""

from playwright.sync_api import expect

from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import PopulatedService


def test_list_and_figures_follow_the_field_and_the_options(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views["suggestions"]))
    field = page.get_by_role("combobox", name="Field")
    field.press_sequentially("a")
    expect(page.locator(".nextchar-list li")).to_have_text(["ad", "an"])
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("ad")
    field.press("ArrowDown")
    field.press("Enter")
    expect(field).to_have_value("ad")
    field.fill("")
    expect(page.get_by_text("Type into the field.")).to_be_visible()
    page.get_by_label("Suggest", exact=True).select_option("lines")
    field.press_sequentially("zzz")
    expect(page.get_by_role("alert")).to_contain_text("names@1 has no lines to choose from")
    expect(page.locator(".nextchar-list li")).to_have_count(0)
    page.get_by_label("Model").select_option("line@1")
    expect(field).to_have_attribute("data-nextchar", "line@1")
    assert "model=line%401" in page.url or "model=line@1" in page.url


def test_page_works_with_keys_alone(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url))
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page.get_by_role("heading", level=1)).to_have_text("Suggestions")
    page.keyboard.press("/")
    expect(page.get_by_label("Field", exact=True)).to_be_focused()
