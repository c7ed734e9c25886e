"""A model in the page: without a service, before it and after it. `line` repeats "lazy-fox bug"."""

import base64
import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from nextchar.cli.offline_page import offline_page
from nextchar.models.pack import pack
from tests.browser.conftest import LINE, Site, module_path
from tests.browser.reciting import packed
from tests.browser.test_ghost_text import ghost, value, write
from tests.clients.js.test_package import loaded_with
from tests.clients.offline.models import saved
from tests.http_server import QuietHTTPServer

POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; worker-src 'self'"
"""What a page with a model needs."""

FIELD = "<textarea id=t aria-label=text data-nextchar-file=/line.nextchar></textarea>"
OTHER = "gone-by slim\n"
"""What the model of the file `other.nextchar` recites."""


class Host:
    """A static web server: modules at /nextchar/, models, pages that tests add. Notes what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.policy, self.asked = folder, POLICY, list[str]()
        host = self

        class Answer(SimpleHTTPRequestHandler):
            def end_headers(self) -> None:
                self.send_header("Content-Security-Policy", host.policy)
                super().end_headers()

            def log_request(self, *_: object) -> None:
                host.asked.append(self.path)

            def log_message(self, *_: object) -> None: ...

        self.server = QuietHTTPServer(("127.0.0.1", 0), partial(Answer, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def show(self, page: Page, body: str) -> Page:
        """Show a body as a page with the module loaded; `errors` has its errors."""
        html = "<!doctype html><html lang=en><meta charset=utf-8><title>t</title>"
        script = '<script type=module src="/nextchar/nextchar.js"></script><script src="/errors.js"></script>'
        (self.folder / "page.html").write_text(f"{html}{script}<body>{body}</body></html>")
        page.goto(f"{self.url}/page.html")
        return page


def first_error(page: Page) -> tuple[str, str]:
    """Wait for an error of a page of `host`; return its code and message."""
    while not (errors := page.evaluate("errors")):
        page.wait_for_timeout(20)
    return tuple(errors[0])


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    shutil.copytree(module_path("").resolve(), tmp_path / "nextchar")
    (tmp_path / "line.nextchar").write_bytes(packed("line", LINE))
    (tmp_path / "other.nextchar").write_bytes(packed("other", OTHER))
    (tmp_path / "mixture.nextchar").write_bytes(pack(saved("text")))
    tell = "({ detail: { error } }) => errors.push([error.code, error.message])"
    (tmp_path / "errors.js").write_text(f"const errors = []; addEventListener('nextchar:error', {tell});")
    host = Host(tmp_path)
    thread = threading.Thread(target=host.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield host
    host.server.shutdown()
    thread.join()
    host.server.server_close()


def test_field_with_a_file_completes_without_a_request_under_a_strict_policy(page: Page, host: Host) -> None:
    broken: list[str] = []
    page.on("console", lambda message: broken.append(message.text) if message.type == "error" else None)
    host.show(page, FIELD)
    assert "/line.nextchar" not in host.asked  # it is loaded when it is needed
    write(page, "l")
    ghost(page, "azy-fox bug")
    host.asked.clear()
    write(page, "xb")
    ghost(page, "ug")
    page.keyboard.press("Tab")
    value(page, "lxbug")
    assert host.asked == broken == page.evaluate("errors") == []


CALLS = """
window.calls = [];
window.ahead = [];
const post = MessagePort.prototype.postMessage;
MessagePort.prototype.postMessage = function (data, ...rest) {
  if (data?.name) calls.push(data.name);
  const keep = ({ data }) => data.event && ahead.push(data.event.prompt);
  if (data?.name === "open") this.addEventListener("message", keep);
  return post.call(this, data, ...rest);
};
"""
"""Notes calls of the worker, and the prompts that it completes ahead."""
FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"


def test_ghost_text_of_a_key_that_is_likely_next_is_there_before_the_key(page: Page, host: Host) -> None:
    page.add_init_script(CALLS)
    host.show(page, FIELD)
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.wait_for_function("() => ahead.includes('\\nlab')")
    page.evaluate("calls.length = 0")
    write(page, "b")
    shown = page.evaluate(
        f"({FRAME}).then(() => document.querySelectorAll('[aria-hidden=true] span')[1].innerText)"
    )
    assert shown == "ug" and "complete" not in page.evaluate("calls")
    page.wait_for_function("() => ahead.includes('\\nlabu')")
    write(page, "u")  # along the completion, so that there is no call
    page.wait_for_function("() => ahead.includes('\\nlabug')")


def test_ghost_text_of_a_less_likely_key_is_begun_before_the_key(page: Page, host: Host) -> None:
    page.add_init_script(CALLS)
    host.show(page, FIELD.replace("<textarea", "<textarea data-nextchar-ahead=8"))
    write(page, "la")
    page.wait_for_function("() => ahead.filter((one) => /^\\nla.$/s.test(one)).length === 8 + 4")
    assert page.evaluate("ahead.filter((one) => one === '\\nlaa').length") == 1  # not the whole
    page.evaluate(
        """() => { window.shown = [];
          addEventListener("nextchar:suggestion", ({ detail: { text, id } }) => shown.push([text, id])); }"""
    )
    write(page, "a")
    ghost(page, "zy-fox bug")
    (part, first), (whole, second) = page.evaluate("shown")
    assert (part, whole) == ("zy-f", "zy-fox bug") and first == second  # one suggestion


@pytest.mark.parametrize("reason", ["attribute", "hidden", "battery", "one processor"])
def test_nothing_is_completed_ahead_where_it_would_cost_the_user(page: Page, host: Host, reason: str) -> None:
    page.add_init_script(CALLS)
    set_up = {
        "hidden": "Object.defineProperty(document, 'hidden', { value: true })",
        "battery": "navigator.getBattery = async () => ({ charging: false, level: 0.1 })",
        "one processor": "Object.defineProperty(navigator, 'hardwareConcurrency', { value: 1 })",
    }
    page.add_init_script(set_up.get(reason, ""))
    off = "<textarea data-nextchar-ahead=0" if reason == "attribute" else "<textarea"
    host.show(page, FIELD.replace("<textarea", off))
    write(page, "la")
    ghost(page, "zy-fox bug")
    for key in "xb":
        page.evaluate(FRAME)
        write(page, key)
    ghost(page, "ug")
    page.evaluate(FRAME)
    assert set(page.evaluate("calls")) == {"start", "open", "complete"}


def test_policy_that_forbids_webassembly_is_named(page: Page, host: Host) -> None:
    host.policy = POLICY.replace("'wasm-unsafe-eval'", "")
    host.show(page, FIELD)
    write(page, "l")
    code, message = first_error(page)
    assert code == "unsupported" and "must have 'wasm-unsafe-eval' in script-src" in message
    ghost(page, "")


@pytest.mark.parametrize("fits", [True, False])
def test_integrity_decides_whether_a_file_is_used(page: Page, host: Host, fits: bool) -> None:
    data = (host.folder / ("line" if fits else "other")).with_suffix(".nextchar").read_bytes()
    digest = base64.b64encode(hashlib.sha384(data).digest()).decode()
    host.show(page, FIELD.replace("<textarea", f"<textarea data-nextchar-integrity=sha384-{digest}"))
    write(page, "la")
    if fits:
        return ghost(page, "zy-fox bug")
    assert "integrity does not fit it" in first_error(page)[1]
    return ghost(page, "")


def test_modules_of_another_origin_start_a_worker_too(page: Page, host: Host, site: Site) -> None:
    host.policy = POLICY.replace("'self'", f"'self' {site.url}").replace("worker-src", "worker-src blob:")
    html = f'<script type=module src="{site.url}/clients/js/nextchar.js"></script>{FIELD}'
    (host.folder / "other.html").write_text(f"<!doctype html><title>t</title>{html}")
    page.goto(f"{host.url}/other.html")
    write(page, "la")
    ghost(page, "zy-fox bug")


Visit = Callable[[str], Page]
BOTH = "<textarea id=t aria-label=text data-nextchar=line data-nextchar-file=/other.nextchar></textarea>"


@pytest.fixture
def page_with_file(page: Page) -> None:
    """Pages of the service's site find the file `other.nextchar`."""
    page.route("**/other.nextchar", lambda route: route.fulfill(body=packed("other", OTHER)))


