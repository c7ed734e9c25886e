"""Ghost text in a textarea or input. The model `line` repeats "lazy-fox bug"."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Site
from tests.browser.reciting import following, reciting

Visit = Callable[[str], Page]
Asked = list[dict[str, Any]]

TEXTAREA = (
    "<textarea id=t aria-label=text data-nextchar=line"
    " rows=6 cols=30 style='font: 16px monospace'></textarea>"
)
GHOST = "[aria-hidden=true] span:not([style*=hidden]):not([style*=relative])"


def ghost(page: Page, text: str) -> None:
    """Wait until this is the only ghost text; "" for none."""
    if text:
        expect(page.locator(GHOST)).to_have_text(text, use_inner_text=True)
    else:
        expect(page.locator(GHOST)).to_have_count(0)


def box_of_ghost(page: Page) -> dict[str, float]:
    """Return where the ghost text is, found and measured at once: it is drawn again four times per second."""
    box: dict[str, float] = page.evaluate(
        f"document.querySelector({GHOST!r}).getBoundingClientRect().toJSON()"
    )
    return box


def value(page: Page, text: str, field: str = "#t") -> None:
    """Wait until this is the field's value."""
    expect(page.locator(field)).to_have_value(text)


def write(page: Page, text: str, field: str = "#t") -> None:
    """Type into a field, key by key."""
    page.locator(field).press_sequentially(text)


def test_textarea_with_one_attribute_shows_ghost_text_and_tab_accepts_it(visit: Visit) -> None:
    page = visit(TEXTAREA)
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.keyboard.press("Tab")
    value(page, "lazy-fox bug")
    assert page.evaluate("document.activeElement.id") == "t"


def test_right_arrow_accepts_at_the_end_and_moves_the_caret_elsewhere(visit: Visit) -> None:
    page = visit(TEXTAREA)
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.keyboard.press("ArrowRight")
    value(page, "lazy-fox bug")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.selectionStart") == 1


def test_control_and_right_accept_one_word_at_a_time(visit: Visit, asked: Asked) -> None:
    page = visit(TEXTAREA)
    write(page, "la")
    ghost(page, "zy-fox bug")
    asked.clear()
    for rest in ("lazy", "lazy-", "lazy-fox", "lazy-fox bug"):
        page.keyboard.press("Control+ArrowRight")
        value(page, rest)
    assert asked == []


def test_a_user_who_accepts_words_is_shown_more(visit: Visit, site: Site) -> None:
    pairs = ["ab", "bc", "cd", "de", " f", "fg", "gh", "hi", "i\n", "\na", "jk", "kl", "l "]
    sure = {pair[0]: {pair[1]: 1.0} for pair in pairs}
    site.publish(following("doubtful", sure | {"e": {" ": 0.34, "x": 0.33, "y": 0.33}}))
    page = visit(TEXTAREA.replace("=line", "=doubtful"))
    write(page, "a")
    ghost(page, "bcde")
    page.locator("#t").fill("")
    write(page, "j")
    ghost(page, "kl fghi")
    page.keyboard.press("Control+ArrowRight")
    value(page, "jkl")
    page.locator("#t").fill("")
    write(page, "a")
    ghost(page, "bcde fghi")


def test_escape_dismisses_and_a_second_tab_leaves(visit: Visit) -> None:
    page = visit(TEXTAREA + "<button id=b>next</button>")
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.keyboard.press("Escape")
    ghost(page, "")
    page.keyboard.press("Tab")
    value(page, "la")
    assert page.evaluate("document.activeElement.id") == "b"


def test_escape_closes_the_suggestion_before_the_dialog_around_it(visit: Visit) -> None:
    page = visit(f"<dialog id=d>{TEXTAREA}</dialog>")
    page.evaluate("document.getElementById('d').showModal()")
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.keyboard.press("Escape")
    ghost(page, "")
    assert page.evaluate("document.getElementById('d').open")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('d').open")


def test_typing_what_is_suggested_keeps_the_rest_without_a_request(visit: Visit, asked: Asked) -> None:
    page = visit(TEXTAREA)
    write(page, "l")
    ghost(page, "azy-fox bug")
    asked.clear()
    for typed, rest in (("a", "zy-fox bug"), ("z", "y-fox bug"), ("y", "-fox bug")):
        page.keyboard.type(typed)
        assert page.locator(GHOST).inner_text() == rest  # before the key's event ends: no wait
    assert asked == []


