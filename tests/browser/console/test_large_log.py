"""Logs of many lines: sent in pieces, stopped and resumed, in bounded memory."""

import csv
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import PopulatedService

LINE = "lazy-fox bug lazy-fox bug lazy-fox bug\n"
LINES = 100_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file of four megabytes; its last line is anomalous."""
    return write_log(tmp_path, LINES)


def write_log(folder: Path, lines: int) -> Path:
    """Write lines whose last one is anomalous; return the file."""
    path = folder / "large.log"
    path.write_text(LINE * (lines - 1) + "lazxyyy-fox bug\n")
    return path


def test_a_large_file_is_sent_in_pieces_and_only_rows_in_view_are_kept(
    service: PopulatedService, open_window: Open, log: Path
) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))
    sent: list[int] = []

    def note(route: Route) -> None:
        sent.append(len(route.request.post_data_buffer or b""))
        route.continue_()

    page.route("**/score?*", note)
    page.set_input_files("#log-file", log)
    page.locator(".log-line").first.wait_for()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_text("lines per second")).to_be_visible()
    while sum(sent) < log.stat().st_size:  # each piece has a deadline, however long all of them take
        page.wait_for_event("response", lambda response: "/score?" in response.url, timeout=60_000)
    expect(page.get_by_role("status").filter(has_text=f"of {LINES:,} lines")).to_be_visible(timeout=60_000)
    assert sum(sent) == log.stat().st_size and max(sent) <= 1 << 20 and sent[0] <= 64 << 10
    rows = page.get_by_role("listbox")
    for _ in range(20):
        rows.press("PageDown")
    rows.press("Control+End")
    expect(page.locator(f".log-line[aria-posinset='{LINES}'] .log-text")).to_have_text("lazxyyy-fox bug")
    assert page.locator(".log-line").count() < 60
    assert page.locator(".log-line[aria-setsize]").first.get_attribute("aria-setsize") == str(LINES)
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV").click()
    with saved.value.path().open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["line"] for row in written] == [str(n) for n in range(1, LINES + 1)]
    assert {row["text"] for row in written[:-1]} == {LINE.strip()} and written[-1][
        "text"
    ] == "lazxyyy-fox bug"
    page.get_by_label("Search in lines").fill("xyyy")
    expect(page.locator(".log-line .line-number")).to_have_text([f"{LINES:,}"])


def test_a_stopped_run_is_resumed_without_losing_or_repeating_a_line(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    log = write_log(tmp_path, lines := 30_000)  # five pieces
    page = settled(open_window(service.url + service.views["anomalies"]))
    pieces: list[Route] = []

    def hold_third(route: Route) -> None:
        pieces.append(route)
        if len(pieces) != 3:
            route.continue_()

    page.route("**/score?*", hold_third)
    page.set_input_files("#log-file", log)
    page.locator(".log-line").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped after")).to_be_visible()
    page.unroute("**/score?*", hold_third)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status").filter(has_text=f"of {lines:,} lines")).to_be_visible(timeout=60_000)
    page.get_by_role("listbox").press("Control+End")
    expect(page.locator(".log-line.current .line-number")).to_have_text(f"{lines:,}")
    expect(page.locator(".log-line.current .log-text")).to_have_text("lazxyyy-fox bug")


def test_a_piece_that_is_cut_off_is_sent_again_and_no_line_is_counted_twice(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))

    def cut(route: Route) -> None:
        records = route.fetch().body().split(b"\n")
        route.fulfill(body=b"\n".join(records[:4]) + b"\n")  # three lines, and no end

    page.route("**/score?*", cut, times=1)
    page.get_by_label("Log lines").fill("\n".join(f"lazy-fox bug {n}" for n in range(1, 8)))
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.locator(".log-line .line-number")).to_have_text(["1", "2", "3"])
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".log-line .line-number")).to_have_text([str(n) for n in range(1, 8)])
    expect(page.get_by_role("status").filter(has_text="of 7 lines")).to_be_visible()


def test_caches_and_columns_are_bounded(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url))
    kept = page.evaluate(
        """async () => {
          const { ScoredLog } = await import("/console/log/scored-log.js");
          const { lineTexts } = await import("/console/log/texts.js");
          const { pastedSource } = await import("/console/log/source.js");
          const lines = Array.from({ length: 2500 }, (_, n) => `line ${n}`);
          const source = pastedSource(lines.join("\\n"));
          const data = new Uint8Array(await source.blob.arrayBuffer());
          const log = new ScoredLog(source);
          let offset = 0;
          log.add(
            lines.map((text, n) => {
              const scored = { lines: 1, characters: text.length, score: n % 7, p_value: 0.5,
                               ...(n % 2 && { alert_id: `alert_${n % 5}` }) };
              const record = { line: n + 1, offset, ...scored };
              offset += text.length + 1;
              return record;
            }),
            { data, offset: 0 },
          );
          const texts = lineTexts(log);
          for (let row = 0; row < log.length; row += 1) await texts.get(row);
          const objects = Object.values(log).filter((value) => Array.isArray(value)).length;
          const bytes = Object.values(log)
            .filter((value) => ArrayBuffer.isView(value))
            .reduce((sum, column) => sum + column.byteLength / column.length, 0);
          let keptTexts = 0;
          for (let row = 0; row < log.length; row += 1) keptTexts += Number(texts.kept(row) !== undefined);
          return { objects, bytes, keptTexts, last: await texts.get(2499), alerts: [...log.alerts.keys()] };
        }"""
    )
    assert kept == {
        "objects": 0,
        "bytes": 35,
        "keptTexts": 2000,
        "last": "line 2499",
        "alerts": ["", "alert_1", "alert_3", "alert_0", "alert_2", "alert_4"],
    }


@pytest.mark.parametrize(("rows", "height", "top"), [(1_000_000, 8_000_000, 999_980), (100, 3_000, 80)])
def test_the_last_of_a_million_rows_is_reached(
    service: PopulatedService, open_window: Open, rows: int, height: int, top: int
) -> None:
    page = settled(open_window(service.url))
    result: dict[str, Any] = page.evaluate(
        """async (count) => {
          const { virtualList } = await import("/console/components/virtual-list.js");
          const { h } = await import("/console/dom.js");
          const none = () => {};
          const list = virtualList({ label: "rows", rowHeight: () => 30, signal: new AbortController().signal,
            onSelect: none, onOpen: none,
            renderRow: (index) => ({ class: "", children: [h("span", {}, String(index))] }) });
          document.querySelector("main").replaceChildren(list.node);
          list.node.style.maxHeight = "none";
          list.node.style.height = "600px";
          list.setCount(count);
          const seen = () => {
            const box = list.node.getBoundingClientRect();
            const isInside = ({ top, bottom }) => top >= box.top - 1 && bottom <= box.bottom + 1;
            return [...list.node.querySelectorAll("[role=option]")]
              .filter((row) => isInside(row.getBoundingClientRect()))
              .map((row) => Number(row.textContent)).sort((a, b) => a - b);
          };
          const first = seen();
          list.select(count - 1);
          await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
          const last = seen();
          list.select(Math.floor(count / 2));
          const middle = seen();
          return { first: first[0], last: last.at(-1), lastTop: last[0],
                   hasMiddle: middle.includes(Math.floor(count / 2)),
                   height: list.node.firstChild.offsetHeight, elements: list.elements() };
        }""",
        rows,
    )
    assert (result["first"], result["last"], result["hasMiddle"]) == (0, rows - 1, True)
    assert result["height"] == height and result["elements"] < 40
    assert abs(result["lastTop"] - top) <= 1
