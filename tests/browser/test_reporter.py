"""What the browser client reports of suggestions.

The model `line` repeats "lazy-fox bug", `names` knows ad, an and al.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import Site
from tests.waiting import eventually

Visit = Callable[[str], Page]
Events = list[dict[str, Any]]

REPORTED = "id=t aria-label=text data-nextchar-report=ids"
GHOST = f"<textarea {REPORTED} data-nextchar=line></textarea><button id=b>b</button>"
LIST = f"<input {REPORTED} data-nextchar=names data-nextchar-mode=list><button id=b>b</button>"


@pytest.fixture
def events(page: Page) -> Events:
    """The events that the page has sent so far. Its clock can be moved."""
    page.clock.install()
    sent: Events = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/events"):
            sent.extend(request.post_data_json["events"])

    page.on("request", note)
    return sent


def send(page: Page) -> None:
    """Leave the field, and let the page send what it has to report."""
    with page.expect_response("**/v1/events") as response:
        page.locator("#b").focus()
        page.clock.fast_forward(6_000)
    assert response.value.status == 202, response.value.text()


def outcomes(events: Events) -> list[tuple[str, int | None]]:
    """Return the types of events, and how many characters were accepted."""
    return [(event["type"], event.get("characters")) for event in events]


def ghost(page: Page, text: str) -> None:
    """Wait until this is the ghost text."""
    expect(page.locator("[aria-hidden=true] span").last).to_have_text(text)


def test_suggestion_typed_along_and_accepted_in_parts_is_shown_once_and_accepted_once(
    visit: Visit, events: Events
) -> None:
    page = visit(GHOST)
    for key, rest in (("l", "azy-fox bug"), ("a", "zy-fox bug")):
        page.locator("#t").press_sequentially(key)
        ghost(page, rest)
    page.keyboard.press("Control+ArrowRight")
    ghost(page, "-fox bug")
    page.keyboard.press("Tab")
    expect(page.locator("#t")).to_have_value("lazy-fox bug")
    page.locator("#b").focus()
    page.keyboard.press("Escape")
    send(page)
    assert outcomes(events) == [("shown", None), ("accepted", len("zy-fox bug")), ("shown", None)]
    assert {event["model"] for event in events} == {"line@1"} and len({event["id"] for event in events}) == 3
    first, same, after = (event["suggestion_id"] for event in events)
    assert first == same != after
    assert events[0]["latency_ms"] > 0 and all(event["text"] is None for event in events)
    page.clock.fast_forward(60_000)
    send(page)
    assert outcomes(events[3:]) == [("kept", None)]


def test_accepted_text_that_is_deleted_within_a_minute_is_not_kept(visit: Visit, events: Events) -> None:
    page = visit(GHOST)
    page.locator("#t").press_sequentially("l")
    ghost(page, "azy-fox bug")
    page.keyboard.press("Tab")
    send(page)
    page.locator("#t").fill("")
    page.clock.fast_forward(120_000)
    assert "kept" not in {event["type"] for event in events} and events[1]["type"] == "accepted"


def test_list_counts_as_the_suggestion_that_was_chosen_or_as_its_first(visit: Visit, events: Events) -> None:
    page = visit(LIST)
    page.locator("#t").press_sequentially("a")
    page.get_by_role("option", name="an").click()
    expect(page.locator("#t")).to_have_value("an")
    page.locator("#t").fill("")
    page.locator("#t").press_sequentially("a")
    expect(page.get_by_role("option")).to_have_count(3)
    page.keyboard.press("Escape")
    page.locator("#t").fill("")
    page.locator("#t").press_sequentially("a")
    expect(page.get_by_role("option")).to_have_count(3)
    page.locator("#t").evaluate("t => { t.value = 'else'; }")
    send(page)
    kinds = ["shown", "accepted", "shown", "dismissed", "shown", "typed"]
    assert [event["type"] for event in events] == kinds
    assert (events[1]["characters"], events[1]["typed"]) == (1, 1)
    first, _, second, _, third, _ = (event["suggestion_id"] for event in events)
    assert (first[-2:], second[-2:], third[-2:]) == (".1", ".0", ".0") and len({first, second, third}) == 3


def test_texts_are_sent_only_where_the_page_says_so(visit: Visit, events: Events) -> None:
    page = visit(GHOST.replace("=ids", "=text"))
    page.locator("#t").fill("before\n")
    page.locator("#t").press_sequentially("l")
    ghost(page, "azy-fox bug↵")
    page.keyboard.press("Tab")
    send(page)
    assert [event["text"] for event in events] == [None, "lazy-fox bug", None]
    assert len({event["client_id"] for event in events} - {None}) == 1


def test_nothing_is_reported_by_default(visit: Visit, events: Events) -> None:
    page = visit(GHOST.replace(" data-nextchar-report=ids", ""))
    page.locator("#t").press_sequentially("l")
    ghost(page, "azy-fox bug")
    page.keyboard.press("Tab")
    page.locator("#b").focus()
    page.clock.fast_forward(120_000)
    assert events == []


def test_events_that_the_service_does_not_take_are_sent_again_and_refused_ones_are_not(
    visit: Visit, events: Events
) -> None:
    page = visit(GHOST)
    answers = [503, 403, 202]
    page.route("**/v1/events", lambda route: route.fulfill(status=answers.pop(0), json={}))
    page.locator("#t").press_sequentially("l")
    ghost(page, "azy-fox bug")
    for seconds in (6, 31, 31):
        with page.expect_response("**/v1/events") if len(answers) > 1 else contextlib.nullcontext():
            page.locator("#b").focus()
            page.clock.fast_forward(1000 * seconds)
        page.wait_for_timeout(50)
    assert answers == [202] and [event["id"] for event in events] == [events[0]["id"]] * 2


def test_page_that_is_left_reports_what_it_has_shown(visit: Visit, events: Events, site: Site) -> None:
    before = shown(site)
    page = visit(GHOST)
    page.locator("#t").press_sequentially("l")
    ghost(page, "azy-fox bug")
    page.goto(f"{site.url}/healthz")
    eventually(lambda: shown(site) == before + 1, what="the beacon is counted")


def test_what_a_page_has_sent_is_counted_once_though_it_is_killed(
    visit: Visit, events: Events, site: Site, page: Page
) -> None:
    """What is kept when a form is sent is in the beacon; what was not sent yet is lost, and no more."""
    before = counted(site)
    visit(f"<form id=f>{GHOST}</form>")
    page.evaluate("document.addEventListener('submit', (event) => event.preventDefault(), true)")
    page.locator("#t").press_sequentially("l")
    ghost(page, "azy-fox bug")
    page.keyboard.press("Tab")
    page.locator("#b").focus()
    page.locator("#f").evaluate("form => form.requestSubmit()")
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: true });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.locator("#t").press_sequentially("l")  # after the beacon
    kill(page)
    kinds = [event["type"] for event in events]
    assert sorted(kinds) == ["accepted", "kept", "shown", "shown"], "another is shown after what was accepted"
    expected = [before[0] + 2, before[1] + 1, before[2] + 1]
    eventually(lambda: counted(site) == expected, what="the beacon is counted", within_s=20)


def kill(page: Page) -> None:
    """Kill the process of a page, as when memory is short."""
    assert page.context.browser
    processes = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")[
        "processInfo"
    ]
    with page.expect_event("crash"):
        for process in processes:
            if process["type"] == "renderer":
                os.kill(process["id"], signal.SIGKILL)


def counted(site: Site) -> list[int]:
    """Return how many suggestions of `line` the service has counted as shown, accepted and kept."""
    answer = httpx.get(f"{site.url}/v1/models/line/acceptance", timeout=60).raise_for_status()
    return [int(answer.json()["total"][outcome]) for outcome in ("shown", "accepted", "kept")]


def shown(site: Site) -> int:
    """Return how many suggestions of `line` the service has counted."""
    answer = httpx.get(f"{site.url}/v1/models/line/acceptance", timeout=60).raise_for_status()
    return int(answer.json()["total"]["shown"])
