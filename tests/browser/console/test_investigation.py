"""Investigating a scored log: histogram, groups, search, order, export, the address, narrow screens."""

import csv
import io
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.console.windows import Open, open_view, settled
from tests.browser.populated_service import PopulatedService

LINES = 240


def timed_log() -> str:
    """A log of four minutes, a line per second; those of the third minute have another template."""
    kinds = {True: "lazxyyy-fox bug {n}", False: "lazy-fox bug"}
    return "".join(
        f"2024-05-06T07:{8 + n // 60:02}:{n % 60:02}Z {kinds[120 <= n < 180].format(n=n)}\n"
        for n in range(LINES)
    )


@pytest.fixture
def investigated(service: PopulatedService, open_window: Open, tmp_path: Path) -> Page:
    """The anomalies view with the log as a file."""
    log = tmp_path / "app.log"
    log.write_text(timed_log())
    page = settled(open_window(service.url + "/#/anomalies?model=line@1"))
    page.set_input_files("#log-file", log)
    expect(page.get_by_role("status").filter(has_text=f"of {LINES} lines")).to_be_visible()
    return page


def numbers(page: Page) -> list[int]:
    """The numbers of the lines whose rows are in view, from the top."""
    rows = page.locator(".log-line").evaluate_all(
        "rows => rows.map(row => [parseFloat(row.style.top), row.querySelector('.line-number').textContent])"
    )
    return [int(number) for _, number in sorted(rows)]


def query(page: Page, name: str) -> str | None:
    """A parameter of the address."""
    value = page.evaluate("name => new URLSearchParams(location.hash.split('?')[1]).get(name)", name)
    return None if value is None else str(value)


def test_histogram_over_time_is_zoomed_with_the_mouse_and_reset(investigated: Page, tmp_path: Path) -> None:
    page = investigated
    page.get_by_label("Flag repeats").check()
    chart = page.locator(".histogram")
    expect(chart).to_have_accessible_name(f"Lines over time: {LINES} lines, {LINES} flagged")
    expect(page.get_by_text("2024-05-06 07:08:00 to 2024-05-06 07:11:59", exact=True)).to_be_visible()
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 40)
    page.mouse.up()
    expect(page.get_by_role("status").filter(has_text="lines flagged")).not_to_contain_text(f"of {LINES}")
    shown = numbers(page)
    assert 115 <= shown[0] <= 125 and query(page, "from") is not None
    page.reload()
    expect(page.get_by_text("Choose the file app.log again")).to_be_visible()
    page.set_input_files("#log-file", tmp_path / "app.log")
    page.locator(".log-line").first.wait_for()
    assert numbers(page) == shown
    page.get_by_role("button", name="Reset zoom").click()
    expect(page.get_by_role("status").filter(has_text=f"of {LINES} lines")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("button", name="Reset zoom")).to_be_visible()
    expect(page.locator(".log-line")).to_have_count(len(shown))
    assert numbers(page) == shown


def test_histogram_is_zoomed_with_the_keyboard(investigated: Page) -> None:
    page = investigated
    chart = page.locator(".histogram")
    chart.focus()
    for key in ("End", "Shift+ArrowLeft", "Shift+ArrowLeft", "Enter"):
        chart.press(key)
    expect(page.get_by_role("button", name="Reset zoom")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="lines flagged")).not_to_contain_text(f"of {LINES}")
    last = numbers(page)
    assert last[-1] == LINES and len(last) < 10
    chart.press("Escape")
    expect(page.get_by_role("status").filter(has_text=f"of {LINES} lines")).to_be_visible()
    expect(page.get_by_role("button", name="Reset zoom")).to_be_hidden()


def test_lines_without_times_are_counted_by_their_position(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + "/#/anomalies?model=line@1"))
    page.get_by_label("Log lines").fill("lazy-fox bug\n" * 30)
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.locator(".histogram")).to_have_accessible_name("Lines by position: 30 lines, 0 flagged")


def test_lines_are_grouped_by_alert_and_a_group_is_opened(investigated: Page) -> None:
    page = investigated
    page.get_by_label("Group by alert").check()
    groups = page.locator(".log-line")
    expect(groups.locator(".log-text")).to_have_text(
        ["2024-05-06T07:08:00Z lazy-fox bug", "2024-05-06T07:10:00Z lazxyyy-fox bug 120"]
    )
    expect(groups.locator(".line-number")).to_have_text(["180 lines", "60 lines"])
    page.get_by_role("listbox").press("ArrowDown")
    page.get_by_role("listbox").press("ArrowDown")
    page.get_by_role("listbox").press("Enter")
    expect(page.get_by_text("Only lines of the alert of line")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="of 60 lines")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Group by alert")).to_be_checked()
    expect(groups.locator(".line-number")).to_have_text(["180 lines", "60 lines"])
    page.go_forward()
    page.get_by_role("button", name="Show all lines").click()
    expect(page.get_by_role("status").filter(has_text=f"of {LINES} lines")).to_be_visible()


