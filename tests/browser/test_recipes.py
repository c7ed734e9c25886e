"""The recipes for React, Vue and Svelte, compiled and used in a page; skipped by name without npm packages.

Each page has the recipe's component, a paragraph with its text, and functions that set the model and the text
and unmount the component.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.clients.js.node import FOLDER, PACKAGES, node, require_packages

Visit = Callable[[str], Page]

BUNDLE = Path(__file__).parents[1] / "node" / "bundle.mjs"

REACT = """
import { Nextchar } from "nextchar";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { GhostTextarea } from "./GhostTextarea.jsx";
import { ListInput } from "./ListInput.jsx";

const client = new Nextchar();
function App() {
  const [text, setText] = useState("");
  const [model, setModel] = useState("line");
  Object.assign(globalThis, { setModel, setText });
  return <>
    <GhostTextarea id="t" model={model} client={client}
      value={text} onChange={(event) => setText(event.target.value)} />
    <ListInput id="l" aria-label="name" model={model === "line" ? "names" : "line"} client={client}
      suggestions={{ count: 2, describe: ({ text: name }) => `in ${model} for ${name}` }} />
    <p>{text}</p>
  </>;
}
const root = createRoot(document.querySelector("#app"));
root.render(<StrictMode><App /></StrictMode>);
globalThis.unmount = () => root.unmount();
"""

VUE_APP = """
<script setup>
import { Nextchar } from "nextchar";
import { reactive, ref } from "vue";
import GhostTextarea from "./GhostTextarea.vue";

const state = reactive({ client: new Nextchar() }); // as pages do: the client becomes a proxy
const text = ref("");
const model = ref("line");
globalThis.setModel = (name) => { model.value = name; };
globalThis.setText = (value) => { text.value = value; };
</script>

<template>
  <GhostTextarea id="t" :model="model" :client="state.client" v-model="text" />
  <p>{{ text }}</p>
</template>
"""

VUE = """
import { createApp } from "vue";
import App from "./App.vue";

const app = createApp(App);
app.mount("#app");
globalThis.unmount = () => app.unmount();
"""

SVELTE_APP = """
<script>
  import { Nextchar } from "nextchar";
  import GhostTextarea from "./GhostTextarea.svelte";

  const client = new Nextchar();
  let text = $state("");
  let model = $state("line");
  globalThis.setModel = (name) => { model = name; };
  globalThis.setText = (value) => { text = value; };
</script>

<GhostTextarea id="t" {model} {client} bind:value={text} />
<p>{text}</p>
"""

SVELTE = """
import { mount, unmount } from "svelte";
import App from "./App.svelte";

const app = mount(App, { target: document.querySelector("#app") });
globalThis.unmount = () => unmount(app);
"""

SOURCES = {
    "react": {"entry.jsx": REACT},
    "vue": {"entry.js": VUE, "App.vue": VUE_APP},
    "svelte": {"entry.js": SVELTE, "App.svelte": SVELTE_APP},
}
NEEDED = {"react": ("react", "react-dom"), "vue": ("vue",), "svelte": ("svelte",)}


@pytest.fixture(scope="module", params=sorted(SOURCES))
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page's script, compiled from the sources of one framework."""
    framework: str = request.param
    require_packages("esbuild", *NEEDED[framework])
    folder = tmp_path_factory.mktemp(framework)
    shutil.copytree(FOLDER / "recipes" / framework, folder, dirs_exist_ok=True)  # as one uses a recipe
    for name, source in SOURCES[framework].items():
        (folder / name).write_text(source)
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "nextchar").symlink_to(FOLDER)
    entry = next(name for name in SOURCES[framework] if name.startswith("entry"))
    node(str(BUNDLE), str(PACKAGES), str(folder / entry), str(folder / "page.js"), cwd=folder)
    return (folder / "page.js").read_text()


@pytest.fixture
def app(visit: Visit, page: Page, script: str) -> Page:
    """A page that runs the script."""
    page.route("**/page.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    return visit('<div id=app></div><script type=module src="/page.js"></script>')


def expect_ghost(page: Page, text: str) -> None:
    """Wait until this is the ghost text."""
    expect(page.locator("[aria-hidden=true] span").last).to_have_text(text)


def test_accepted_ghost_text_is_the_components_text(app: Page) -> None:
    app.locator("#t").press_sequentially("la")
    expect_ghost(app, "zy-fox bug")
    app.keyboard.press("Tab")
    expect(app.locator("#t")).to_have_value("lazy-fox bug")
    expect(app.locator("p")).to_have_text("lazy-fox bug")


def test_another_model_and_a_text_set_by_the_page_are_used(app: Page) -> None:
    app.locator("#t").press_sequentially("la")
    expect_ghost(app, "zy-fox bug")
    app.evaluate("setModel('hebrew')")
    app.evaluate("setText('')")
    expect(app.locator("#t")).to_have_value("")
    expect(app.locator("[aria-hidden=true]")).to_have_count(0)
    app.locator("#t").press_sequentially("של")
    expect_ghost(app, "ומ עבד")


@pytest.mark.parametrize("script", ["react"], indirect=True)
def test_hook_attaches_a_list_and_calls_the_functions_of_the_last_render(app: Page) -> None:
    app.get_by_label("name").press_sequentially("a")
    expect(app.get_by_role("option")).to_have_text(["ad in line for ad", "an in line for an"])
    asked: list[str] = []
    app.on("request", lambda request: asked.append(request.url))
    app.evaluate("setText('x')")  # another render, of the same options: nothing is attached again
    expect(app.get_by_role("option")).to_have_count(2)
    app.keyboard.press("ArrowDown")
    app.keyboard.press("Enter")
    expect(app.get_by_label("name")).to_have_value("ad")
    assert asked == []


def test_unmounted_component_leaves_nothing_behind(app: Page, asked: list[dict[str, Any]]) -> None:
    app.locator("#t").press_sequentially("la")
    expect_ghost(app, "zy-fox bug")
    app.evaluate("window.field = document.querySelector('#t')")
    app.evaluate("unmount()")
    expect(app.locator("#app")).to_have_text("")
    expect(app.locator("[aria-hidden=true]")).to_have_count(0)
    asked.clear()
    app.evaluate(
        """() => {
          document.body.append(field);
          field.focus();
          document.execCommand('insertText', false, 'b');
        }"""
    )
    app.wait_for_timeout(300)  # longer than the pause before a request
    assert asked == []
    assert app.evaluate("field.hasAttribute('aria-autocomplete')") is False