@pytest.mark.usefixtures("page_with_file")
def test_file_is_used_while_the_service_is_away(visit: Visit, page: Page) -> None:
    visit(BOTH)
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.route("**/complete", lambda route: route.abort())
    page.locator("#t").fill("")
    write(page, "go")
    ghost(page, "ne-by slim")
    page.unroute("**/complete")
    for i in range(90):  # the service is asked again, in the background, about texts that have no answer yet
        page.locator("#t").fill("")
        write(page, f"{i} a")
        page.wait_for_timeout(1000)  # else a busy machine gives no answer before the next key
        if page.locator("[aria-hidden=true] span").all_inner_texts()[-1:] == ["zy-fox bug"]:
            break
    ghost(page, "zy-fox bug")


@pytest.mark.usefixtures("page_with_file")
@pytest.mark.parametrize("can", [True, False])
def test_file_that_is_first_is_used_where_the_browser_can(visit: Visit, page: Page, can: bool) -> None:
    if not can:
        page.route("**/nextchar.wasm", lambda route: route.fulfill(body="of another browser"))
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if request.url.endswith("/complete") else None
    )
    visit(BOTH.replace("<textarea", "<textarea data-nextchar-first=file"))
    write(page, "go" if can else "la")
    ghost(page, "ne-by slim" if can else "zy-fox bug")
    assert bool(asked) is not can