def test_search_and_order_and_selection_are_in_the_address(
    investigated: Page, service: PopulatedService
) -> None:
    page = investigated
    page.get_by_label("Search in lines").fill("LAZXYYY")
    expect(page.get_by_role("status").filter(has_text="of 60 lines")).to_be_visible()
    page.get_by_label("Most anomalous first").check()
    page.locator(".log-line").nth(3).click()
    chosen = numbers(page)[3]
    assert (query(page, "q"), query(page, "sort"), query(page, "line")) == ("LAZXYYY", "score", str(chosen))
    expect(page.get_by_role("heading", name=f"Line {chosen}", exact=False).first).to_be_visible()
    address = page.url.removeprefix(service.url)
    open_view(page, service, "/#/models")
    open_view(page, service, address)
    expect(page.get_by_role("status").filter(has_text="of 60 lines")).to_be_visible()
    expect(page.get_by_label("Most anomalous first")).to_be_checked()
    expect(page.locator(".log-line.current .line-number")).to_have_text(str(chosen))


def test_a_reload_shows_the_same_pasted_lines_and_selection(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + "/#/anomalies?model=line@1"))
    page.get_by_label("Log lines").fill("lazy-fox bug\nlazxyyy-fox bug\nlazy-fox bug")
    page.get_by_role("button", name="Find anomalies").click()
    page.get_by_label("Flagged lines only").check()
    page.locator(".log-line").click()
    page.reload()
    expect(page.locator(".log-line .line-number")).to_have_text(["2"])
    expect(page.get_by_role("heading", name="Line 2", exact=False)).to_be_visible()


def test_what_is_shown_is_exported_as_csv_and_json(investigated: Page) -> None:
    page = investigated
    page.get_by_label("Search in lines").fill("lazxyyy")
    expect(page.get_by_role("status").filter(has_text="of 60 lines")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("button", name="JSON").click()
    assert saved.value.suggested_filename == "app.log-anomalies.json"
    written = json.loads(saved.value.path().read_text())
    assert (written["model"], written["source"], len(written["lines"])) == ("line@1", "app.log", 60)
    first = written["lines"][0]
    assert (first["line"], first["time"], first["flagged"]) == (121, "2024-05-06T07:10:00.000", True)
    assert first["text"] == timed_log().split("\n")[120] and first["rarity"].startswith("1 in ")
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert [int(row["line"]) for row in rows] == [line["line"] for line in written["lines"]]
    assert rows[0]["text"] == first["text"]


def test_repeats_are_counted_until_they_are_wanted(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url + "/#/anomalies?model=line@1"))

    def repeat(route: Route) -> None:
        """Answer as for a model with templates: the first two lines of a kind are flagged."""
        records = [json.loads(line) for line in route.fetch().text().splitlines()]
        for record in records[3:-1]:
            record |= {"anomalous": False, "repeated": True}
        route.fulfill(body="".join(json.dumps(record) + "\n" for record in records))

    page.route("**/score?*", repeat)
    page.get_by_label("Log lines").fill("lazxyyy-fox bug\n" * 60)
    page.get_by_role("button", name="Find anomalies").click()
    status = page.get_by_role("status").filter(has_text="of 60 lines")
    expect(status).to_contain_text("2 of 60 lines flagged. 58 more repeat flagged ones.")
    page.get_by_label("Flag repeats").check()
    expect(status).to_contain_text("60 of 60 lines flagged. If all")
    assert query(page, "repeats") == "flag"
    page.get_by_label("Flag repeats").uncheck()
    page.locator(".log-line:not(.anomalous)").first.click()
    expect(page.get_by_label("Selected line")).to_contain_text("repeat")


def test_a_cell_is_never_a_formula(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url + "/#/anomalies?model=line@1"))
    page.get_by_label("Log lines").fill('=HYPERLINK("x")\nlazy-fox bug')
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.locator(".log-line")).to_have_count(2)
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text())))
    assert [row["text"] for row in rows] == ['\'=HYPERLINK("x")', "lazy-fox bug"]


@pytest.mark.parametrize("width", [390, 1280])
def test_details_never_cover_the_selected_line(
    service: PopulatedService, open_window: Open, width: int
) -> None:
    page = settled(open_window(service.url + "/#/anomalies?model=line@1", width=width))
    page.get_by_label("Log lines").fill(timed_log())
    page.get_by_role("button", name="Find anomalies").click()
    page.locator(".log-line").nth(4).click()
    expect(page.locator(".whole-line [data-index]").first).to_be_visible()
    expect(page.locator(".whole-line")).to_be_in_viewport()
    expect(page.locator(".log-line.current")).to_be_in_viewport()
    for press in ("ArrowDown", "PageDown", "Control+End"):
        page.get_by_role("listbox").press(press)
        row = page.locator(".log-line.current")
        row.scroll_into_view_if_needed()
        box = row.bounding_box()
        assert box is not None
        covering = page.evaluate(
            "([x, y]) => document.elementFromPoint(x, y)?.closest('.log-line, section')?.className",
            [box["x"] + 60, box["y"] + box["height"] / 2],
        )
        assert "current" in covering, press
    assert page.evaluate("document.documentElement.scrollWidth") <= width
