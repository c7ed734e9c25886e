"""The console's alerts, and the lines that agents send, as they are flagged."""

import re
import time
import zlib
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import LINE, MARKUP, PopulatedService
from tests.browser.reciting import reciting


@pytest.fixture
def model(service: PopulatedService, request: pytest.FixtureRequest) -> str:
    """A calibrated model of this test alone; alerts belong to its name."""
    name = f"m{zlib.crc32(request.node.name.encode())}"
    reference = service.publish(reciting(name, LINE))
    normal = [LINE.strip()[n % 9 :] for n in range(120)]
    calibrated = httpx.post(f"{service.url}/v1/models/{name}/calibrate", json={"lines": normal})
    assert calibrated.status_code == 201, calibrated.text
    return reference


def record(service: PopulatedService, model: str, *lines: str) -> None:
    """Score lines and record the flagged ones."""
    body = {"lines": lines, "alerts": True, "source": "web-1"}
    answer = httpx.post(f"{service.url}/v1/models/{model}/score", json=body)
    assert answer.status_code == 200 and all(line["anomalous"] for line in answer.json()["lines"])


def alerts_of(service: PopulatedService, model: str) -> list[dict[str, Any]]:
    """The model's alerts."""
    data: list[dict[str, Any]] = httpx.get(f"{service.url}/v1/models/{model}/alerts").json()["data"]
    return data


def open_alerts(service: PopulatedService, open_window: Open, model: str, **options: Any) -> Page:
    """The alerts view of a model."""
    return settled(open_window(f"{service.url}/#/alerts?model={model}", **options))


def rows_of(page: Page) -> Locator:
    """The rows of the table."""
    return page.locator(".data-table tbody tr")


def details_of(page: Page, text: str) -> Locator:
    """Open the details of an alert."""
    rows_of(page).filter(has_text=text).locator("button.link").click()
    details = page.get_by_role("complementary", name="Alert")
    expect(details).to_contain_text(text)
    return details


