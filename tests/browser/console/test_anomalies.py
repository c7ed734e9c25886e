"""The console's anomalies view: threshold, heat map, calibration, explanations."""

from pathlib import Path

import httpx
from playwright.sync_api import Route, expect

from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import LINE, PopulatedService, calibrate
from tests.browser.reciting import reciting


def test_anomalous_lines_are_flagged_at_a_false_alarm_rate(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))
    page.get_by_label("Log lines").fill("lazy-fox bug\n\nlazy-fox\nlazxyyy-fox bug\n")
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.locator(".log-line")).to_have_count(3)
    expect(page.locator(".log-line.anomalous .line-number")).to_have_text("4")
    expect(page.get_by_role("status").filter(has_text="flagged")).to_contain_text(
        "1 of 3 lines flagged. If all were normal, about"
    )
    page.get_by_label("Flagged lines only").check()
    expect(page.locator(".log-line")).to_have_count(1)
    page.locator(".log-line [data-index='3']").hover()
    expect(page.get_by_role("heading", name="Line 4, character 4")).to_be_visible()
    expect(page.locator(".characters li .visually-hidden").first).to_have_text("y, 100 %")


def test_model_is_calibrated_on_a_file_and_a_file_that_is_not_text_is_rejected(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    service.publish(reciting("raw", LINE))
    page = settled(open_window(f"{service.url}/#/anomalies?model=raw@1"))
    (tmp_path / "some.log").write_text("lazy-fox bug\n" * 30)
    page.set_input_files("#log-file", tmp_path / "some.log")
    expect(page.get_by_text("This model is not calibrated")).to_be_visible()
    page.get_by_role("button", name="Calibrate on these lines").click()
    expect(page.get_by_text("30 normal lines")).to_be_visible()
    (tmp_path / "bad.log").write_bytes(b"\xff\xfe\x00")
    page.set_input_files("#log-file", tmp_path / "bad.log")
    expect(page.get_by_role("alert")).to_contain_text("not UTF-8 text")


def test_calibration_of_few_lines_can_be_used(service: PopulatedService, open_window: Open) -> None:
    service.publish(reciting("few", LINE))
    page = settled(open_window(f"{service.url}/#/anomalies?model=few@1"))
    page.get_by_label("Log lines").fill("lazy-fox bug\nlazy-fox\n")
    page.get_by_role("button", name="Find anomalies").click()
    page.get_by_role("button", name="Calibrate on these lines").click()
    expect(page.get_by_text("2 normal lines")).to_be_visible()
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.locator(".log-line")).to_have_count(2)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_scores_per_byte_show_per_character(service: PopulatedService, open_window: Open) -> None:
    line = {
        "characters": 8,
        "bits": [0, 0, 1, 2, 9, 0, 0, 0],
        "spans": [{"start": 4, "end": 5}],
        "anomalous": True,
    }
    scores = {"score": 9.0, "p_value": 0.001, "bits_per_character": 1.5}
    page = open_window(service.url + service.views["anomalies"])
    calibration = {
        "name": "validation",
        "lines": 2000,
        "smallest_p_value": 0.0005,
        "has_tail": False,
        "source": "s",
    }
    answer = {
        "lines": [line | scores],
        "calibration": calibration,
        "unknown_characters": [],
        "drift": "Logs change.",
    }
    page.route("**/score", lambda route: route.fulfill(json=answer))
    settled(page)
    page.get_by_label("Log lines").fill("naïvexy")  # ï has two bytes
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.locator(".log-line .flagged")).to_have_text("v")
    expect(page.get_by_text("Logs change.")).to_be_visible()
    page.locator(".log-line [data-index='2']").hover()
    expect(page.get_by_text("surprisal 3.00 bits")).to_be_visible()


def test_drifted_lines_become_normal_by_recalibration(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))
    changed = "\n".join(f"quick{i % 7} fox" for i in range(120))
    httpx.post(
        f"{service.url}/v1/models/line@1/calibrate", json={"lines": [LINE.strip()] * 120}
    ).raise_for_status()
    page.get_by_label("Log lines").fill(changed)
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.get_by_text("These lines don't look like the calibration data")).to_be_visible()
    with page.expect_request("**/calibrate") as sent:
        page.get_by_role("button", name="Recalibrate on these lines").click()
    assert sent.value.post_data_json["lines"] == changed.split("\n")
    expect(page.get_by_role("status").filter(has_text="of 120")).to_be_visible()
    expect(page.get_by_text("These lines don't look like the calibration data")).to_have_count(0)
    calibrate(service.url)


def test_line_without_explanation_is_explained_when_selected(
    service: PopulatedService, open_window: Open
) -> None:
    text = "lazxyyy-fox bug"
    page = settled(open_window(service.url + service.views["anomalies"]))

    def remove_explanation(route: Route) -> None:
        answer = route.fetch().json()
        if "expected" not in route.request.post_data_json:
            whole_line = {"start": 0, "end": len(text), "bits": 9.0, "expected": None}
            answer["lines"][0] |= {"explained": False, "spans": [whole_line]}
        route.fulfill(json=answer)

    page.route("**/score", remove_explanation)
    page.get_by_label("Log lines").fill(text)
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.locator(".log-line .flagged")).to_have_count(len(text))
    page.locator(".log-line [data-index='3']").hover()
    expect(page.get_by_role("heading", name="Line 1, character 4")).to_be_visible()
    expect(page.get_by_text("Expected here")).to_be_visible()
    assert 0 < page.locator(".log-line .flagged").count() < len(text)


def test_scoring_is_retried_after_a_lost_connection(service: PopulatedService, open_window: Open) -> None:
    page = open_window(service.url + service.views["anomalies"])
    settled(page)
    page.route("**/calibrations", lambda route: route.abort())
    page.reload()
    page.get_by_label("Log lines").fill("lazy-fox bug")
    page.get_by_role("button", name="Find anomalies").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute("**/calibrations")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".log-line")).to_have_count(1)
