"""Ghost text in CodeMirror and Monaco from npm; skipped by name where a package is not installed."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Site
from tests.browser.reciting import following
from tests.clients.js.node import PACKAGES, require_packages

TYPES = {".js": "text/javascript", ".css": "text/css", ".ttf": "font/ttf"}

Visit = Callable[[str], Page]
Asked = list[dict[str, Any]]

CODEMIRROR = ("@codemirror/state", "@codemirror/view", "@codemirror/commands", "@codemirror/language",
    "@codemirror/streamparser", "@lezer/common", "@lezer/highlight", "@lezer/lr", "style-mod", "w3c-keyname",
    "crelt", "@marijn/find-cluster-break")  # fmt: skip


def serve_packages(page: Page, *names: str) -> None:
    """Serve npm's packages below /node/, or skip the test by the name of a missing one."""
    require_packages(*names)

    def answer(route: Route) -> None:
        path = PACKAGES / route.request.url.partition("/node/")[2].partition("?")[0]
        route.fulfill(body=path.read_bytes(), content_type=TYPES.get(path.suffix, "application/octet-stream"))

    page.route("**/node/**", answer)


def entry(name: str) -> str:
    """Return where a package's ES module is, below /node/."""
    exports = json.loads((PACKAGES / name / "package.json").read_text())["exports"]
    return f"/node/{name}/{exports.get('import', exports.get('.', {}))}".replace("/./", "/")


@pytest.fixture
def codemirror(page: Page, visit: Visit) -> Page:
    """A page with a CodeMirror editor, `editor`, that is focused and empty."""
    serve_packages(page, *CODEMIRROR)
    imports = json.dumps({"imports": {name: entry(name) for name in CODEMIRROR}})
    visit(
        f"""<script type=importmap>{imports}</script><div id=here></div><script type=module>
        import * as state from "@codemirror/state";
        import * as view from "@codemirror/view";
        import {{ history, historyKeymap, indentWithTab }} from "@codemirror/commands";
        import {{ codemirror }} from "/clients/js/codemirror.js";
        const keys = view.keymap.of([indentWithTab, ...historyKeymap]);
        window.editor = new view.EditorView({{
          parent: here, extensions: [history(), keys, codemirror({{ model: "line" }}, {{ state, view }})],
        }});
        editor.focus();
        </script>"""
    )
    page.wait_for_function("window.editor?.hasFocus")
    return page


def cm_text(page: Page, text: str) -> None:
    """Wait until this is the editor's text."""
    page.wait_for_function(f"editor.state.doc.toString() === {json.dumps(text)}")


def cm_ghost(page: Page, text: str) -> None:
    """Wait until this is the ghost text; "" for none."""
    if text:
        expect(page.locator(".nextchar-ghost")).to_have_text(text)
    else:
        expect(page.locator(".nextchar-ghost")).to_have_count(0)


def test_codemirror_shows_ghost_text_and_tab_accepts_it(codemirror: Page) -> None:
    codemirror.keyboard.type("la")
    cm_ghost(codemirror, "zy-fox bug")
    codemirror.keyboard.press("Tab")
    cm_text(codemirror, "lazy-fox bug")
    codemirror.keyboard.press("Control+z")
    cm_text(codemirror, "la")


def test_codemirror_takes_a_line_with_its_break_at_the_end_of_several_lines(codemirror: Page) -> None:
    codemirror.keyboard.type("lazy\nla")
    cm_ghost(codemirror, "zy-fox bug↵")
    codemirror.keyboard.press("Tab")
    cm_text(codemirror, "lazy\nlazy-fox bug\n")
    codemirror.keyboard.press("ArrowUp")
    codemirror.keyboard.press("End")
    codemirror.keyboard.type("\nla")
    cm_ghost(codemirror, "zy-fox bug")


def test_codemirror_asks_when_an_input_method_commits(codemirror: Page, asked: Asked) -> None:
    method = codemirror.context.new_cdp_session(codemirror)
    method.send("Input.imeSetComposition", {"text": "la", "selectionStart": 2, "selectionEnd": 2})
    cm_text(codemirror, "la")
    assert asked == []
    method.send("Input.insertText", {"text": "la"})  # what is shown already, so the text does not change
    cm_ghost(codemirror, "zy-fox bug")


def test_codemirror_keeps_the_rest_of_what_is_typed_without_a_request(codemirror: Page, asked: Asked) -> None:
    codemirror.keyboard.type("l")
    cm_ghost(codemirror, "azy-fox bug")
    asked.clear()
    codemirror.keyboard.type("azy")
    cm_ghost(codemirror, "-fox bug")
    assert asked == []