def test_a_target_is_added_tested_and_deleted(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    page = open_alerts(service, open_window, model)
    card = page.locator("section", has=page.get_by_role("heading", name="Notification targets"))
    card.get_by_text("Add a target").click()
    card.get_by_label("Kind").select_option("pagerduty")
    expect(card.get_by_label("Integration key")).to_be_visible()
    expect(card.get_by_label("URL")).to_be_hidden()
    card.get_by_label("Kind").select_option("slack")
    # A public address that no test reaches: the service answers that the message was not delivered.
    card.get_by_label("URL").fill("http://192.0.0.9:9/hook")
    card.get_by_role("button", name="Add and send a test message").click()
    expect(card.locator("li").first).to_contain_text("slack http://192.0.0.9:9/hook")
    expect(card.locator("li").first.get_by_role("alert")).to_be_visible(timeout=15_000)
    [made] = httpx.get(f"{service.url}/v1/notification_targets").json()["data"]
    assert (made["format"], made["min_severity"], made["secret"]) == ("slack", "warning", None)
    card.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the target").click()
    expect(card.locator("li")).to_have_count(0)


def test_alerts_are_listed_with_their_lines_and_come_while_the_page_is_open(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    page = open_alerts(service, open_window, model)
    expect(page.get_by_role("heading", name="No open alert")).to_be_visible()
    record(service, model, f"lazxyyy-fox {MARKUP}", f"lazxyyy-fox {MARKUP}")
    row = rows_of(page).filter(has_text="xyyy")
    expect(row).to_have_count(1)
    expect(row.locator("[data-label=Count]")).to_have_text("2")
    expect(row.locator("[data-label=Source]")).to_have_text("web-1")
    expect(row.get_by_role("img", name="Lines per minute, up to 2")).to_be_visible()
    expect(page.get_by_role("button", name="1 critical")).to_be_visible()
    details = details_of(page, "lazxyyy")
    expect(details).to_contain_text(re.compile("1 in [1-9][0,]{5,}, estimated"))
    expect(details.locator(".examples li")).to_have_count(1)
    expect(details.locator(".examples mark").first).to_be_visible()
    expect(details.locator("ul.examples")).to_contain_text(MARKUP)
    record(service, model, "quick brown")
    expect(rows_of(page)).to_have_count(2)
    expect(details).to_contain_text("lazxyyy")  # what was opened stays so
    page.reload()
    expect(details).to_contain_text("lazxyyy")
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()
    assert page.evaluate("window.ran") is None


def test_alerts_are_chosen_and_acknowledged_with_the_keyboard(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    record(service, model, "lazxyyy-fox bug", "quick brown", "zyx zyx")
    page = open_alerts(service, open_window, model)
    expect(rows_of(page)).to_have_count(3)
    page.keyboard.type("jx")
    page.keyboard.type("jjx")
    expect(page.get_by_text("2 alerts selected")).to_be_visible()
    page.keyboard.press("a")
    expect(rows_of(page)).to_have_count(1)
    page.get_by_label("State").select_option("all")
    expect(rows_of(page)).to_have_count(3)
    assert sum(one["acknowledged_at"] is not None for one in alerts_of(service, model)) == 2
    page.get_by_label("Search alerts").fill("quick")
    expect(rows_of(page)).to_have_count(1)
    page.get_by_label("Select all alerts").check()
    page.get_by_label("Decide on the selected alerts").select_option("incident")
    expect(rows_of(page).locator(".badge", has_text="incident")).to_be_visible()
    page.reload()
    expect(page.get_by_label("State")).to_have_value("all")
    page.get_by_label("Label", exact=True).select_option("incident")
    expect(rows_of(page)).to_have_count(1)


def test_alert_is_suppressed_until_the_suppression_is_ended(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    record(service, model, "quick brown")
    page = open_alerts(service, open_window, model)
    details_of(page, "quick").get_by_label("Suppress for").select_option("86400")
    dialog = page.get_by_role("dialog", name="Suppress?")
    expect(dialog).to_contain_text("quick brown")
    dialog.get_by_role("button", name="Suppress").click()
    expect(page.get_by_role("heading", name="No open alert")).to_be_visible()
    [alert] = alerts_of(service, model)
    assert alert["state"] == "suppressed"
    assert abs(alert["suppressed_until"] - time.time() - 86_400) < 120
    page.get_by_role("button", name="End").click()
    expect(rows_of(page)).to_have_count(1)
    expect(page.get_by_role("heading", name="Suppressions")).to_have_count(0)


def test_a_label_that_hides_lines_is_confirmed_and_can_be_undone(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    record(service, model, "quick brown")
    page = open_alerts(service, open_window, model)
    label = details_of(page, "quick").get_by_label("Label")
    label.select_option("normal")
    page.get_by_role("button", name="Go back").click()
    expect(label).to_have_value("none")
    label.select_option("normal")
    dialog = page.get_by_role("dialog", name="Label as normal?")
    expect(dialog.get_by_role("listitem")).to_contain_text("quick brown")
    dialog.get_by_role("button", name="Label as normal").click()
    expect(page.get_by_role("heading", name="No open alert")).to_be_visible()
    assert alerts_of(service, model)[0]["label"] == "normal"
    page.get_by_role("button", name="Undo").click()
    expect(label).to_have_value("none")
    assert alerts_of(service, model)[0]["label"] is None


def test_undo_gives_an_earlier_label_back_with_its_runbook(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    record(service, model, "quick brown")
    [alert] = alerts_of(service, model)
    path = f"{service.url}/v1/models/{model}/alerts/{alert['id']}/label"
    before = {"label": "incident", "runbook": "https://example.org/quick"}
    assert httpx.post(path, json=before).status_code == 200
    page = open_alerts(service, open_window, f"{model}&state=all")
    label = details_of(page, "quick").get_by_label("Label")
    expect(label).to_have_value("incident")
    label.select_option("normal")
    page.get_by_role("dialog").get_by_role("button", name="Label as normal").click()
    expect(label).to_have_value("normal")
    page.get_by_role("button", name="Undo").click()
    expect(label).to_have_value("incident")
    [alert] = alerts_of(service, model)
    assert {name: alert[name] for name in before} == before


def test_a_label_covers_the_values_that_are_ticked(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    record(service, model, "quick brown")
    one, other = (
        {"value": name, "count": n, "score": 9.0, "estimated_p_value": 1e-4, "line": f"GET {name}"}
        for name, n in (("wp-login.php", 180), ("app.js.bak", 1))
    )
    page = open_alerts(service, open_window, model)
    preview = {"object": "alert.coverage", "covered": [one], "others": [other], "other_lines": 0}
    page.route("**/preview", lambda route: route.fulfill(json=preview))
    bodies: list[object] = []

    def answer(route: Route) -> None:
        bodies.append(route.request.post_data_json)
        route.fulfill(json={})

    page.route("**/label", answer)
    label = details_of(page, "quick").get_by_label("Label")
    dialog = page.get_by_role("dialog", name="Label as normal?")
    for choose in ([], ["app.js.bak"], ["All lines"]):
        label.select_option("none")
        label.select_option("normal")
        expect(dialog.get_by_label("wp-login.php")).to_be_checked()
        expect(dialog.get_by_label("app.js.bak")).not_to_be_checked()
        for name in choose:
            dialog.get_by_label(name).check()
        with page.expect_response("**/label"):
            dialog.get_by_role("button", name="Label as normal").click()
    labels = [body for body in bodies if isinstance(body, dict) and body["label"] == "normal"]
    assert labels == [
        {"label": "normal", "values": ["wp-login.php"]},
        {"label": "normal", "values": ["wp-login.php", "app.js.bak"]},
        {"label": "normal", "all_values": True},
    ]


def test_twenty_five_alerts_fit_on_a_screen_and_nothing_is_lost_on_a_phone(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    record(service, model, *(f"{letters[n]}{letters[-n]}zz {letters[(7 * n) % 26] * 4}" for n in range(26)))
    page = open_alerts(service, open_window, model, width=1280)
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(rows_of(page).nth(24)).to_be_in_viewport()
    page.set_viewport_size({"width": 390, "height": 844})
    for label in ("Severity", "Count", "Trend", "Source", "First", "Last"):
        expect(rows_of(page).first.locator(f"[data-label={label}]")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    tops = page.locator("#nav a").evaluate_all("links => links.map((one) => one.offsetTop)")
    assert len(set(tops)) == 1, "the menu is one row"


def test_alerts_are_exported(service: PopulatedService, open_window: Open, model: str) -> None:
    record(service, model, "quick brown")
    page = open_alerts(service, open_window, model)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export JSON").click()
    assert alerts_of(service, model)[0]["id"] in saved.value.path().read_text()


def test_flagged_lines_of_agents_are_shown_as_they_are_flagged(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    name = model.partition("@")[0]
    page = settled(open_window(f"{service.url}/#/live?model={name}"))
    expect(page.get_by_role("heading", name="No flagged line yet")).to_be_visible()
    ingest = f"{service.url}/v1/models/{name}/ingest"

    def send(*lines: str) -> None:
        sent = httpx.post(
            ingest,
            content="\n".join(lines),
            headers={"Content-Type": "text/plain"},
            params={"default_source": "h1"},
        )
        assert sent.status_code == 202, sent.text

    send(LINE.strip(), "lazxyyy-fox bug", LINE.strip())
    lines = page.locator(".live-lines .log-text")
    expect(lines).to_have_text(["lazxyyy-fox bug"])
    expect(page.locator(".live-lines mark").first).to_be_visible()
    expect(page.locator(".live-lines")).to_contain_text("h1")
    expect(page.get_by_role("region", name="Ingested lines")).to_contain_text("Accepted3")
    page.get_by_role("button", name="Pause").click()
    send("quick brown")
    expect(page.get_by_role("button", name="Continue (1 new line)")).to_be_visible()
    expect(lines).to_have_count(1)
    page.get_by_role("button", name="Continue").click()
    expect(lines).to_have_text(["quick brown", "lazxyyy-fox bug"])
    page.reload()
    expect(lines).to_have_text(["quick brown", "lazxyyy-fox bug"])
    page.get_by_role("link", name="Alerts").last.click()
    expect(rows_of(page)).to_have_count(2)
    page.get_by_role("link", name="Live lines").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(name)
    expect(lines).to_have_count(2)


def test_a_live_line_leads_to_its_alert(service: PopulatedService, open_window: Open, model: str) -> None:
    record(service, model, "zyx zyx")
    ingest(service, model, "lazxyyy-fox bug", "quick brown")
    page = settled(open_window(f"{service.url}/#/live?model={model}"))
    page.locator(".live-lines li", has_text="lazxyyy").get_by_role("link", name="Alert").click()
    expect(page.get_by_role("heading", name="Alerts")).to_be_visible()
    details = page.get_by_role("complementary", name="Alert")
    expect(details.locator("ul.examples")).to_contain_text("lazxyyy-fox bug")
    page.reload()
    expect(details.locator("ul.examples")).to_contain_text("lazxyyy-fox bug")
    details.get_by_role("button", name="Close the details").click()
    expect(rows_of(page)).to_have_count(3)
    assert "alert=" not in page.url
    page.goto(f"{service.url}/#/alerts?model={model}&alert=alert_{'0' * 24}")
    expect(page.get_by_role("alert")).to_contain_text("no alert")


def test_drift_of_live_lines_is_told_with_what_to_do(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    page = settled(open_window(f"{service.url}/#/live?model={model.partition('@')[0]}"))
    ingest(service, model.partition("@")[0], *(f"zy{'x' * (1 + n % 9)}-fox" for n in range(120)))
    expect(page.get_by_text("train a model with them")).to_be_visible()
    page.get_by_role("button", name="Recalibrate on these lines").click()
    expect(page.get_by_text("Calibrated on the newest 120 lines.")).to_be_visible()
    expect(page.get_by_text("train a model with them")).to_have_count(0)


def test_an_alert_shows_the_lines_before_and_after_it(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    ingest(service, model.partition("@")[0], LINE.strip(), "quick fox", "lazxyyy-fox bug", "brown fox")
    page = open_alerts(service, open_window, model)
    details = details_of(page, "lazxyyy")
    expect(details.get_by_role("heading", name="Before and after")).to_be_visible()
    lines = details.locator("ol li")
    expect(lines).to_have_text([LINE.strip(), "quick fox", "lazxyyy-fox bug", "brown fox"])
    expect(details.locator("ol .strong")).to_have_text("lazxyyy-fox bug")


def test_an_alert_leads_to_its_flagged_lines(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    name = model.partition("@")[0]
    record(service, model, "quick brown")
    ingest(service, name, "lazxyyy-fox bug", "zyx zyx", "lazxyyy-fox bug")
    page = settled(open_window(f"{service.url}/#/alerts?model={model}"))
    expect(rows_of(page)).to_have_count(3)
    details_of(page, "lazxyyy").get_by_role("link", name="Flagged lines").click()
    lines = page.locator(".live-lines .log-text")
    expect(lines).to_have_text(["lazxyyy-fox bug"] * 2)
    expect(page.get_by_label("Model", exact=True)).to_have_value(name)
    page.reload()
    expect(lines).to_have_text(["lazxyyy-fox bug"] * 2)
    ingest(service, name, "zyx zyx", "lazxyyy-fox bug")
    expect(lines).to_have_count(3)
    page.get_by_role("link", name="Show the alert").click()
    expect(page.get_by_role("complementary", name="Alert")).to_contain_text("lazxyyy")
    page.go_back()
    page.get_by_role("button", name="Show all flagged lines").click()
    expect(lines).to_have_count(5)
    assert "alert=" not in page.url
    page.get_by_role("link", name="Alerts").last.click()
    details_of(page, "quick").get_by_role("link", name="Flagged lines").click()
    kept = page.locator("section", has=page.get_by_role("heading", name="Lines kept with the alert"))
    expect(kept).to_contain_text("quick brown")  # it was in a request to score


def test_the_filter_for_one_alert_ends_with_its_model(
    service: PopulatedService, open_window: Open, model: str
) -> None:
    other = f"{model.partition('@')[0]}other"
    service.publish(reciting(other, LINE))
    normal = [LINE.strip()[n % 9 :] for n in range(120)]
    assert httpx.post(f"{service.url}/v1/models/{other}/calibrate", json={"lines": normal}).status_code == 201
    record(service, model, "quick brown")
    [alert] = alerts_of(service, model)
    page = settled(open_window(f"{service.url}/#/live?model={model}&alert={alert['id']}"))
    page.get_by_label("Model", exact=True).select_option(other)
    ingest(service, other, "lazxyyy-fox bug")
    expect(page.locator(".live-lines .log-text")).to_have_text(["lazxyyy-fox bug"])
    assert "alert=" not in page.url


def test_links_to_what_is_gone_say_so(service: PopulatedService, open_window: Open, model: str) -> None:
    record(service, model, "quick brown")
    [alert] = alerts_of(service, model)
    assert httpx.delete(f"{service.url}/v1/models/{model}").status_code == 200
    page = settled(open_window(f"{service.url}/#/alerts?model={model}&alert={alert['id']}"))
    expect(page.get_by_text(f"There is no model {model}; it may have been deleted")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("no alert")
    page.goto(f"{service.url}/#/live?model={model}&alert={alert['id']}")
    expect(page.get_by_text(f"There is no model {model}; it may have been deleted")).to_be_visible()


def ingest(service: PopulatedService, model: str, *lines: str) -> None:
    """Send lines as an agent does."""
    headers = {"Content-Type": "text/plain"}
    sent = httpx.post(f"{service.url}/v1/models/{model}/ingest", content="\n".join(lines), headers=headers)
    assert sent.status_code == 202, sent.text