def test_typing_something_else_replaces_the_suggestion(visit: Visit) -> None:
    page = visit(TEXTAREA)
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.keyboard.type("b")
    ghost(page, "ug")


def test_only_what_saves_keys_in_expectation_is_shown(visit: Visit, site: Site) -> None:
    even = {a: dict.fromkeys("xyz", 1 / 3) for a in "xyz\n"}
    site.publish(following("unsure", even | {"a": {"b": 1.0}, "b": {"x": 1.0}}))
    page = visit(TEXTAREA.replace("=line", "=unsure"))
    with page.expect_response("**/complete"):
        write(page, "x")
    page.keyboard.type("a")
    ghost(page, "bx")  # of what follows, no character is likely enough


def test_undo_removes_an_accepted_suggestion(visit: Visit) -> None:
    page = visit(TEXTAREA)
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.keyboard.press("Tab")
    value(page, "lazy-fox bug")
    page.keyboard.press("Control+z")
    value(page, "la")
    page.keyboard.press("Control+Shift+z")
    value(page, "lazy-fox bug")


def test_accepting_fires_the_input_event_of_typing(visit: Visit) -> None:
    page = visit(TEXTAREA)
    page.evaluate(
        "window.seen = []; for (const n of ['input', 'nextchar:accept'])"
        " document.addEventListener(n, e => seen.push([n, e.inputType ?? e.detail.text]))"
    )
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.evaluate("seen.length = 0")
    page.keyboard.press("Tab")
    value(page, "lazy-fox bug")
    assert page.evaluate("seen") == [["input", "insertText"], ["nextchar:accept", "zy-fox bug"]]


