"""Latency from a key press to painted ghost text, in a real browser on this machine.

    asked    a key that the suggestion did not predict: a request to the service, its answer, a frame
    along    a key that the suggestion predicted: no request
    static   a key after which the page itself draws a text at once: what any page takes on this machine

Chromium's keyboard types in a textarea with `data-nextchar` on a page of the running service. The time is
from the key's time stamp until the frame with the new ghost text is drawn, without debounce. Keys are pressed
at random times within a frame; right after a frame, chromium would draw every answer a frame later. The
network has random weights, which cost the same as trained ones. The next key comes after ghost text is
painted, `--pause` milliseconds later. Prints one table and one JSON line.

With `--file`, a packed model completes 20 characters in the page, and there is no service; of a key for which
they were begun ahead, the first ones are painted with the key and the rest later, which is not measured.
Cold starts are measured, too, of this file and of further ones, such as the same model with tables: in a new
context of the browser, from nothing loaded to the first completion. A next start is that of a page whose
model's tables were kept the time before; it is measured in a profile on the disk, as users have one.

    python -m benchmarks.keystroke_latency [--keys 200] [--network 1x512 | --file MODEL.nextchar …]
"""

import argparse
import contextlib
import math
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from benchmarks.networks import random_weights, saved_model
from benchmarks.report import print_json_line, print_table
from benchmarks.server import running_api
from nextchar.models.saved_model import SavedModel

FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run")

_SURENESS = 14_000.0  # over the root of the units: makes one of nearly equal random logits stand out
_WARM_UP = 10  # keys before the measurement
_PATIENCE = 20  # keys without ghost text before it fails
_ACCEPTED_BY_TYPING = 3  # characters typed along each suggestion
_LETTERS = "etaoinshrdlu"
_FRAME_S = 1 / 60
_MOMENTS = random.Random(1)
_STARTS = 11
_KEPT_AFTER_MS = 5_000  # by then the tables of a model are kept
_JS = Path(__file__).parents[1] / "clients" / "js"

_COLD = """async ([file, cache]) => {
  const began = performance.now();
  const { load } = await import("/js/offline.js");
  const model = await load(file, { cache });
  const { completions: [{ text }] } = await model.complete("In the ", { max_characters: 20, temperature: 0 });
  return performance.now() - began;
}"""

_KEPT = """async () => {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("nextchar-tables");
  for await (const one of folder.values()) return (await one.getFile()).size > 0;
}"""

_STATIC = """() => {
  const field = document.createElement('textarea'), drawn = document.createElement('p');
  field.id = 'measured';
  field.addEventListener('input', () => {
    drawn.textContent = field.value;
    field.dispatchEvent(new CustomEvent('nextchar:suggestion', { bubbles: true, detail: { text: 'drawn' } }));
  });
  document.querySelector('main').replaceChildren(field, drawn);
}"""

_WATCH = """() => {
  window.painted = [];
  let key = 0;
  document.addEventListener('keydown', (event) => {
    key = event.timeStamp;
    painted.length = 0;  // the rest of an earlier suggestion
  }, true);
  document.addEventListener('nextchar:suggestion', ({ detail }) => {
    const began = key;
    requestAnimationFrame(() => {  // the frame that it is drawn in; what is posted now comes after that frame
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => painted.push([performance.now() - began, detail.text]);
      port2.postMessage(null);
    });
  });
}"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=200, help="that count, of each kind")
    parser.add_argument("--pause", type=float, default=0, metavar="MS", help="before the next key")
    parser.add_argument("--network", default="1x512", metavar="LAYERSxUNITS")
    parser.add_argument("--file", type=Path, nargs="+", help="packed models; the keys are those of the first")
    parser.add_argument("--ahead", type=int, default=24, help="of how many keys the file completes ahead")
    options = parser.parse_args(arguments)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("there is no chromium on this machine")
    with contextlib.ExitStack() as stack:
        if options.file:
            address = stack.enter_context(_static_host(options.file))
            attributes = {
                "nextcharFile": f"/{options.file[0].name}",
                "nextcharUntil": "line",
                "nextcharMax": "20",
                "nextcharAhead": str(options.ahead),
            }
        else:
            layers, units = map(int, options.network.split("x"))
            model = sure_model(layers, units)
            api = stack.enter_context(running_api([model]))
            address = f"http://127.0.0.1:{api.port}/clients/js/example.html"
            attributes = {"nextchar": model.card.name, "nextcharDebounce": "0"}
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        starts = {
            f"cold start, {one.name}": cold_starts(browser, address, one.name) for one in options.file or ()
        }
        if options.file:
            first = options.file[0].name
            starts[f"next start, {first}"] = next_starts(playwright, chromium, address, first)
        page = browser.new_page()
        page.goto(address)
        asked, along, requests = measure(page, attributes, options.keys, options.pause)
        page.evaluate(_STATIC)
        page.locator("#measured").focus()
        static = [press(page, _LETTERS[0], options.pause)[0] for _ in range(options.keys)]
        version = browser.version
        browser.close()
    keys = {"asked": asked, "along": along, "static": static}
    figures = {name: summary(times) for name, times in (keys | starts).items() if times}
    rows = [
        [name, *(f"{one[key]:.1f}" for key in ("p50_ms", "p95_ms", "max_ms"))]
        for name, one in figures.items()
    ]
    print_table(("key", "p50 ms", "p95 ms", "max ms"), rows)
    print(f"requests for {_ACCEPTED_BY_TYPING} characters typed along a right suggestion: {requests:.2f}")
    print_json_line(
        "keystroke_latency",
        browser=version,
        model=options.file[0].name if options.file else options.network,
        keys=figures,
        requests_for_three_characters_along=requests,
    )


@contextlib.contextmanager
def _static_host(files: Sequence[Path]) -> Iterator[str]:
    """Serve a page with the client's modules and packed models; yield its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "js").symlink_to(_JS)
        for file in files:
            (folder / file.name).symlink_to(file.absolute())
        page = "<!doctype html><title>t</title><script type=module src=/js/nextchar.js></script><main></main>"
        (folder / "index.html").write_text(page)
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=name)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}/"
            server.shutdown()


