"""The console's anomalies view: scoring pasted lines and files, threshold, calibration, explanations."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, Route, expect

from nextchar.cli.flagged_lines import rarity
from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import LINE, PopulatedService, calibrate
from tests.browser.reciting import reciting

STREAM = "**/score?*"
CHANGE = {
    "kind": "new_kinds",
    "lines": 9,
    "of_lines": 200,
    "kinds": 2,
    "examples": [
        {"alert_id": "alert_1", "lines": 7, "line": "fan 1 failed"},
        {"alert_id": "alert_2", "lines": 2, "line": "disk lost"},
    ],
    "since": None,
    "action": "examples",
    "sentence": "2 new kinds, 9 of 200 lines: look.",
}
"""The route of streamed lines; that of explanations has no query."""


def score(page: Page, text: str) -> None:
    """Paste lines and score them."""
    page.get_by_label("Log lines").fill(text)
    page.get_by_role("button", name="Find anomalies").click()


def test_anomalous_lines_are_flagged_at_a_false_alarm_rate(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))
    score(page, "lazy-fox bug\n\nlazy-fox\nlazxyyy-fox bug\n")
    expect(page.locator(".log-line")).to_have_count(3)
    expect(page.locator(".log-line.anomalous .line-number")).to_have_text("4")
    expect(page.get_by_role("status").filter(has_text="flagged")).to_contain_text(
        "1 of 3 lines flagged. If all were normal, about"
    )
    page.get_by_label("Flagged lines only").check()
    expect(page.locator(".log-line")).to_have_count(1)
    page.locator(".log-line").click()
    page.locator(".whole-line [data-index='3']").hover()
    expect(page.get_by_role("heading", name="Line 4, character 4")).to_be_visible()
    expect(page.locator(".characters li .visually-hidden").first).to_have_text("y, 100 %")


def test_a_flagged_line_is_recorded_as_an_alert_and_labeled(
    service: PopulatedService, open_window: Open
) -> None:
    model = service.publish(reciting("recorded", LINE))
    normal = {"lines": [LINE.strip()[n % 9 :] for n in range(120)]}
    httpx.post(f"{service.url}/v1/models/{model}/calibrate", json=normal, timeout=60).raise_for_status()
    page = settled(open_window(f"{service.url}/#/anomalies?model={model}"))
    score(page, "lazy-fox bug\nlazxyyy-fox bug\n")
    page.locator(".log-line.anomalous").click()
    panel = page.get_by_role("region", name="Selected line")
    panel.get_by_role("button", name="Record as an alert").click()
    expect(panel.get_by_role("link", name="Alert (open)")).to_be_visible()
    panel.get_by_label("Label").select_option("incident")
    expect(panel.get_by_role("link", name="Alert (acknowledged)")).to_be_visible()
    [alert] = httpx.get(f"{service.url}/v1/models/{model}/alerts").json()["data"]
    assert (alert["label"], alert["sources"]) == ("incident", ["console"])
    page.reload()
    panel.get_by_role("link", name="Alert (acknowledged)").click()
    expect(page.get_by_role("complementary", name="Alert")).to_contain_text("lazxyyy-fox bug")


def test_rate_is_slid_or_typed_and_shown_in_percent_and_as_one_in_many(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))
    score(page, "lazy-fox bug\nlazxyyy-fox bug\n")
    typed = page.get_by_label("Rate in percent")
    typed.fill("5")
    expect(page.get_by_text("False-alarm rate: 5.0 %, 1 in 20")).to_be_visible()
    typed.fill("0.001")
    expect(page.get_by_text("with this calibration.")).to_be_visible()
    expect(page.get_by_text("False-alarm rate: 5.0 %, 1 in 20")).to_be_visible()
    page.get_by_label("False-alarm rate").press("End")
    expect(page.get_by_text("False-alarm rate: 20 %, 1 in 5")).to_be_visible()
    expect(typed).to_have_value("20")
    page.reload()
    expect(page.get_by_text("False-alarm rate: 20 %, 1 in 5")).to_be_visible()


def test_rarity_is_written_as_on_the_command_line(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url))
    p_values = [1.0, 0.4, 0.3, 0.0588, 0.01, 0.0079, 0.0003125, 7.6e-4, 1.234e-6]
    written = page.evaluate(
        "async values => values.map((await import('/console/format.js')).rarity)", p_values
    )
    assert written == [rarity(p) for p in p_values]


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
    for content, problem in (
        (b"\xff\xfea\0", "UTF-16 text"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"a\0b", "NUL"),
        (b"", "is empty"),
    ):
        (tmp_path / "bad.log").write_bytes(content)
        page.set_input_files("#log-file", tmp_path / "bad.log")
        expect(page.get_by_role("alert")).to_contain_text(problem)


def test_lines_that_are_not_utf8_or_too_long_are_scored_and_counted(
    service: PopulatedService, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))
    log = b"\xef\xbb\xbflazy-fox bug\r\nlazy\xff-fox bug\n" + b"x" * 2_200_000 + b"\nlazy-fox bug"
    (tmp_path / "some.log").write_bytes(log)
    page.set_input_files("#log-file", tmp_path / "some.log")
    expect(page.get_by_text("1 line not UTF-8")).to_be_visible()
    expect(page.get_by_text("1 line longer than 50,000 characters")).to_be_visible()
    expect(page.locator(".log-line .line-number")).to_have_text(["1", "2", "3", "4"])
    expect(page.locator(".log-line .log-text").first).to_have_text("lazy-fox bug")
    expect(page.locator(".log-line .log-text").last).to_have_text("lazy-fox bug")


def test_calibration_of_few_lines_can_be_used(service: PopulatedService, open_window: Open) -> None:
    service.publish(reciting("few", LINE))
    page = settled(open_window(f"{service.url}/#/anomalies?model=few@1"))
    score(page, "lazy-fox bug\nlazy-fox\n")
    page.get_by_role("button", name="Calibrate on these lines").click()
    expect(page.get_by_text("2 normal lines")).to_be_visible()
    expect(page.locator(".log-line")).to_have_count(2)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_lines_that_a_stopping_service_left_out_are_scored_again(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))

    def answer_early(route: Route) -> None:
        route.fulfill(body=route.fetch(post_data=b"lazy-fox bug\n").body())

    page.route(STREAM, answer_early, times=1)
    score(page, "lazy-fox bug\nlazxyyy-fox bug\n")
    expect(page.locator(".log-line")).to_have_count(1)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".log-line .log-text")).to_have_text(["lazy-fox bug", "lazxyyy-fox bug"])


def test_only_the_last_chosen_model_scores(service: PopulatedService, open_window: Open) -> None:
    names = ["choice-a", "choice-b", "choice-c"]
    for name in names:
        service.publish(reciting(name, LINE))
    page = settled(open_window(f"{service.url}/#/anomalies?model=choice-a@1"))
    scored = []
    page.on("request", lambda request: scored.append(request.url) if "/score?" in request.url else None)
    score(page, "lazy-fox bug\n")
    expect(page.locator(".log-line")).to_have_count(1)
    page.evaluate(
        """() => {
          const answered = window.fetch;
          window.fetch = async (url, options) => {
            const delay_ms = String(url).includes("/calibrations") ? 500 : 0;
            await new Promise((resolve) => setTimeout(resolve, delay_ms));
            return answered(url, options);
          };
        }"""
    )
    page.get_by_text("pasted lines: change").click()  # the form is folded after a run
    for name in names[1:]:
        page.get_by_label("Model", exact=True).select_option(f"{name}@1")
    page.wait_for_timeout(1500)
    expect(page.locator(".log-line")).to_have_count(1)
    assert [name for url in scored for name in names if name in url] == ["choice-a", "choice-c"]


def test_scores_per_byte_show_per_character(service: PopulatedService, open_window: Open) -> None:
    line = {
        "characters": 8,
        "bits": [0, 0, 1, 2, 9, 0, 0, 0],
        "spans": [{"start": 4, "end": 5}],
        "anomalous": True,
    }
    scores = {"score": 9.0, "p_value": 0.001, "bits_per_character": 1.5}
    calibration = {
        "name": "validation",
        "lines": 2000,
        "smallest_p_value": 0.0005,
        "has_tail": False,
        "source": "s",
    }
    answer = {"lines": [line | scores], "calibration": calibration, "unknown_characters": ["v"]}
    page = open_window(service.url + service.views["anomalies"])
    page.route("**/score", lambda route: route.fulfill(json=answer))
    records: list[dict[str, Any]] = [
        {"object": "score.start", "model": "line@1", "calibration": calibration},
        {"object": "score.line", "line": 1, "offset": 0, "characters": 8} | scores,
        {"object": "score.end", "lines": 1, "change": CHANGE},
    ]
    page.route(STREAM, lambda route: route.fulfill(body="".join(json.dumps(r) + "\n" for r in records)))
    settled(page)
    score(page, "naïvexy")  # ï has two bytes
    expect(page.locator(".log-line .flagged")).to_have_text("v")
    expect(page.get_by_text("2 new kinds, 9 of 200 lines: look.")).to_be_visible()
    page.get_by_text("Show one of each").click()
    expect(page.locator(".examples li")).to_have_text(["7 × fan 1 failed", "2 × disk lost"])
    page.locator(".log-line").click()
    page.locator(".whole-line [data-index='2']").hover()
    expect(page.get_by_text("surprisal 3.00 bits")).to_be_visible()
    expect(page.get_by_text("Not in the model’s vocabulary: v")).to_be_visible()


def test_lines_of_a_changed_log_are_a_corpus_to_train_on(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))
    score(page, "\n".join(f"quick{i % 7} fox" for i in range(120)))
    page.get_by_role("button", name="Train again with these lines").click()
    expect(page.get_by_label("Start from model")).to_have_value("line@1")
    expect(page.get_by_label("Corpus", exact=True).locator("option:checked")).to_contain_text("line-lines")


def test_drifted_lines_become_normal_by_recalibration(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url + service.views["anomalies"]))
    changed = "\n".join(f"quick{i % 7} fox" for i in range(120))
    httpx.post(
        f"{service.url}/v1/models/line@1/calibrate", json={"lines": [LINE.strip()] * 120}
    ).raise_for_status()
    score(page, changed)
    expect(page.get_by_text(re.compile("train (again|a model) with them"))).to_be_visible()
    with page.expect_request("**/calibrate") as sent:
        page.get_by_role("button", name="Recalibrate on these lines").click()
    assert sent.value.post_data_json["lines"] == changed.split("\n")
    expect(page.get_by_role("status").filter(has_text="of 120")).to_be_visible()
    expect(page.get_by_text(re.compile("train (again|a model) with them"))).to_have_count(0)
    calibrate(service.url)


def test_only_lines_in_view_are_explained(service: PopulatedService, open_window: Open) -> None:
    explained: list[dict[str, Any]] = []
    streamed: list[str] = []

    def note(route: Route) -> None:
        explained.append(route.request.post_data_json)
        route.continue_()

    page = settled(open_window(service.url + service.views["anomalies"]))
    page.route("**/score", note)
    page.on("request", lambda request: streamed.append(request.url) if "/score?" in request.url else None)
    score(page, "\n".join(f"lazxy{i}-fox bug" for i in range(700)))
    page.get_by_label("Flag repeats").check()
    expect(page.locator(".log-line .flagged").first).to_be_visible()
    assert streamed and all("detail=none" in url and "explain" not in url for url in streamed)
    lines = [line for body in explained for line in body["lines"]]
    assert 0 < len(lines) < 60
    page.get_by_role("listbox").press("Control+End")
    expect(page.locator(".log-line[aria-posinset='700'] .flagged").first).to_be_visible()
    lines = [line for body in explained for line in body["lines"]]
    assert len(lines) < 120 and "lazxy699-fox bug" in lines


def test_line_without_explanation_is_explained_when_opened(
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
    score(page, text)
    row = page.locator(".log-line")
    marked = "row => [...row.querySelectorAll('.flagged')].map(one => one.textContent).join('')"
    expect(row.locator(".flagged").first).to_be_visible()
    assert row.evaluate(marked) == text
    row.click()
    page.locator(".whole-line [data-index='3']").hover()
    expect(page.get_by_role("heading", name="Line 1, character 4")).to_be_visible()
    expect(page.get_by_text("Expected here")).to_be_visible()
    assert 0 < len(row.evaluate(marked)) < len(text)


def test_scoring_is_retried_after_a_lost_connection(service: PopulatedService, open_window: Open) -> None:
    page = open_window(service.url + service.views["anomalies"])
    settled(page)
    page.route("**/calibrations", lambda route: route.abort())
    page.reload()
    score(page, "lazy-fox bug")
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute("**/calibrations")
    page.route(STREAM, lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Interrupted after 0 B")).to_be_visible()
    page.unroute(STREAM)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".log-line")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
