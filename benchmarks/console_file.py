"""A large log in the console: characters per second, and the memory of the page and of the API over time.

The whole service is started, a small model is trained on the beginning of a generated log, and the log is
opened in the anomalies view of a headless Chromium. Memory is read every few seconds: the page's JavaScript
heap and array buffers after a garbage collection, its DOM nodes, and the resident memory of the API. What is
flat does not grow with the file, apart from the 32 bytes that the page keeps of each line. Needs Playwright
and Chromium, as the tests in a browser do.

    python -m benchmarks.console_file [--megabytes 200] [--file FILE] [--seconds 10]
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import CDPSession, Page, sync_playwright

from benchmarks.report import print_json_line, print_table
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack

_MODEL = "large-log"
_TRAINED_LINES = 5_000
_LINES = 20_000  # that differ in more than their time
_START_S = 1_772_323_200
_MIB = 1 << 20
_POLL_MS = 5_000
_TIMEOUT_S = 3 * 3600
_FLAGS = ["--no-sandbox", "--enable-precise-memory-info"]


def main() -> None:
    """Open the file in the console and print what was measured."""
    options = _arguments()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("there is no chromium on this machine; install the package chromium")
    with tempfile.TemporaryDirectory() as folder:
        log = options.file or Path(folder) / "large.log"
        if options.file is None:
            write_log(log, options.megabytes * _MIB)
        settings = LauncherSettings(data_dir=Path(folder) / "data", port=0)
        with Stack(settings) as stack, sync_playwright() as playwright:
            train(stack.url, log, options.seconds)
            browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            found = open_log(page, stack, log)
            browser.close()
    _print(found)


def write_log(path: Path, size: int) -> None:
    """Write a log of about so many bytes, whose lines have ever later times."""
    lines = list(_lines(random.Random(0)))
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_START_S + number // 20))
            written += file.write(f"{stamp}{lines[number % len(lines)]}\n")
            number += 1


def _lines(r: random.Random) -> Iterator[str]:
    """Yield what the log of a service says after the times."""
    users = ["".join(r.choices("abcdefghijklmnop", k=6)) for _ in range(200)]
    for _ in range(_LINES):
        number = r.randint(1, 100_000)
        messages = (
            f"user {r.choice(users)} logged in from 10.0.{number % 256}.{number % 199}",
            f"request {number} for /item/{number % 911} took {number % 900} ms",
            f"queue {number % 7} has {number % 64} entries",
        )
        yield f" app[{number % 9_999}]: {r.choice(messages)}"


def train(url: str, log: Path, seconds: float) -> None:
    """Train a model on the first lines, with a calibration. Raises HTTPStatusError."""
    with log.open("rb") as file, httpx.Client(base_url=url, timeout=600) as http:
        text = b"".join(line for line, _ in zip(file, range(_TRAINED_LINES), strict=False))
        corpus = http.post("/v1/corpora", content=text).raise_for_status().json()
        body = {
            "corpus": corpus["id"],
            "name": _MODEL,
            "budget": {"seconds": seconds},
            "purpose": "anomalies",
        }
        job = http.post("/v1/jobs", json=body).raise_for_status().json()
        while job["status"] in ("queued", "running"):
            time.sleep(0.5)
            job = http.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
        assert job["status"] == "succeeded", job["error"]


def open_log(page: Page, stack: Stack, log: Path) -> dict[str, Any]:
    """Score the log in the console; return the speed and the memory over time."""
    page.goto(f"{stack.url}/#/anomalies?model={_MODEL}")
    page.locator("#main:not([aria-busy]) h1").first.wait_for()
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.enable")
    characters = log.stat().st_size  # the generated ones are ASCII
    started = time.monotonic()
    page.set_input_files("#log-file", log)
    page.locator(".log-line").first.wait_for(timeout=60_000)
    first_line_s = time.monotonic() - started
    rows = list(_watch(page, session, stack, started))
    return {
        "bytes": characters,
        "lines": rows[-1]["lines"],
        "first_line_s": round(first_line_s, 2),
        "characters_per_second": round(characters / rows[-1]["seconds"]),
        "memory": rows,
    }


def _watch(page: Page, session: CDPSession, stack: Stack, started: float) -> Iterator[dict[str, Any]]:
    """Yield the memory every few seconds until all lines are scored."""
    stop = page.get_by_role("button", name="Stop")
    while time.monotonic() - started < _TIMEOUT_S:
        is_running = stop.is_visible()
        seconds = time.monotonic() - started
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")
        [scored] = re.findall(r"of ([\d,]+) lines", page.locator("p[role=status]").first.inner_text())
        yield {
            "seconds": round(seconds, 1),
            "lines": int(scored.replace(",", "")),
            "heap_mib": round(heap["usedSize"] / _MIB, 1),
            "buffers_mib": round(heap.get("backingStorageSize", 0) / _MIB, 1),
            "nodes": session.send("Memory.getDOMCounters")["nodes"],
            "api_mib": round(_resident_bytes(stack.api_pid) / _MIB, 1),
        }
        if not is_running:
            return
        page.wait_for_timeout(_POLL_MS)
    raise TimeoutError(f"the log was not scored within {_TIMEOUT_S} s")


def _resident_bytes(pid: int) -> int:
    [size] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(size) * 1024


def _print(found: dict[str, Any]) -> None:
    print_table(
        ["seconds", "lines", "heap, MiB", "buffers, MiB", "DOM nodes", "API, MiB"],
        [
            [
                f"{row['seconds']:.0f}",
                f"{row['lines']:,}",
                f"{row['heap_mib']:.1f}",
                f"{row['buffers_mib']:.1f}",
                f"{row['nodes']:,}",
                f"{row['api_mib']:.1f}",
            ]
            for row in found["memory"]
        ],
    )
    print(
        f"\n{found['bytes'] / _MIB:.0f} MiB, {found['lines']:,} lines: {found['characters_per_second']:,}"
        f" characters per second; the first lines were shown after {found['first_line_s']:.1f} s."
    )
    print_json_line("console_file", **found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-console-file", description="A large log in the console: speed and memory."
    )
    parser.add_argument("--megabytes", type=int, default=200, help="of the generated log")
    parser.add_argument("--file", type=Path, help="a log to open instead of a generated one")
    parser.add_argument("--seconds", type=float, default=10.0, help="of training")
    return parser.parse_args()


if __name__ == "__main__":
    main()