def test_nothing_while_an_input_method_composes(visit: Visit, asked: Asked) -> None:
    page = visit(TEXTAREA)
    write(page, "l")
    ghost(page, "azy-fox bug")
    asked.clear()
    devtools = page.context.new_cdp_session(page)
    for text in ("a", "az"):
        devtools.send(
            "Input.imeSetComposition", {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
        )
    value(page, "laz")
    ghost(page, "")
    page.keyboard.press("Tab")  # the method's own key
    assert asked == [] and page.locator("#t").input_value().startswith("la")
    page.locator("#t").focus()
    page.locator("#t").evaluate("t => { t.value = 'l'; t.setSelectionRange(1, 1); }")
    devtools.send("Input.imeSetComposition", {"text": "a", "selectionStart": 1, "selectionEnd": 1})
    devtools.send("Input.insertText", {"text": "az"})
    value(page, "laz")
    ghost(page, "y-fox bug")


def test_outdated_request_is_aborted(visit: Visit, page: Page) -> None:
    held: list[Route] = []
    failed: list[str] = []

    def hold(route: Route) -> None:  # playwright takes no methods of lists
        held.append(route)

    page.on("requestfailed", lambda request: failed.append(request.post_data_json["prompt"]))
    page.route("**/complete", hold)
    visit(TEXTAREA.replace("<textarea", "<textarea data-nextchar-debounce=0"))
    write(page, "l")
    page.wait_for_function("performance.now() > 0")
    until_held(page, held, 1)
    write(page, "a")
    until_held(page, held, 2)
    held[1].continue_()
    ghost(page, "zy-fox bug")
    assert failed == ["\nl"]


def test_debounce_follows_the_services_latency(visit: Visit) -> None:
    page = visit(TEXTAREA)
    waits = page.evaluate(
        """async () => {
          const { Suggester } = await import('/clients/js/nextchar.js');
          const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
          const waits = [];
          for (const takes of [1, 150]) {
            let asked;
            const complete = async () => {
              asked = performance.now();
              await sleep(takes);
              return { completions: [{ text: '' }] };
            };
            const suggester = new Suggester({ complete }, 'any');
            const of = [];
            for (let i = 0; i < 12; i++) {
              const began = performance.now();
              await suggester.suggest('a' + i);
              if (i > 5) of.push(asked - began);
            }
            waits.push(Math.min(...of));  // another program may have delayed some
          }
          return waits;
        }"""
    )
    assert waits[0] < waits[1] / 1.5 and waits[1] > 100


def test_suggestion_is_announced_once_and_only_in_a_pause(visit: Visit) -> None:
    page = visit(TEXTAREA)
    page.evaluate(
        "window.said = []; new MutationObserver(() => {"
        " const r = document.querySelector('[role=status]'); if (r?.textContent) said.push(r.textContent);"
        "}).observe(document, {subtree: true, childList: true, characterData: true})"
    )
    write(page, "la")
    ghost(page, "zy-fox bug")
    expect(page.get_by_role("status")).to_have_text("Suggestion: zy-fox bug. Tab accepts it.")
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"
    page.keyboard.type("z")
    ghost(page, "y-fox bug")
    assert len(set(page.evaluate("said"))) == 1
    page.keyboard.press("Tab")
    expect(page.get_by_role("status")).to_have_text("")


def test_right_to_left_text_continues_to_the_left_and_left_arrow_accepts(visit: Visit) -> None:
    page = visit(TEXTAREA.replace("=line", "=hebrew dir=auto"))
    write(page, "של")
    ghost(page, "ומ עבד")
    field, shown = page.locator("#t").bounding_box(), box_of_ghost(page)
    assert field
    assert shown["x"] > field["x"] + field["width"] / 2, "it belongs to the right half"
    page.keyboard.press("ArrowLeft")
    value(page, "שלומ עבד")


@pytest.mark.parametrize("scale", ["", "transform: scale(1.5); transform-origin: 0 0;"])
def test_ghost_text_begins_where_the_caret_is(visit: Visit, scale: str) -> None:
    """Two fields with the same text, one of it typed and one suggested: each letter has the same place."""
    box = (
        "width: 193px; height: 90px; padding: 7px 11px; border: 3px solid; letter-spacing: 1px;"
        " font: italic 17px/1.4 serif; position: absolute; left: 20px; top: 30px; overflow-y: scroll"
    )
    page = visit(f"<div style='{scale}'><textarea id=t data-nextchar=line style='{box}'></textarea></div>")
    text = "lazy-fox bug lazy-fox bug\nlazy-fox bug lazy la"
    page.locator("#t").fill(text)
    ghost(page, "zy-fox bug↵")
    suggested = box_of_ghost(page)
    drawn = page.locator("#t").screenshot()
    page.evaluate(
        f"""() => {{
          const twin = Object.assign(document.createElement('div'), {{textContent: {text!r} }});
          twin.style.cssText = {box!r} + '; white-space: pre-wrap; visibility: hidden';
          const end = document.createElement('span'); end.textContent = 'zy-fox bug↵';
          twin.append(document.createElement('wbr'), end);
          document.querySelector('#t').parentNode.append(twin); end.id = 'end';
        }}"""
    )
    typed = page.locator("#end").bounding_box()
    assert typed and drawn
    for side in ("x", "y", "width", "height"):
        assert suggested[side] == pytest.approx(typed[side], abs=1), side


def test_long_text_scrolled_to_its_end_has_its_ghost_on_the_last_line(visit: Visit) -> None:
    page = visit(TEXTAREA)
    page.locator("#t").fill("lazy-fox bug\n" * 400 + "la")
    page.keyboard.press("Control+End")
    page.keyboard.type("z")
    ghost(page, "y-fox bug↵")
    field, shown = page.locator("#t").bounding_box(), box_of_ghost(page)
    assert field
    assert field["y"] + field["height"] - 30 < shown["y"] < field["y"] + field["height"]
    assert page.evaluate("document.querySelector('[aria-hidden] span').textContent") == "laz"
    page.locator("#t").evaluate("t => t.scrollTop -= 40")
    page.wait_for_function(f"document.querySelector({GHOST!r}).getBoundingClientRect().y > {shown['y'] + 35}")


def test_ghost_text_follows_a_field_that_moves_or_changes_style(visit: Visit) -> None:
    page = visit(f"<div id=above></div>{TEXTAREA}")
    write(page, "la")
    ghost(page, "zy-fox bug")
    before = box_of_ghost(page)
    page.evaluate("document.getElementById('above').style.height = '50px'")
    page.wait_for_function(
        f"document.querySelector({GHOST!r}).getBoundingClientRect().y > {before['y'] + 45}"
    )
    page.locator("#t").evaluate("t => t.style.fontSize = '32px'")
    page.wait_for_function(f"document.querySelector({GHOST!r}).getBoundingClientRect().height > 30")


@pytest.mark.parametrize(
    "act",
    [
        "t.readOnly = true",
        "t.disabled = true",
        "t.form.reset()",
        "t.value = ''",
        "t.setSelectionRange(0, 2)",
        "t.setSelectionRange(1, 1)",
        "t.remove()",
        "t.removeAttribute('data-nextchar')",
        "t.blur()",
    ],
)
def test_ghost_text_is_removed_when(visit: Visit, act: str) -> None:
    page = visit(f"<form>{TEXTAREA}</form>")
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.locator("#t").evaluate(f"t => {{ {act} }}")
    ghost(page, "")


def test_siblings_of_a_removed_field_are_removed_with_it(visit: Visit) -> None:
    """Frameworks remove nodes in a loop that reads the next sibling first; removing a field blurs it."""
    page = visit(f"<div id=d>{TEXTAREA}<p>after</p></div>")
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.evaluate(
        """() => {
          for (let node = document.querySelector('#d').firstChild, next; node; node = next) {
            next = node.nextSibling;
            node.remove();
          }
        }"""
    )
    expect(page.locator("#d")).to_be_empty()


def test_fields_that_cannot_be_edited_or_are_no_text_are_ignored(visit: Visit, asked: Asked) -> None:
    page = visit(
        "<input id=p type=password data-nextchar=line>"
        "<fieldset disabled><input id=d data-nextchar=line></fieldset>"
        "<input id=n type=number data-nextchar=line><input id=t data-nextchar=line>"
    )
    write(page, "la", "#p")
    write(page, "1", "#n")
    write(page, "la")
    ghost(page, "zy-fox bug")
    assert {body["prompt"] for body in asked} <= {"\nl", "\nla"} and len(asked) <= 2


def test_only_at_the_end_of_a_line_unless_midline_is_set(visit: Visit, asked: Asked) -> None:
    page = visit(TEXTAREA)
    page.locator("#t").fill("x lazy\nlazy")
    ghost(page, "-fox bug↵")  # the request of `fill` is answered
    page.locator("#t").evaluate("t => t.setSelectionRange(1, 1)")
    asked.clear()
    page.keyboard.type("b")
    ghost(page, "")
    page.locator("#t").evaluate("t => t.setAttribute('data-nextchar-midline', '')")
    assert asked == []
    page.keyboard.press("Backspace")
    page.keyboard.type("b")
    ghost(page, "ug")
    assert (asked[-1]["suffix"], asked[-1]["until"], "logprobs" in asked[-1]) == (
        " lazy\nlazy",
        "line",
        False,
    )
    page.keyboard.press("Tab")
    value(page, "xbug lazy\nlazy")


def test_ghost_text_at_the_end_of_an_inner_line_moves_no_other_text(visit: Visit) -> None:
    page = visit(TEXTAREA)
    page.locator("#t").fill("lazy\nl\nlazy")
    page.locator("#t").evaluate("t => t.setSelectionRange(6, 6)")
    page.keyboard.type("a")
    ghost(page, "zy-fox bug")
    page.keyboard.press("ArrowRight")
    value(page, "lazy\nla\nlazy")
    assert page.locator("#t").evaluate("t => t.selectionStart") == 8


def test_line_is_accepted_with_its_break_where_the_text_has_lines(visit: Visit) -> None:
    page = visit(TEXTAREA)
    page.locator("#t").fill("lazy-fox bug\n")
    page.locator("#t").press_sequentially("la")
    ghost(page, "zy-fox bug↵")
    page.keyboard.press("Tab")
    value(page, "lazy-fox bug\nlazy-fox bug\n")
    ghost(page, "lazy-fox bug↵")


def test_suggestion_fits_into_maxlength(visit: Visit) -> None:
    page = visit("<input id=t data-nextchar=line maxlength=6>")
    write(page, "la")
    ghost(page, "zy-f")
    page.keyboard.press("Tab")
    value(page, "lazy-f")
    ghost(page, "")


def test_attributes_may_change_and_be_on_an_ancestor(visit: Visit, asked: Asked) -> None:
    page = visit(f"<div id=a data-nextchar-max=4>{TEXTAREA}</div>")
    write(page, "la")
    ghost(page, "zy-f")
    page.evaluate("document.getElementById('a').setAttribute('data-nextchar-max', '7')")
    ghost(page, "")
    page.keyboard.type("z")
    ghost(page, "y-fox b")
    page.locator("#t").evaluate("t => t.dataset.nextchar = 'names'")
    with page.expect_request("**/v1/models/names/complete"):
        page.locator("#t").fill("a")
    assert [body["max_characters"] for body in asked] == [4] * (len(asked) - 2) + [7, 7]


def test_fields_added_later_get_ghost_text(visit: Visit) -> None:
    page = visit("<main></main>")
    page.evaluate(
        "document.querySelector('main').append(Object.assign(document.createElement('textarea'), {id: 't'}));"
        "document.querySelector('#t').dataset.nextchar = 'line'"
    )
    write(page, "la")
    ghost(page, "zy-fox bug")


def test_a_wrong_value_of_each_attribute_is_an_error_event(visit: Visit) -> None:
    page = visit("<main></main>")
    page.evaluate(
        "window.received = {}; document.addEventListener('nextchar:error', ({ detail: { error } }) =>"
        " { received[error.param] = `${error.code}: ${error.message}`; });"
    )
    wrong = {
        "url": ("http://[", "a URL"),
        "key": ("schlüssel", "an API key, of ASCII characters"),
        "mode": ("lst", "ghost or list"),
        "until": ("sentence", "likely or word or line or confidence"),
        "expert": ("rnn", "mixture or network or lstm"),
        "constrain": ("yes", "lines or prefer or none"),
        "report": ("all", "ids or text"),
        "midline": ("yes", "true or false"),
        "max": ("many", "a number from 1 to 10000"),
        "temperature": ("-1", "a number from 0 to 10"),
        "debounce": ("1s", "a number from 0 to 10000"),
        "count": ("0", "a number from 1 to 50"),
        "min": ("101", "a number from 0 to 100"),
        "typos": ("3", "a number from 0 to 2"),
        "integrity": ("md5-x", "hashes: sha256-, sha384- or sha512- and base64"),
        "first": ("page", "service or file"),
        "remember": ("here", "true or false"),
        "cache": ("1", "true or false"),
        "ahead": ("33", "a number from 0 to 32"),
    }
    reference = (Path(__file__).parents[2] / "docs/reference/browser-client.md").read_text()
    names = set(re.findall(r"^\| `data-nextchar-([a-z-]+)`", reference, re.MULTILINE))
    assert names == wrong.keys() | {"context", "client-id", "file"}  # which may be any text
    page.evaluate(
        "([wrong]) => { for (const [name, value] of Object.entries(wrong)) { const field ="
        " document.createElement('textarea'); field.setAttribute('data-nextchar', 'line');"
        " field.setAttribute(`data-nextchar-${name}`, value);"
        " document.querySelector('main').append(field); } }",
        [{name: value for name, (value, _) in wrong.items()}],
    )
    page.wait_for_function(f"Object.keys(received).length === {len(wrong)}")
    assert page.evaluate("received") == {
        name: f'invalid_option: {name} is "{value}" and must be {requirement}'
        for name, (value, requirement) in wrong.items()
    }


def test_markup_in_a_suggestion_is_text(visit: Visit, site: Site) -> None:
    site.publish(reciting("markup", "<img>"))
    page = visit(TEXTAREA.replace("=line", "=markup"))
    write(page, "<")
    ghost(page, "img>" + "<img>" * 7 + "<")
    assert page.locator("[aria-hidden] img").count() == 0


def test_unreachable_service_hides_ghost_text_until_it_is_back(visit: Visit, page: Page) -> None:
    visit(TEXTAREA)
    page.evaluate(
        "window.received = [];"
        " document.addEventListener('nextchar:error', e => received.push(e.detail.error.code))"
    )
    page.route("**/complete", lambda route: route.abort())
    write(page, "la")
    page.wait_for_function("received.length")
    write(page, "zy")
    ghost(page, "")
    assert page.evaluate("received") == ["unreachable"]  # once: no request at each key meanwhile
    page.unroute("**/complete")
    ghost(page, "-fox bug")  # no further key was needed


@pytest.mark.parametrize(("status", "code"), [(401, "api_key_wrong"), (429, "busy")])
def test_error_answer_hides_ghost_text_and_is_an_event_with_its_code(
    visit: Visit, page: Page, status: int, code: str
) -> None:
    error = {"type": "t", "code": code, "message": "a sentence", "param": None}
    page.route("**/complete", lambda route: route.fulfill(status=status, json={"error": error}))
    visit(TEXTAREA.replace("<textarea", "<textarea data-nextchar-key=secret"))
    page.evaluate("document.addEventListener('nextchar:error', e => window.received = e.detail)")
    with page.expect_request("**/complete") as request:
        write(page, "la")
    page.wait_for_function("window.received")
    assert page.evaluate("[received.error.code, received.error.status, received.error.message]") == [
        code,
        status,
        "a sentence",
    ]
    assert page.evaluate("received.pause") == 1000
    assert request.value.headers["authorization"] == "Bearer secret"
    ghost(page, "")


def test_model_that_is_deleted_while_one_types(visit: Visit, site: Site) -> None:
    site.publish(reciting("mortal", "lazy-fox bug\n"))
    page = visit(TEXTAREA.replace("=line", "=mortal"))
    page.evaluate("document.addEventListener('nextchar:error', e => window.received = e.detail.error)")
    write(page, "la")
    ghost(page, "zy-fox bug")
    site.models.delete("mortal")
    deadline = time.monotonic() + 120
    while not page.evaluate("window.received?.status === 404"):
        assert time.monotonic() < deadline
        page.keyboard.type("b")  # not what is suggested, so there is another request
        page.wait_for_timeout(100)
    ghost(page, "")


@pytest.mark.parametrize("expert", [None, "lstm"])
def test_expert_is_sent_if_it_is_set(visit: Visit, asked: Asked, expert: str | None) -> None:
    options = f"data-nextchar-expert={expert}" if expert else ""
    page = visit(f"<input id=t data-nextchar=line {options}>")
    write(page, "l")
    deadline = time.monotonic() + 120
    while not asked:
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)
    assert all(body.get("expert") == expert for body in asked)