def test_codemirror_accepts_a_word_dismisses_and_then_tab_indents(codemirror: Page) -> None:
    codemirror.keyboard.type("la")
    cm_ghost(codemirror, "zy-fox bug")
    codemirror.keyboard.press("Control+ArrowRight")
    cm_text(codemirror, "lazy")
    cm_ghost(codemirror, "-fox bug")
    codemirror.keyboard.press("Escape")
    cm_ghost(codemirror, "")
    codemirror.keyboard.press("Tab")
    cm_text(codemirror, "  lazy")


def test_codemirror_right_arrow_accepts_at_the_end_only(codemirror: Page) -> None:
    codemirror.keyboard.type("la")
    cm_ghost(codemirror, "zy-fox bug")
    codemirror.keyboard.press("ArrowRight")
    cm_text(codemirror, "lazy-fox bug")
    codemirror.keyboard.press("ArrowLeft")
    codemirror.keyboard.type("x")
    cm_ghost(codemirror, "")


@pytest.fixture
def monaco(page: Page, visit: Visit, request: pytest.FixtureRequest) -> Page:
    """A page with a Monaco editor, `editor`, that is focused and empty."""
    serve_packages(page, "monaco-editor")
    visit(
        """<div id=here style="height: 200px"></div>
        <script src="/node/monaco-editor/min/vs/loader.js"></script>
        <script type=module>
        import { monaco as nextchar } from "/clients/js/monaco.js";
        addEventListener("unhandledrejection", (e) => e.reason?.name === "Canceled" && e.preventDefault());
        require.config({ paths: { vs: "/node/monaco-editor/min/vs" } });
        require(["vs/editor/editor.main"], () => {
          nextchar({ model: "MODEL" }, monaco);
          window.editor = monaco.editor.create(here, { language: "plaintext", quickSuggestions: false,
            wordBasedSuggestions: "off" });
          editor.getContribution("editor.contrib.inlineCompletionsController"); // otherwise created later
          editor.focus();
        });
        </script>""".replace("MODEL", getattr(request, "param", "line"))
    )
    page.wait_for_function("window.editor?.hasTextFocus()")
    return page


def monaco_text(page: Page, text: str) -> None:
    """Wait until this is the editor's text."""
    page.wait_for_function(f"editor.getValue() === {json.dumps(text)}")


def test_monaco_shows_ghost_text_and_accepts_a_word_and_all(monaco: Page, asked: Asked) -> None:
    monaco.keyboard.type("la")
    ghost = monaco.locator(".ghost-text-decoration, .ghost-text").first
    expect(ghost).to_have_text("zy-fox\u00a0bug")
    asked.clear()
    monaco.keyboard.type("z")
    expect(ghost).to_have_text("y-fox\u00a0bug")
    monaco.keyboard.press("Control+ArrowRight")
    monaco_text(monaco, "lazy")
    expect(ghost).to_have_text("-fox\u00a0bug")
    assert asked == []
    monaco.keyboard.press("Tab")
    monaco_text(monaco, "lazy-fox bug")


@pytest.fixture
def words(site: Site) -> None:
    """A model `words`, which is sure of "bcde" after "a" but not of "fghi" after that."""
    pairs = ["ab", "bc", "cd", "de", " f", "fg", "gh", "hi", "i\n", "\na", "jk", "kl", "l "]
    site.publish(
        following(
            "words", {pair[0]: {pair[1]: 1.0} for pair in pairs} | {"e": {" ": 0.34, "x": 0.33, "y": 0.33}}
        )
    )


@pytest.mark.parametrize("monaco", ["words"], indirect=True)
@pytest.mark.parametrize("is_typed", [True, False])
@pytest.mark.usefixtures("words")
def test_monaco_shows_more_to_a_user_who_accepts_words_and_not_to_one_who_types_fast(
    monaco: Page, is_typed: bool
) -> None:
    ghost = monaco.locator(".ghost-text-decoration, .ghost-text").first
    monaco.keyboard.type("j")
    expect(ghost).to_have_text("kl\u00a0fghi")
    if is_typed:
        monaco.keyboard.type("kl")
    else:
        monaco.keyboard.press("Control+ArrowRight")
    monaco_text(monaco, "jkl")
    expect(ghost).to_have_text("\u00a0fghi")
    monaco.keyboard.type("\na")
    expect(ghost).to_have_text("bcde" if is_typed else "bcde\u00a0fghi")
