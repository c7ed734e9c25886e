"""The list under a short field. The model `names` knows ad, an and al, from likely to less so."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, Route, expect

from tests.browser.conftest import Site

FIELD = "<label for=f>Name</label> <input id=f data-nextchar=names data-nextchar-mode=list>"

Visit = Callable[[str], Page]
Asked = list[dict[str, Any]]
Answers = Callable[..., None]


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


@pytest.fixture
def answers(page: Page) -> Answers:
    """A function that sets what the service suggests from then on: texts, or texts with other fields."""

    def set_answers(*suggestions: str | dict[str, Any]) -> None:
        known: dict[str, Any] = {"probability": 0.5, "count": 1, "exists": True, "replaced": None}
        bodies = [known | (one if isinstance(one, dict) else {"text": one}) for one in suggestions]
        number = itertools.count()

        def answer(route: Route) -> None:
            name = f"sug_{next(number)}"
            found = [body | {"id": f"{name}.{i}"} for i, body in enumerate(bodies)]
            prefix = route.request.post_data_json["prefix"]
            route.fulfill(json={"id": name, "model": "names@1", "prefix": prefix, "suggestions": found})

        page.unroute("**/suggest")
        page.route("**/suggest", answer)

    return set_answers


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


def test_list_is_announced_escape_closes_it_and_a_click_or_tab_accepts(listed: Page) -> None:
    field = listed.locator("#f")
    expect(listed.get_by_role("status")).to_have_text("3 suggestions.")
    listed.keyboard.press("Escape")
    expect(listed.get_by_role("combobox", expanded=False)).to_have_value("a")
    listed.keyboard.press("ArrowDown")
    options(listed, "ad", "an", "al")
    listed.get_by_role("option", name="al").click()
    expect(field).to_have_value("al")
    assert listed.evaluate("document.activeElement.id") == "f"
    listed.keyboard.press("Backspace")
    options(listed, "ad", "an", "al")
    listed.keyboard.press("ArrowDown")
    listed.keyboard.press("Tab")
    expect(field).to_have_value("ad")
    assert listed.evaluate("document.activeElement.id") == "b"
    expect(listed.get_by_role("option")).to_have_count(0)


def test_empty_field_offers_its_list_on_arrow_down(visit: Visit, asked: Asked) -> None:
    page = visit(FIELD)
    page.get_by_role("combobox").focus()  # the list's module is loaded
    assert asked == []
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option").first).to_have_text("ad")
    assert asked[-1]["prefix"] == ""


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
    ("typed", "suggestion", "parts"),
    [
        ("lon", {"text": "London"}, [("", "lon".capitalize()), ("b", "don")]),
        ("berln", {"text": "Berlin", "replaced": {"start": 4, "end": 5}},
         [("", "Berl"), ("u", "i"), ("b", "n")]),
        ("hobit", {"text": "Chobits", "replaced": {"start": 0, "end": 1}},
         [("u", "Ch"), ("", "obit"), ("b", "s")]),
        ("bxerlin", {"text": "Berlin", "replaced": {"start": 1, "end": 2}}, [("", "Berlin")]),
        ("mejico c", {"text": "México City", "replaced": {"start": 2, "end": 3}},
         [("", "Mé"), ("u", "x"), ("", "ico C"), ("b", "ity")]),
        ("jose", {"text": "San José del Cabo"}, [("b", "San "), ("", "José"), ("b", " del Cabo")]),
        ("an", {"text": "San Andrés"}, [("b", "San "), ("", "An"), ("b", "drés")]),
        ("🙂🙂x", {"text": "🙂🙂y👍🏽", "replaced": {"start": 2, "end": 3}},
         [("", "🙂🙂"), ("u", "y"), ("b", "👍🏽")]),
        ("e\u0301t", {"text": "étude"}, [("", "ét"), ("b", "ude")]),
        ("zz", {"text": "elsewhere"}, [("b", "elsewhere")]),
    ],
)  # fmt: skip
def test_corrected_and_new_parts_are_marked_and_the_whole_is_accepted(
    visit: Visit, answers: Answers, typed: str, suggestion: dict[str, Any], parts: list[tuple[str, str]]
) -> None:
    answers(suggestion)
    page = visit(FIELD)
    page.locator("#f").focus()
    page.keyboard.insert_text(typed)
    options(page, suggestion["text"] + (" corrected" if "replaced" in suggestion else ""))
    marked = "o => [...o.firstChild.children].map(e => [e.localName.replace('span', ''), e.textContent])"
    found = [tuple(part) for part in page.get_by_role("option").evaluate(marked)]
    joined = [
        (name, "".join(text for _, text in group))
        for name, group in itertools.groupby(found, lambda part: part[0])
    ]
    assert joined == parts
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#f")).to_have_value(suggestion["text"])
    page.keyboard.press("ControlOrMeta+z")
    expect(page.locator("#f")).to_have_value(typed)


def test_option_says_why_it_is_there_and_the_page_may_say_it_differently(
    visit: Visit, answers: Answers
) -> None:
    found = [
        {"text": "alpha", "count": 1204},
        {"text": "altar"},
        {"text": "alx", "count": 0, "exists": False},
    ]
    answers(*found)
    page = visit(FIELD.replace(" data-nextchar=names", ""))
    page.evaluate("import('/clients/js/nextchar.js').then(m => m.attach(f, { model: 'names' }))")
    page.locator("#f").press_sequentially("al")
    options(page, "alpha 1,204×", "altar", "alx new")
    options_of_page = "{ model: 'names', describe: one => `n=${one.count}` }"
    page.evaluate(f"import('/clients/js/nextchar.js').then(m => m.attach(f, {options_of_page}))")
    page.locator("#f").press_sequentially("p")
    options(page, "alpha n=1204", "altar n=1", "alx n=0")


def test_long_items_are_shown_whole_so_that_their_ends_tell_them_apart(
    visit: Visit, answers: Answers
) -> None:
    items = ["Harry Potter and the Goblet of Fire", f"Harry {'x' * 90}"]
    answers(*({"text": item, "count": 1_000_000} for item in items))
    page = visit(FIELD)
    page.locator("#f").press_sequentially("ha")
    options(page, *(f"{item} 1,000,000×" for item in items))
    is_whole = "o => o.firstChild.scrollWidth <= o.firstChild.clientWidth && o.scrollWidth <= o.clientWidth"
    assert [one.evaluate(is_whole) for one in page.get_by_role("option").all()] == [True, True]


def test_word_by_word(visit: Visit, answers: Answers) -> None:
    answers("Rio de Janeiro", "Rio Branco")
    page = visit(FIELD)
    page.locator("#f").press_sequentially("ri")
    options(page, "Rio de Janeiro", "Rio Branco")
    for value in ("Rio", "Rio de", "Rio de Janeiro"):
        page.keyboard.press("Control+ArrowRight")
        expect(page.locator("#f")).to_have_value(value)
    expect(page.get_by_role("listbox")).to_have_count(0)


def test_nothing_fits_and_nothing_is_shown(visit: Visit, answers: Answers) -> None:
    answers()
    page = visit(FIELD)
    with page.expect_response("**/suggest"):
        page.locator("#f").press_sequentially("zzz")
    expect(page.get_by_role("combobox", expanded=False)).to_have_value("zzz")
    expect(page.get_by_role("status")).to_have_count(0)


def test_service_that_cannot_be_reached_says_nothing(visit: Visit, page: Page) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "warning" else None)
    visit(FIELD)
    page.route("**/suggest", lambda route: route.abort())
    page.evaluate("document.addEventListener('nextchar:error', e => window.received = e.detail.error.code)")
    page.locator("#f").press_sequentially("a")
    page.wait_for_function("window.received === 'unreachable'")
    expect(page.get_by_role("option")).to_have_count(0)
    assert said == []


def test_answer_that_is_late_is_dropped(visit: Visit, page: Page) -> None:
    held: list[Route] = []
    page.route("**/suggest", lambda route: held.append(route))  # noqa: PLW0108  a method has no attributes
    visit(FIELD.replace("=list", "=list data-nextchar-debounce=0"))
    page.locator("#f").press_sequentially("a")
    page.wait_for_timeout(0)
    with page.expect_request("**/suggest"):
        page.locator("#f").press_sequentially("n")
    page.locator("#f").evaluate("f => { f.value = 'other'; }")
    for route in held:
        with contextlib.suppress(Error):  # the page has ended the first call
            route.fulfill(
                json={"model": "names@1", "suggestions": [{"id": "s.0", "text": "ann", "count": 1}]}
            )
    page.wait_for_timeout(100)
    expect(page.get_by_role("option")).to_have_count(0)


def test_minimum_of_characters_and_options_of_the_service_are_used(
    visit: Visit, asked: Asked, answers: Answers
) -> None:
    answers("anna")
    attributes = "min=2 constrain=prefer typos=0 context=given count=3 client-id=c"
    given = " ".join(f"data-nextchar-{one}" for one in attributes.split())
    page = visit(FIELD.replace("=list", f"=list {given}"))
    page.locator("#f").press_sequentially("a")
    page.wait_for_timeout(300)
    assert asked == []
    page.locator("#f").press_sequentially("n")
    options(page, "anna")
    assert asked == [
        {"prefix": "an", "limit": 3, "constrain": "prefer", "typos": 0, "context": "given", "client_id": "c"}
    ]


def compose(page: Page, *texts: str) -> None:
    """Show texts as those that an input method composes, one after the other."""
    devtools = page.context.new_cdp_session(page)
    for text in texts:
        end = len(text)
        devtools.send("Input.imeSetComposition", {"text": text, "selectionStart": end, "selectionEnd": end})


def test_input_method_is_left_alone_until_it_commits(visit: Visit, asked: Asked, answers: Answers) -> None:
    answers("日本橋", "日本")
    page = visit(FIELD)
    page.locator("#f").focus()
    compose(page, "n", "に", "日")
    page.wait_for_timeout(300)
    assert asked == []
    page.context.new_cdp_session(page).send("Input.insertText", {"text": "日"})
    options(page, "日本橋", "日本")
    assert [body["prefix"] for body in asked] == ["日"]


def test_keyboard_of_a_phone_that_composes_every_word_gets_a_list(browser: Browser, site: Site) -> None:
    agent = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/126.0 Mobile Safari/537.36"
    context = browser.new_context(user_agent=agent, locale="de-DE", has_touch=True, is_mobile=True,
                                  viewport={"width": 360, "height": 640})  # fmt: skip
    page = context.new_page()
    body = f'<script type=module src="/clients/js/nextchar.js"></script>{FIELD}'
    page.route("**/test-page", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto(f"{site.url}/test-page")
    page.locator("#f").tap()
    compose(page, "a")
    options(page, "ad", "an", "al")
    page.get_by_role("option", name="an").tap()
    expect(page.locator("#f")).to_have_value("an")
    assert page.evaluate("document.activeElement.id") == "f"
    context.close()


def test_right_to_left_list_starts_at_its_side_and_its_arrow_accepts_a_word(
    visit: Visit, answers: Answers
) -> None:
    answers("תל אביב", "תל מונד")
    page = visit(f"<div dir=rtl>{FIELD}</div>")
    page.locator("#f").focus()
    page.keyboard.insert_text("ת")
    options(page, "תל אביב", "תל מונד")
    assert page.get_by_role("listbox").evaluate("l => getComputedStyle(l).direction") == "rtl"
    page.keyboard.press("Control+ArrowLeft")
    expect(page.locator("#f")).to_have_value("תל")


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