KEPT = """async (name) => (await indexedDB.databases()).length ? new Promise((resolve) => {
  const request = indexedDB.open("nextchar", 1);
  request.onsuccess = () => {
    const all = request.result.transaction("remembered").objectStore("remembered").get(name ?? "text");
    all.onsuccess = () => (request.result.close(), resolve(all.result ?? null));
  };
}) : null"""
COMPLETE = """async () => {
  const { load } = await import("/nextchar/offline.js");
  const model = await load("/mixture.nextchar", { remember: true });
  const { completions } = await model.complete("\\nthe ", { seed: 1, max_characters: 60 });
  return [completions[0].text, model, await model.forget()][0];
}"""


def test_what_was_written_is_remembered_on_the_device_alone(page: Page, host: Host) -> None:
    host.show(page, FIELD.replace("line", "mixture").replace("<textarea", "<textarea data-nextchar-remember"))
    before = page.evaluate(COMPLETE)
    write(page, "cat (sat) on\na mat")
    page.locator("#t").blur()
    page.wait_for_function(f"async () => (await ({KEPT})())?.text === 'cat (sat) on\\na mat\\n'")
    page.reload()
    kept = page.evaluate(KEPT)
    assert page.evaluate(COMPLETE) != before, kept  # which forgets
    assert page.evaluate(KEPT) is None and page.evaluate(COMPLETE) == before
    assert not any("cat" in path for path in host.asked)


def test_a_field_that_the_page_empties_is_remembered_and_what_was_there_before_is_not(
    page: Page, host: Host
) -> None:
    field = FIELD.replace("line", "mixture").replace("<textarea", "<textarea data-nextchar-remember")
    host.show(page, field.replace("></", ">the beginning\n</"))
    page.locator("#t").press("Control+End")
    write(page, "first message")
    page.evaluate("document.querySelector('#t').value = ''")  # sent
    write(page, "a")
    page.wait_for_function(f"async () => (await ({KEPT})())?.text === 'first message\\n'")


def test_nothing_is_remembered_unless_the_page_wants_it(page: Page, host: Host) -> None:
    host.show(page, FIELD)
    write(page, "la")
    ghost(page, "zy-fox bug")
    page.locator("#t").blur()
    assert page.evaluate("indexedDB.databases()") == []


def test_accepted_line_is_first_in_the_list_the_next_time(page: Page, host: Host) -> None:
    (host.folder / "line.nextchar").write_bytes(pack(saved("records")))
    field = FIELD.replace("textarea", "input").replace(
        "<input", "<input data-nextchar-mode=list data-nextchar-remember"
    )
    host.show(page, field)
    write(page, "the")
    second = page.get_by_role("option").nth(1)
    line = second.locator("span").first.inner_text()
    second.click()
    value(page, line)
    page.wait_for_function(f"async () => (await ({KEPT})('records')) !== null")
    page.reload()
    write(page, "the")
    expect(page.get_by_role("option").first).to_contain_text(line.removeprefix("the"))


SPY = """
const channel = new BroadcastChannel("kept"), own = FileSystemSyncAccessHandle.prototype;
for (const name of ["read", "write"]) {
  const call = own[name];
  own[name] = function (...input) {
    if (FULL && name === "write") {
      channel.postMessage("full");
      throw new DOMException("full", "QuotaExceededError");
    }
    const bytes = call.apply(this, input);
    channel.postMessage(`${name} ${bytes}`);
    return bytes;
  };
}
await import("/nextchar/offline-worker.js");
for (const { data, ports } of pending) dispatchEvent(new MessageEvent("message", { data, ports }));
"""
"""A worker that tells what it reads from its files and writes."""
OPEN = """async (file) => {
  window.heard ??= [];
  window.channel ??= new BroadcastChannel("kept");
  channel.onmessage = ({ data }) => heard.push(data);
  const { load } = await import("/nextchar/offline.js");
  const model = await load(file, { cache: true, name: "n", worker: "/spy.js" });
  const { completions } = await model.complete("the ", { seed: 1, max_characters: 60 });
  return completions[0].text;
}"""
KEPT_TABLES = """async () => {
  const names = [];
  for await (const name of (await navigator.storage.getDirectory()).keys()) names.push(name);
  return names;
}"""


