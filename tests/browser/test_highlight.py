"""The highlighter of anomalous characters. The model `line` expects "lazy-fox bug"."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

Visit = Callable[[str], Page]

HIGHLIGHT = """async (options) => {
  const { highlight } = await import('/clients/js/nextchar.js');
  window.handle = highlight(document.querySelector('#e'), { model: 'line', ...options });
  return handle.ready;
}"""
MARKED = "[...CSS.highlights.get('nextchar-anomaly') ?? []].map(range => range.toString())"


def marked(page: Page, *texts: str) -> None:
    """Wait until these texts, and no others, are marked."""
    page.wait_for_function(f"texts => JSON.stringify({MARKED}) === JSON.stringify(texts)", arg=list(texts))


def show(page: Page, **options: Any) -> list[dict[str, Any]]:
    """Highlight the element; return the spans found."""
    spans: list[dict[str, Any]] = page.evaluate(HIGHLIGHT, options)
    return spans


def test_anomalous_characters_of_any_element_are_marked(visit: Visit) -> None:
    page = visit("<div id=e>lazy-<b>fo</b>x bug\nlazy-fzx bug\n\nlazy-fox bug</div>")
    spans = show(page)
    assert spans == [{"start": 19, "end": 21, "text": "zx"}]  # z is anomalous after f, and x after z
    marked(page, "zx")
    page.evaluate("handle.clear()")
    marked(page)


def test_span_over_several_nodes_is_marked_in_each(visit: Visit) -> None:
    page = visit("<p id=e>lazy-f<b>z</b>x bug</p>")
    show(page)
    marked(page, "z", "x")


def test_positions_are_right_after_decomposed_and_astral_characters(visit: Visit) -> None:
    page = visit("<p id=e></p>")
    text = "\U0001f600e\u0301lazy-fzx bug"
    page.evaluate("text => { document.querySelector('#e').textContent = text; }", text)
    start = len(text[: text.index("zx")].encode("utf-16-le")) // 2
    assert show(page) == [{"start": start, "end": start + 2, "text": "zx"}]
    marked(page, "zx")


def test_without_custom_highlights_mark_elements_are_added_and_removed(visit: Visit) -> None:
    page = visit("<p id=e>lazy-f<b>z</b>x bug</p>")
    page.evaluate("delete CSS.highlights; Object.defineProperty(CSS, 'highlights', { value: undefined })")
    show(page)
    marks = page.locator("mark.nextchar-anomaly")
    assert marks.all_inner_texts() == ["z", "x"]
    page.evaluate("handle.clear()")
    assert page.locator("#e").inner_html() == "lazy-f<b>z</b>x bug"


def test_textarea_is_marked_while_one_types(visit: Visit) -> None:
    page = visit("<textarea id=e rows=4 cols=40></textarea>")
    show(page, live=True)
    page.locator("#e").press_sequentially("lazy-fzx")
    marked(page, "zx")
    place = page.evaluate("[...CSS.highlights.get('nextchar-anomaly')][0].getBoundingClientRect().toJSON()")
    field = page.locator("#e").bounding_box()
    assert field
    assert field["x"] < place["x"] < field["x"] + field["width"] and field["y"] < place["y"] < field["y"] + 30
    page.locator("#e").fill("lazy-fox")
    marked(page)


def test_live_element_is_scored_again_when_its_text_changes(visit: Visit) -> None:
    page = visit("<p id=e>lazy-fox</p>")
    show(page, live=True)
    page.evaluate("document.querySelector('#e').firstChild.data = 'lazy-fzx'")
    marked(page, "zx")


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ({"spans": [{"start": 1, "end": 3}], "anomalous": True, "bits": [0] * 8}, ["az"]),
        ({"spans": [{"start": 1, "end": 3}], "anomalous": False, "bits": [9] * 8}, []),
        ({"spans": None, "bits": [0, 9, 0, 9, 0, 0, 9, 0]}, ["azy", "o"]),
    ],
)
def test_spans_of_a_calibrated_model_are_used(
    visit: Visit, page: Page, line: dict[str, Any], texts: list[str]
) -> None:
    page.route("**/score", lambda route: route.fulfill(json={"lines": [line]}))
    visit("<p id=e>lazy-fox</p>")
    show(page)
    marked(page, *texts)


def test_error_is_an_event_and_rejects_ready(visit: Visit) -> None:
    page = visit("<p id=e>lazy</p>")
    page.evaluate("document.addEventListener('nextchar:error', e => window.received = e.detail.error.status)")
    caught = page.evaluate(
        f"options => ({HIGHLIGHT})(options).catch(error => error.code)", {"model": "nobody"}
    )
    assert caught == "model_not_found" and page.evaluate("received") == 404


def test_positions_in_bytes_become_positions_in_characters(visit: Visit, page: Page) -> None:
    text = "Größe \U0001f600 x y"
    start = len("Größe \U0001f600 ".encode())
    line = {
        "characters": len(text.encode()),
        "spans": [{"start": start, "end": start + 1}],
        "anomalous": True,
    }
    page.route("**/score", lambda route: route.fulfill(json={"lines": [line]}))
    visit(f"<p id=e>{text}</p>")
    show(page)
    marked(page, "x")
