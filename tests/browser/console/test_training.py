"""Training in the console: the short form, the full form, and masks."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Route, expect

from nextchar.launcher.stack import Stack
from nextchar.models.text.masks import Masks
from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import PopulatedService
from tests.logs import syslog


def test_file_becomes_model_and_completion_in_two_clicks(
    stack: Stack, open_window: Open, tmp_path: Path
) -> None:
    def shorten(route: Route) -> None:
        """Replace the preset and the budget, to train for seconds only."""
        if route.request.method != "POST":
            route.continue_()
            return
        body = route.request.post_data_json
        assert body["budget"] == {"seconds": 60} and body["name"] == "own-words"
        route.continue_(post_data={**body, "preset": "tiny", "budget": {"steps": 10}})

    page = open_window(stack.url)
    page.route("**/v1/jobs", shorten)
    (tmp_path / "own words.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    page.set_input_files("#file", tmp_path / "own words.txt")
    page.get_by_role("button", name="Train", exact=True).click()

    page.wait_for_url("**/#/jobs/job_*")
    expect(page.locator(".sample-list .sample").first).not_to_be_empty(timeout=60_000)
    page.reload()  # while the job runs or just after: all events since the start are loaded again
    expect(page.locator(".chart .dot").first).to_be_visible()
    expect(page.locator(".sample-list .sample").first).not_to_be_empty()

    expect(page.get_by_role("heading", name="own-words@1 is trained")).to_be_visible(timeout=60_000)
    expect(page.locator(".continuation .generated")).to_have_text(re.compile(".{20}", re.DOTALL))
    expect(page.locator(".badge")).to_have_text("succeeded")


@pytest.mark.parametrize(
    ("sample", "name", "kind"), [("text", "python-reference", "text"), ("log", "sample-log", "log")]
)
def test_a_sample_can_be_used_instead_of_a_file(
    service: PopulatedService, open_window: Open, sample: str, name: str, kind: str
) -> None:
    page = settled(open_window(service.url))
    page.get_by_role("button", name=f"Use the sample {sample}").click()
    expect(page.get_by_label("Model name")).to_have_value(name)
    expect(page.get_by_label("Kind")).to_have_value(kind)
    expect(page.get_by_role("radio", name="1 minute")).to_be_checked()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_focused()


def test_every_option_is_sent_and_an_invalid_one_is_marked(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(f"{service.url}/#/train?corpus=foxes"))
    page.get_by_text("Advanced options").click()
    expect(page.get_by_role("radio", name="auto")).to_be_checked()
    expect(page.get_by_label("Units", exact=True)).to_have_attribute("placeholder", "auto")
    expect(page.get_by_label("Weight decay", exact=True)).to_have_attribute("placeholder", "0.2")
    page.get_by_text("tiny").click()
    expect(page.get_by_label("Units", exact=True)).to_have_attribute("placeholder", "256")
    page.get_by_label("Units", exact=True).fill("2")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_label("Units", exact=True)).to_be_focused()
    expect(page.get_by_label("Units", exact=True)).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Units", exact=True).fill("8")
    page.get_by_label("Seed", exact=True).fill("5")
    page.get_by_label("Masks", exact=True).fill("timestamp\nip\n")
    page.get_by_label("Fraction", exact=True).fill("0.5")
    page.get_by_label("Second corpus", exact=True).fill("foxes")
    page.get_by_label("Budget", exact=True).fill("3")
    page.get_by_label("Unit of the budget").select_option("epochs")
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Train", exact=True).click()
    assert sent.value.post_data_json == {
        "corpus": service.corpus, "name": "foxes", "preset": "tiny", "architecture": "stateful_lstm",
        "network": {"units": 8}, "budget": {"epochs": 3}, "seed": 5,
        "masks": ["timestamp", "ip"], "mix": {"corpus": "foxes", "fraction": 0.5},
    }  # fmt: skip
    page.wait_for_url("**/#/jobs/job_*")


def test_masks_are_suggested_shown_on_an_example_and_removed(
    service: PopulatedService, open_window: Open
) -> None:
    log = "".join(line + "\n" for line in syslog(200)).encode()
    corpus = httpx.post(f"{service.url}/v1/corpora?name=sshd", content=log).json()
    page = settled(open_window(f"{service.url}/#/train?corpus=foxes"))
    masks = page.get_by_role("group", name="Masks")
    expect(masks).to_be_hidden()
    page.get_by_label("Corpus", exact=True).select_option(corpus["id"])
    boxes = {
        name: masks.get_by_role("checkbox", name=name)
        for name in ("timestamp", "ip", "long numbers", "digits")
    }
    for name, box in boxes.items():
        expect(box).to_be_checked(checked=name != "digits")
    expect(masks).to_contain_text("Changes in 200 of 200 lines")
    example = corpus["log_sample"]["example"]
    expect(masks).to_contain_text(example)
    expect(masks.locator("code").nth(1)).to_have_text(Masks(corpus["suggested_masks"]).apply(example).text)
    boxes["ip"].uncheck()
    expect(masks.locator("code").nth(1)).to_have_text(
        Masks(["timestamp", "long_numbers"]).apply(example).text
    )
    page.get_by_label("Start from model").select_option("line@1", force=True)
    expect(masks).to_be_hidden()
    page.get_by_label("Start from model").select_option("", force=True)
    page.get_by_label("Purpose").select_option("complete", force=True)
    expect(masks).to_be_hidden()
    page.get_by_label("Purpose").select_option("", force=True)
    for box in boxes.values():
        box.uncheck()
    expect(masks.locator("code").nth(1)).to_have_text(example)
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Train", exact=True).click()
    assert sent.value.post_data_json["masks"] == []
    page.wait_for_url("**/#/jobs/job_*")


def test_job_on_a_log_shows_the_default_masks(service: PopulatedService, open_window: Open) -> None:
    log = "".join(line + "\n" for line in syslog(200)).encode()
    corpus = httpx.post(f"{service.url}/v1/corpora?name=sshd", content=log).json()
    page = settled(open_window(f"{service.url}/#/corpora/{corpus['id']}"))
    expect(page.get_by_text("This corpus is a log.")).to_contain_text("timestamp, ip, long numbers")
    page.get_by_role("link", name="Train a model").click()
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Train", exact=True).click()
    assert "masks" not in sent.value.post_data_json
    expect(page.get_by_text("timestamp (200 of 200 lines)")).to_be_visible()
