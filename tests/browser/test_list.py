"""The list under a short field. The model `names` knows ad, an and al, from likely to less so."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

FIELD = "<label for=f>Name</label> <input id=f data-nextchar=names data-nextchar-mode=list>"

Visit = Callable[[str], Page]


def options(page: Page, *texts: str) -> None:
    """Wait until these are the options."""
    expect(page.get_by_role("option")).to_have_text(list(texts))


@pytest.fixture
def listed(visit: Visit) -> Page:
    """A page on which `a` has been typed and the list is there."""
    page = visit(f"<form id=form>{FIELD}<button id=b>send</button></form>")
    page.evaluate("form.addEventListener('submit', e => { e.preventDefault(); window.sent = true; })")
    page.locator("#f").press_sequentially("a")
    options(page, "ad", "an", "al")
    return page


def test_candidates_are_sorted_by_probability_without_unlikely_ones(listed: Page) -> None:
    options(listed, "ad", "an", "al")


def test_roles_and_states_are_those_of_a_combobox(listed: Page) -> None:
    field = listed.get_by_role("combobox", name="Name", expanded=True)
    expect(field).to_have_attribute("aria-autocomplete", "list")
    box = listed.get_by_role("listbox", name="Suggestions")
    assert field.get_attribute("aria-controls") == box.get_attribute("id")
    assert field.get_attribute("aria-activedescendant") is None
    listed.keyboard.press("ArrowDown")
    option = listed.get_by_role("option", name="ad", selected=True)
    assert field.get_attribute("aria-activedescendant") == option.get_attribute("id")


def test_arrows_wrap_around_and_enter_accepts_without_submitting_the_form(listed: Page) -> None:
    for key, name in (("ArrowDown", "ad"), ("ArrowUp", "al"), ("ArrowDown", "ad"), ("ArrowDown", "an")):
        listed.keyboard.press(key)
        expect(listed.get_by_role("option", selected=True)).to_have_text(name)
    listed.keyboard.press("Enter")
    expect(listed.locator("#f")).to_have_value("an")
    expect(listed.get_by_role("listbox")).to_have_count(0)
    assert listed.evaluate("window.sent") is None
    listed.keyboard.press("Enter")
    assert listed.evaluate("window.sent") is True


def test_tab_accepts_the_active_option_and_moves_the_focus(listed: Page) -> None:
    listed.keyboard.press("ArrowDown")
    listed.keyboard.press("Tab")
    expect(listed.locator("#f")).to_have_value("ad")
    assert listed.evaluate("document.activeElement.id") == "b"


def test_escape_closes_and_arrow_down_opens_again(listed: Page) -> None:
    listed.keyboard.press("Escape")
    expect(listed.get_by_role("combobox", expanded=False)).to_have_value("a")
    listed.keyboard.press("ArrowDown")
    options(listed, "ad", "an", "al")


def test_click_accepts_an_option_and_the_field_keeps_the_focus(listed: Page) -> None:
    listed.get_by_role("option", name="al").click()
    expect(listed.locator("#f")).to_have_value("al")
    assert listed.evaluate("document.activeElement.id") == "f"


def test_leaving_the_field_closes_it(listed: Page) -> None:
    listed.locator("#b").focus()
    expect(listed.get_by_role("option")).to_have_count(0)


def test_number_of_suggestions_is_announced(listed: Page) -> None:
    expect(listed.get_by_role("status")).to_have_text("3 suggestions.")


def test_empty_field_offers_its_list_on_arrow_down(visit: Visit, asked: list[dict[str, Any]]) -> None:
    page = visit(FIELD)
    page.get_by_role("combobox").focus()  # the list's module is loaded
    assert asked == []
    page.keyboard.press("ArrowDown")
    options(page, "ad", "an", "al")
    assert asked[-1]["prompt"] == "\n" and asked[-1]["until"] == "line"


def test_count_limits_the_list(visit: Visit) -> None:
    page = visit(FIELD.replace("=list", "=list data-nextchar-count=2"))
    page.locator("#f").press_sequentially("a")
    options(page, "ad", "an")


def test_ended_helper_leaves_the_field_as_it_was(listed: Page) -> None:
    listed.locator("#f").evaluate("f => f.removeAttribute('data-nextchar')")
    expect(listed.get_by_role("combobox")).to_have_count(0)
    assert listed.locator("#f").evaluate("f => f.getAttributeNames()") == ["id", "data-nextchar-mode"]
    expect(listed.locator("ul")).to_have_count(0)


def test_list_is_inside_a_narrow_window_and_above_a_field_at_its_end(visit: Visit) -> None:
    page = visit(f"<div style='position: fixed; bottom: 8px; left: 8px'>{FIELD}</div>")
    page.set_viewport_size({"width": 360, "height": 200})
    page.locator("#f").press_sequentially("a")
    options(page, "ad", "an", "al")
    box, field = page.get_by_role("listbox").bounding_box(), page.locator("#f").bounding_box()
    assert box and field
    assert box["y"] >= 0 and box["y"] + box["height"] <= field["y"] and box["x"] + box["width"] <= 360


@pytest.mark.parametrize(
    ("action", "value"),
    [("Home", "a"), ("ControlOrMeta+a", "a"), ("document.querySelector('#f').value = 'Bob'", "Bob")],
)
def test_option_for_another_value_or_caret_is_not_accepted(listed: Page, action: str, value: str) -> None:
    listed.keyboard.press("ArrowDown")
    if "." in action:
        listed.evaluate(action)
    else:
        listed.keyboard.press(action)
    listed.keyboard.press("Enter")
    expect(listed.locator("#f")).to_have_value(value)
    expect(listed.get_by_role("listbox")).to_have_count(0)
