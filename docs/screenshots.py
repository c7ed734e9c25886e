"""Screenshots of the console for README and docs, from a running service with two models.

    python -m docs.screenshots --server URL --text-model MODEL --log-model MODEL --log FILE

`--all` takes every view, light, dark and 360 pixels wide, to check while working on the console. Needs
chromium, and the packages that the tests need.
"""

import argparse
import io
import json
import shutil
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

_FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run")
_PROMPT = "What is noble? What does the wor"
_NARROW, _WIDE = 360, 1200

Prepare = Callable[[Page], None]


def main() -> int:
    """Take the screenshots; return the exit status."""
    parser = argparse.ArgumentParser(description="Take screenshots of the console.")
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="a running service")
    parser.add_argument("--text-model", required=True, help="the model in the playground")
    parser.add_argument("--prompt", default=_PROMPT, help="its prompt")
    parser.add_argument("--log-model", required=True, help="the model in the anomalies view")
    parser.add_argument("--log", type=Path, required=True, help="the lines that it scores")
    parser.add_argument("--job", help="the job to show. Default: the newest")
    parser.add_argument("--all", action="store_true", help="every view, in light, dark and narrow")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "images")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("there is no chromium on this machine", file=sys.stderr)
        return 1
    options.to.mkdir(parents=True, exist_ok=True)
    job = options.job or _first(options.server, "jobs")
    corpus = _first(options.server, "corpora")
    playground = f"#/playground?model={options.text_model}"
    anomalies = f"#/anomalies?model={options.log_model}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        take = _camera(browser, options.server, options.to)
        generate, score = _generate(options.prompt), _score(options.log.read_text())
        take("console-job.png", f"#/jobs/{job}")
        take("console-playground.png", playground, prepare=generate)
        take("console-anomalies.png", anomalies, prepare=score, scheme="dark")
        views = {
            "start": "", "texts": "#/corpora", "text": f"#/corpora/{corpus}", "train": "#/train",
            "jobs": "#/jobs", "job": f"#/jobs/{job}", "models": "#/models", "playground": playground,
            "model": f"#/models/{options.text_model}", "anomalies": anomalies,
            "compare": f"#/compare?models={options.text_model},{options.log_model}",
            "alerts": f"#/alerts?model={options.log_model}", "keys": "#/keys", "live": "#/live",
        } if options.all else {}  # fmt: skip
        for name, address in views.items():
            prepare = {"playground": generate, "anomalies": score}.get(name, _nothing)
            for mode, scheme, width in (("l", "light", _WIDE), ("d", "dark", _WIDE), ("n", "light", _NARROW)):
                take(f"{name}-{mode}.png", address, prepare=prepare, scheme=scheme, width=width, whole=True)
        browser.close()
    return 0


def _camera(browser: Browser, server: str, folder: Path) -> Callable[..., None]:
    def take(
        file: str,
        address: str,
        *,
        prepare: Prepare = _nothing,
        scheme: str = "light",
        width: int = _WIDE,
        whole: bool = False,
    ) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.goto(f"{server}/{address}")
        page.locator("main:not([aria-busy]) h1").first.wait_for()
        prepare(page)
        page.wait_for_timeout(800)  # fonts, and what comes after the first paint
        picture = Image.open(io.BytesIO(page.screenshot(full_page=whole)))
        # A palette is a third of the size, and this way of choosing it keeps thin colored lines.
        small = picture.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(folder / file, optimize=True)
        print(f"{folder / file}: {(folder / file).stat().st_size // 1024} KiB")
        context.close()

    return take


def _nothing(_: Page) -> None:
    return


def _generate(prompt: str) -> Prepare:
    def prepare(page: Page) -> None:
        page.get_by_label("Your text").press_sequentially(prompt, delay=15)
        page.locator(".characters li").first.wait_for()
        page.get_by_label("Seed").fill("1")
        page.get_by_role("button", name="Generate").click()
        page.locator(".continuation:not([aria-busy])").first.wait_for()
        page.get_by_label("Your text").focus()
        page.get_by_label("Your text").press_sequentially(" ")
        page.get_by_label("Your text").press("Backspace")

    return prepare


def _score(log: str) -> Prepare:
    def prepare(page: Page) -> None:
        page.get_by_label("Log lines").fill(log)
        page.get_by_role("button", name="Find anomalies").click()
        page.get_by_label("Most anomalous first").check()
        page.locator(".log-line.anomalous").first.click()
        page.locator(".whole-line span[class*=heat-6]").first.hover()
        page.locator(".characters li").first.wait_for()
        page.get_by_role("region", name="Threshold and filters").evaluate("one => one.scrollIntoView()")

    return prepare


def _first(server: str, what: str) -> str:
    with urllib.request.urlopen(f"{server}/v1/{what}?limit=1", timeout=10) as response:  # noqa: S310
        return str(json.load(response)["data"][0]["id"])


if __name__ == "__main__":
    sys.exit(main())