def spy(host: Host, *, full: bool = False) -> None:
    pending = (
        "const pending = [];\naddEventListener('message', (event) => pending.push(event), { once: true });\n"
    )
    (host.folder / "spy.js").write_text(pending + SPY.replace("FULL", "true" if full else "false"))


def test_tables_are_kept_for_the_next_time_until_the_model_is_another(page: Page, host: Host) -> None:
    spy(host)
    host.show(page, "")
    text = page.evaluate(OPEN, "/mixture.nextchar")
    page.wait_for_function("() => heard.some((one) => one.startsWith('write'))")
    [written] = page.evaluate("heard")
    size = int(written.removeprefix("write "))
    page.reload()
    assert page.evaluate(OPEN, "/mixture.nextchar") == text
    assert page.evaluate("heard") == ["read 8", f"read {size}"]
    (host.folder / "changed.nextchar").write_bytes(
        pack(saved("text"), limit_bytes=len(pack(saved("text"))) - 1000)
    )
    page.reload()
    page.evaluate(OPEN, "/changed.nextchar")
    page.wait_for_function("() => heard.some((one) => one.startsWith('write'))")
    assert page.evaluate("heard")[0] == "read 8" and len(page.evaluate("heard")) == 2
    assert page.evaluate(KEPT_TABLES) == ["nextchar-tables"]
    page.evaluate("import('/nextchar/nextchar.js').then(({ forget }) => forget())")
    assert page.evaluate(KEPT_TABLES) == []


def test_tables_for_which_there_is_no_room_are_not_kept_and_the_model_works(page: Page, host: Host) -> None:
    spy(host, full=True)
    host.show(page, "")
    assert len(page.evaluate(OPEN, "/mixture.nextchar")) == 60
    page.wait_for_function("() => heard.includes('full')")
    names = """async () => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("nextchar-tables");
      return Array.fromAsync(folder.keys());
    }"""
    page.wait_for_function(f"async () => (await ({names})().catch(() => 'changing')).length === 0")


RECIPE = module_path("recipes") / "offline"


def test_page_with_everything_in_it_completes_from_a_disk(page: Page, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(offline_page(packed("line", LINE)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url[:5]))
    page.goto((tmp_path / "page.html").as_uri())
    write(page, "la", "textarea")
    ghost(page, "zy-fox bug")
    page.get_by_role("button").click()
    expect(page.get_by_role("status").last).to_have_text("It is forgotten.")
    assert set(asked) <= {"file:", "data:"}


def test_recipe_works_from_a_static_host_and_without_a_network_after_that(page: Page, host: Host) -> None:
    host.policy = ""
    shutil.copytree(RECIPE, host.folder, dirs_exist_ok=True)
    shutil.copy(host.folder / "line.nextchar", host.folder / "model.nextchar")
    page.goto(f"{host.url}/")
    write(page, "la", "textarea")
    ghost(page, "zy-fox bug")
    page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    host.server.shutdown()
    host.server.server_close()
    page.reload()
    write(page, "la", "textarea")
    ghost(page, "zy-fox bug")


def test_recipe_says_that_there_is_no_room_and_works(page: Page, host: Host) -> None:
    host.policy = ""
    shutil.copytree(RECIPE, host.folder, dirs_exist_ok=True)
    worker = (host.folder / "service-worker.js").read_text()
    full = "Cache.prototype.addAll = () => Promise.reject(new DOMException('full', 'QuotaExceededError'));"
    (host.folder / "service-worker.js").write_text(full + worker)
    shutil.copy(host.folder / "line.nextchar", host.folder / "model.nextchar")
    page.goto(f"{host.url}/")
    expect(page.locator("#state")).to_contain_text("There is no room on this device")
    write(page, "la", "textarea")
    ghost(page, "zy-fox bug")


def test_recipes_service_worker_keeps_every_module_that_the_page_loads() -> None:
    [modules] = re.findall(r"MODULES = \[(.*?)\]", (RECIPE / "service-worker.js").read_text(), re.DOTALL)
    listed = re.findall(r'"([a-z-]+)"', modules)
    needed = loaded_with("nextchar.js") | loaded_with("list.js") | loaded_with("offline-field.js")
    assert {f"{name}.js" for name in listed} == needed | {"offline-worker.js"}