def test_long_text_is_sent_from_a_start_that_stays(visit: Visit, asked: Asked) -> None:
    page = visit(TEXTAREA)
    text = "lazy-fox bug\n" * 3000
    page.locator("#t").focus()
    page.locator("#t").evaluate("(t, text) => { t.value = text; t.setSelectionRange(1e9, 1e9); }", text)
    for key, rest in (("l", "azy-fox bug↵"), ("o", "x bug↵")):
        page.keyboard.type(key)
        ghost(page, rest)
    first, second = (body["prompt"] for body in asked)
    assert second == first + "o" and first.startswith("\nlazy") and 8192 <= len(first) <= 2 * 8192


def until_held(page: Page, held: list[Route], count: int) -> None:
    """Wait until so many requests are held."""
    deadline = time.monotonic() + 120
    while len(held) < count:
        assert time.monotonic() < deadline
        page.wait_for_timeout(10)


@pytest.mark.parametrize(
    "order", ["document.body.append(t); attach(t, o)", "attach(t, o); document.body.append(t)"]
)
def test_field_attached_by_the_page_stays_attached_when_it_is_inserted_or_moved(
    visit: Visit, order: str
) -> None:
    page = visit("<div id=home></div>")
    page.evaluate(
        f"""async () => {{
        const {{ attach }} = await import('/clients/js/nextchar.js');
        const t = document.createElement('textarea'), o = {{ model: 'line' }};
        t.id = 't';
        {order};
        await new Promise(setTimeout);
        document.querySelector('#home').append(t);
        await new Promise(setTimeout);
        t.setAttribute('data-nextchar-max', '20');
      }}"""
    )
    write(page, "la")
    ghost(page, "zy-fox bug")