def cold_starts(browser: Browser, address: str, name: str) -> list[float]:
    """Return milliseconds from nothing to the first completion, in new contexts, which have no cache."""
    times = []
    for _ in range(_STARTS):
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        times.append(float(page.evaluate(_COLD, [f"/{name}", False])))
        context.close()
    return times


def next_starts(playwright: Playwright, chromium: str, address: str, name: str) -> list[float]:
    """Return the same of pages whose tables were kept; none if the file has its own, which are not kept."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as profile:
        launch = playwright.chromium.launch_persistent_context
        context = launch(profile, executable_path=chromium, args=list(FLAGS))
        for _ in range(1 + _STARTS):
            page = context.new_page()
            page.goto(address)
            times.append(float(page.evaluate(_COLD, [f"/{name}", True])))
            if len(times) == 1:
                page.wait_for_timeout(_KEPT_AFTER_MS)
                if not page.evaluate(f"({_KEPT})().catch(() => false)"):
                    break
            page.close()
        context.close()
    return times[1:]


def sure_model(layers: int, units: int) -> SavedModel:
    """Return a random model with confident predictions, so that suggestions are shown."""
    weights = random_weights(layers, units)
    weights["dense/kernel"] *= _SURENESS / math.sqrt(units)
    return saved_model(layers, units, weights)


def measure(
    page: Page, attributes: dict[str, str], keys: int, pause_ms: float
) -> tuple[list[float], list[float], float]:
    """Type; return milliseconds of `asked` and `along` keys, and requests per three of the latter."""
    requests: list[str] = []
    page.on(
        "request", lambda request: requests.append(request.url) if request.url.endswith("/complete") else None
    )
    page.evaluate(
        """(attributes) => {
          const field = document.createElement('textarea');
          Object.assign(field.dataset, attributes);
          field.id = 'measured';
          document.querySelector('main').replaceChildren(field);
        }""",
        attributes,
    )
    page.evaluate(_WATCH)
    field = page.locator("#measured")
    field.focus()
    asked: list[float] = []
    along: list[float] = []
    along_requests = rounds = 0
    shown = ""
    silent = 0
    while len(asked) < keys + _WARM_UP:
        if silent > _PATIENCE:
            raise RuntimeError(f"no ghost text after {silent} keys")
        unexpected = next(letter for letter in _LETTERS if letter != shown[:1])
        taken, shown = press(page, unexpected, pause_ms)
        silent = 0 if shown else silent + 1
        if shown:
            asked.append(taken)
        if len(shown) <= _ACCEPTED_BY_TYPING:
            continue
        before = len(requests)
        for _ in range(_ACCEPTED_BY_TYPING):
            taken, shown = press(page, shown[0], pause_ms)
            if not shown:  # what follows has become doubtful
                break
            along.append(taken)
        along_requests += len(requests) - before
        rounds += 1
    return asked[_WARM_UP:], along[_WARM_UP:], along_requests / max(1, rounds)


def press(page: Page, key: str, pause_ms: float) -> tuple[float, str]:
    """Press a key; return the milliseconds until ghost text was painted, and the ghost text or ""."""
    page.evaluate("painted.length = 0")
    time.sleep(pause_ms / 1e3 + _MOMENTS.uniform(0, _FRAME_S))
    page.keyboard.type(key)
    # Ghost text after that is too late.
    found = page.evaluate(
        """() => new Promise((done) => {
          const began = performance.now();
          const look = () => (painted.length || performance.now() - began > 300)
            ? done(painted[0] ?? [0, '']) : setTimeout(look, 5);
          look();
        })"""
    )
    return float(found[0]), str(found[1])


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return statistics of milliseconds."""
    ordered = sorted(times)
    return {
        "keys": len(ordered),
        "p50_ms": statistics.median(ordered),
        "p95_ms": ordered[int(0.95 * (len(ordered) - 1))],
        "max_ms": ordered[-1],
    }


if __name__ == "__main__":
    main()
