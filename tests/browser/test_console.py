"""The console in a real browser: the whole way, every view, and what users run into."""

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect
from redis import Redis

from app.keys import new_key
from app.main import create_app
from app.settings import ApiSettings
from launcher.stack import Stack
from models.text.masks import Masks
from store.jobs import JobError, JobStatus
from store.live import Live
from store.open_blobs import open_blobs
from tests.app.service import served
from tests.browser.furnished import LINE, MARKUP, House, calibrate, furnished
from tests.browser.reciting import reciting
from tests.logs import syslog

Open = Callable[..., Page]

expect.set_options(timeout=10_000)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[House]:
    """A service with something in every view."""
    with furnished(tmp_path_factory.mktemp("house"), redis_url) as running:
        yield running


@pytest.fixture
def open_window(browser: Browser) -> Iterator[Open]:
    """A function that opens an address in a window of its own; an error on any page fails the test."""
    contexts = []
    errors: list[str] = []

    def open_at(address: str, *, width: int = 1200, scheme: Any = "light", **options: Any) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce", **options
        )
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if _is_mistake(said.text) else None)
        page.goto(address)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert errors == []


def _is_mistake(said: str) -> bool:
    """Whether the browser says that a page broke its policy or itself; refusals are no mistakes."""
    return re.search("Content Security Policy|TrustedHTML|TypeError|ReferenceError", said) is not None


def settled(page: Page) -> Page:
    """Wait until the view of the address is there."""
    page.locator("main:not([aria-busy]) h1").first.wait_for()
    return page


def go(page: Page, house: House, address: str) -> Page:
    """Show another view in the same window."""
    page.goto(house.url + address)
    return settled(page)


# The whole way


def test_a_newcomer_gets_to_a_model_and_a_completion_in_two_clicks(
    stack: Stack, open_window: Open, tmp_path: Path
) -> None:
    def shorten(route: Route) -> None:
        """A budget of the test's own; everything else is as the page sends it."""
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
    expect(page.locator(".timeline .sample").first).not_to_be_empty(timeout=60_000)
    page.reload()  # in mid-job, or just behind it: everything since the start is there again
    expect(page.locator(".chart .dot").first).to_be_visible()
    expect(page.locator(".timeline .sample").first).not_to_be_empty()

    expect(page.get_by_role("heading", name="own-words@1 is trained")).to_be_visible(timeout=60_000)
    expect(page.locator(".continuation .new")).to_have_text(re.compile(".{20}", re.DOTALL))
    expect(page.locator(".badge")).to_have_text("succeeded")


def test_who_has_no_text_can_take_the_sample(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url))
    page.get_by_role("button", name="Use the sample text").click()
    expect(page.get_by_label("Name of the model")).to_have_value("python-reference")
    expect(page.get_by_role("radio", name="One minute")).to_be_checked()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_focused()


def test_a_job_is_paused_cancelled_and_seen_in_two_tabs(house: House, open_window: Open) -> None:
    job = house.queue()
    one, other = (settled(open_window(f"{house.url}/#/jobs/{job}")) for _ in range(2))
    one.get_by_role("button", name="Pause").click()
    for page in (one, other):
        expect(page.locator(".badge")).to_have_text("paused")
    other.get_by_role("button", name="Resume").click()
    expect(one.locator(".badge")).to_have_text("queued")
    one.get_by_role("button", name="Cancel").click()
    one.get_by_role("button", name="No, go back").click()
    one.get_by_role("button", name="Cancel").click()
    one.get_by_role("button", name="Cancel and drop it").click()
    for page in (one, other):
        expect(page.locator(".badge")).to_have_text("cancelled")
        expect(page.get_by_text("There is no model from this job")).to_be_visible()


def test_a_failed_job_says_why_and_what_to_do(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url + house.views["failed job"]))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("the loss is")
    expect(alert).to_contain_text("lower learning rate")


def test_a_failed_job_is_resumed_and_watched_again(house: House, open_window: Open) -> None:
    job = house.jobs.move(house.jobs.get(house.queue()), JobStatus.RUNNING, attempt=1)
    error = JobError(code="internal_error", message="training broke")
    house.jobs.move(job, JobStatus.FAILED, error=error)
    page = settled(open_window(f"{house.url}/#/jobs/{job.id}"))
    expect(page.locator(".badge")).to_have_text("failed")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".badge")).to_have_text("queued")
    reason = JobError(code="storage_full", message="the storage is full")
    queued = house.jobs.get(job.id)
    house.jobs.move(queued, JobStatus.PAUSED, pause_reason=reason, storage_pauses=20)  # for some minutes
    expect(page.locator(".badge")).to_have_text("paused")
    expect(page.get_by_text("It goes on by itself when the storage works again")).to_be_visible()


def test_a_job_that_waits_for_storage_says_so(house: House, open_window: Open) -> None:
    progress = {"step": 50, "steps": 50, "waiting_for_storage": "the storage is full; make room"}
    job = house.jobs.move(house.jobs.get(house.queue()), JobStatus.RUNNING, attempt=1)
    with Redis.from_url(house.settings.redis_url, decode_responses=True) as redis:
        live = Live(redis)
        live.acquire_lease(job.id, "some worker")  # or the reconciler would queue it again
        live.set_progress(job.id, progress)
        page = settled(open_window(f"{house.url}/#/jobs/{job.id}"))
        expect(page.locator(".box.warning")).to_contain_text(
            "Waiting for storageThe storage is full; make room."
        )
    house.jobs.move(job, JobStatus.CANCELLED)


def test_every_field_can_be_chosen_and_a_wrong_one_is_shown_at_its_place(
    house: House, open_window: Open
) -> None:
    page = settled(open_window(f"{house.url}/#/train?corpus=foxes"))
    page.get_by_text("In every detail").click()
    expect(page.get_by_label("Units", exact=True)).to_have_attribute("placeholder", "512")
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
    page.get_by_label("Corpus", exact=True).fill("foxes")
    page.get_by_label("How long", exact=True).fill("3")
    page.get_by_label("Unit of how long").select_option("epochs")
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Train", exact=True).click()
    assert sent.value.post_data_json == {
        "corpus": house.corpus, "name": "foxes", "preset": "tiny", "architecture": "stateful_lstm",
        "network": {"units": 8}, "budget": {"epochs": 3}, "seed": 5,
        "masks": ["timestamp", "ip"], "mix": {"corpus": "foxes", "fraction": 0.5},
    }  # fmt: skip
    page.wait_for_url("**/#/jobs/job_*")


def test_masks_of_a_log_are_suggested_shown_on_a_line_and_undone(house: House, open_window: Open) -> None:
    log = "".join(line + "\n" for line in syslog(200)).encode()
    corpus = httpx.post(f"{house.url}/v1/corpora?name=sshd", content=log).json()
    page = settled(open_window(f"{house.url}/#/train?corpus=foxes"))
    masks = page.get_by_role("group", name="Masks")
    expect(masks).to_be_hidden()
    page.get_by_label("Text", exact=True).select_option(corpus["id"])
    boxes = {
        name: masks.get_by_role("checkbox", name=name)
        for name in ("timestamp", "ip", "long numbers", "digits")
    }
    for name, box in boxes.items():
        expect(box).to_be_checked(checked=name != "digits")
    expect(masks).to_contain_text("in 200 of 200 lines")
    example = corpus["log_sample"]["example"]
    expect(masks).to_contain_text(example)
    expect(masks.locator("code").nth(1)).to_have_text(Masks(corpus["suggested_masks"]).apply(example).text)
    boxes["ip"].uncheck()
    expect(masks.locator("code").nth(1)).to_have_text(
        Masks(["timestamp", "long_numbers"]).apply(example).text
    )
    page.get_by_label("Start from a model").select_option("line@1", force=True)
    expect(masks).to_be_hidden()
    page.get_by_label("Start from a model").select_option("", force=True)
    for box in boxes.values():
        box.uncheck()
    expect(masks.locator("code").nth(1)).to_have_text(example)
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Train", exact=True).click()
    assert sent.value.post_data_json["masks"] == []
    page.wait_for_url("**/#/jobs/job_*")


def test_a_log_is_trained_with_the_suggested_masks_and_the_job_says_so(
    house: House, open_window: Open
) -> None:
    log = "".join(line + "\n" for line in syslog(200)).encode()
    corpus = httpx.post(f"{house.url}/v1/corpora?name=sshd", content=log).json()
    page = settled(open_window(f"{house.url}/#/corpora/{corpus['id']}"))
    expect(page.get_by_text("This is a log.")).to_contain_text("timestamp, ip, long numbers")
    page.get_by_role("link", name="Train on it").click()
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Train", exact=True).click()
    assert "masks" not in sent.value.post_data_json
    expect(page.get_by_text("Masked by default: timestamp (200)")).to_be_visible()


# Texts


def test_a_dropped_file_becomes_a_text_and_the_same_again_is_told(
    house: House, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(house.url + house.views["texts"]))
    file = tmp_path / "my words.txt.gz"
    file.write_bytes(gzip.compress(b"some words in a file\n" * 20))
    page.set_input_files("#file", file)
    expect(page.get_by_role("heading", name="my-words")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("420")
    go(page, house, house.views["texts"])
    page.set_input_files("#file", file)
    expect(page.locator(".toast")).to_contain_text("has this text already")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the text").click()
    expect(page.get_by_role("heading", name="Texts")).to_be_visible()
    expect(page.get_by_role("link", name="my-words")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "contents", "told"),
    [
        ("picture.txt", b"\x89PNG\r\n\x1a\n" + bytes(50), "is a picture"),
        ("old.txt", "Größe".encode("latin-1") * 9, "iconv -f latin1 -t utf-8"),
        ("empty.txt", b"", "is empty"),
        ("paper.pdf", b"%PDF-1.7 ...", "pdftotext"),
        ("zeros.txt", b"abc\0def", "not text in UTF-8"),
    ],
)
def test_a_file_of_a_wrong_kind_is_refused_before_it_is_sent(
    house: House, open_window: Open, tmp_path: Path, name: str, contents: bytes, told: str
) -> None:
    page = settled(open_window(house.url + house.views["texts"]))
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    file = tmp_path / name
    file.write_bytes(contents)
    page.set_input_files("#file", file)
    expect(page.get_by_role("alert")).to_contain_text(told)
    assert sent == []


def test_a_file_in_another_encoding_can_be_taken_as_bytes(
    house: House, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(house.url + house.views["texts"]))
    (tmp_path / "latin.txt").write_bytes("Größe und Maß\n".encode("latin-1") * 20)
    page.set_input_files("#file", tmp_path / "latin.txt")
    page.get_by_role("button", name="Take its bytes as they are").click()
    expect(page.get_by_role("heading", name="latin")).to_be_visible()
    assert httpx.get(f"{house.url}/v1/corpora/latin").json()["encoding"] == "bytes"


def test_two_gigabytes_are_refused_before_they_are_sent(
    house: House, open_window: Open, tmp_path: Path
) -> None:
    page = settled(open_window(house.url + house.views["texts"]))
    with (tmp_path / "huge.log").open("wb") as huge:
        huge.truncate(2 << 30)  # takes no room
    page.set_input_files("#file", tmp_path / "huge.log")
    expect(page.get_by_role("alert")).to_contain_text("2.0 GiB and this service takes 1.0 GiB at most")
    expect(page.get_by_role("alert")).to_contain_text("NEXTCHAR_MAX_CORPUS_BYTES")


@pytest.mark.parametrize("held_call", ["/v1/corpora?name=slow", "/console/about.json"])
def test_an_upload_can_be_stopped(held_call: str, house: House, open_window: Open, tmp_path: Path) -> None:
    page = settled(open_window(house.url + house.views["texts"]))
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(f"**{held_call}", hold)
    (tmp_path / "slow.txt").write_text("slow " * 99)
    page.set_input_files("#file", tmp_path / "slow.txt")
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped; nothing of it was kept.")).to_be_visible()
    for route in held:
        route.abort()


# Models


def test_a_model_is_renamed_downloaded_and_deleted(house: House, open_window: Open) -> None:
    house.publish(reciting("shortlived", LINE))
    page = settled(open_window(f"{house.url}/#/models/shortlived"))
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("lasting")
    page.get_by_label("New name").press("Enter")
    expect(page.get_by_role("heading", name="lasting@1")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="model.onnx", exact=True).click()
    assert download.value.suggested_filename == "lasting@1-model.onnx"
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the model").click()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    assert httpx.get(f"{house.url}/v1/models/lasting").status_code == 404


def test_a_damaged_model_is_listed_with_its_problem_and_can_be_deleted(
    house: House, open_window: Open
) -> None:
    house.publish(reciting("torn", LINE))
    open_blobs(house.settings.blobs_url).write("model_cards/torn/000001.json", b"{")
    page = settled(open_window(f"{house.url}/#/models"))
    told = page.locator(".box.warning")
    expect(told).to_contain_text("torn@1: model_cards/torn/000001.json is damaged: it is not a JSON object")
    expect(told).to_contain_text("Restore its card from a backup, or delete the model.")
    page.get_by_role("button", name="Delete torn@1").click()
    page.get_by_role("button", name="Delete the model").click()
    expect(told).to_have_count(0)
    expect(page.get_by_role("link", name="line@1", exact=True)).to_be_visible()


def test_a_chart_narrower_than_its_margins_has_no_negative_width(house: House, open_window: Open) -> None:
    page = settled(open_window(f"{house.url}/#/models/line@1"))
    chart = page.get_by_role("figure", name="Learning curves")
    chart.evaluate("figure => { figure.style.width = '20px'; }")
    expect(chart.locator("clipPath rect")).to_have_attribute("width", "0")


@pytest.mark.parametrize("view", ["model", "job"])
def test_what_a_model_has_not_learned_is_told_on_its_page_and_its_job_s(
    view: str, house: House, open_window: Open
) -> None:
    page = settled(open_window(house.url + house.views[view]))
    expect(page.locator(".box.warning")).to_have_text(f"The model is worse than {MARKUP}.")


def test_models_are_compared_on_one_chart_that_keys_can_read(house: House, open_window: Open) -> None:
    house.publish(reciting("second", LINE), report={"validation_bits_per_character": 1.0, "curve": [
        {"step": 10, "epoch": 0.5, "elapsed_seconds": 3.0, "validation_bits_per_character": 2.5},
        {"step": 20, "epoch": 1.0, "elapsed_seconds": 6.0, "validation_bits_per_character": 1.0},
    ]})  # fmt: skip
    page = settled(open_window(f"{house.url}/#/models"))
    for name in ("line@1", "second@1"):
        page.get_by_label(f"Compare {name}").check()
    page.get_by_role("button", name="Compare 2").click()
    expect(page.locator(".chart path.line")).to_have_count(2)
    page.locator(".chart").focus()
    page.keyboard.press("Home")
    expect(page.locator(".readout")).to_have_text("time 0:00: line@1 4.50")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".readout")).to_have_text("time 0:03: second@1 2.50, line@1 2.25")
    page.get_by_text("As a table").click()
    expect(page.get_by_role("row", name="0:06 1.00 1.50")).to_be_visible()
    page.get_by_label("Against").select_option("steps")
    expect(page.get_by_role("row", name="20 1.00 1.50")).to_be_visible()


# Writing


def test_ghost_text_and_the_distribution_follow_the_cursor(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url + house.views["playground"]))
    area = page.get_by_label("Your text")
    expect(area).to_have_attribute("aria-autocomplete", "inline")  # the module has come
    area.press_sequentially("laz")
    first = page.locator(".characters li .hidden-label").first
    expect(first).to_have_text("y, 100 %")
    page.get_by_text("y-fox bug").wait_for()  # the ghost
    area.press("Tab")
    expect(area).to_have_value("lazy-fox bug")
    expect(first).to_have_text("new line, 100 %")
    for _ in range(4):
        area.press("ArrowLeft")
    expect(first).to_have_text("space, 100 %")
    page.get_by_role("button", name="space, 100 %").click()
    expect(area).to_have_value("lazy-fox  bug")


def test_several_models_go_on_side_by_side(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url + house.views["playground"]))
    page.get_by_label("Your text").fill("la")
    page.get_by_label("Put another beside it").select_option("names@1")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("End with").select_option("line")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator('[data-model="line@1"] .new')).to_have_text("zy-fox bug")
    expect(page.locator('[data-model="names@1"] .new')).to_have_text(re.compile("[dn]"))
    page.locator('[data-model="line@1"]').get_by_role("button", name="Insert").click()
    expect(page.get_by_label("Your text")).to_have_value("lazy-fox bug")


def test_a_model_deleted_under_the_hands_is_told_and_another_is_offered(
    house: House, open_window: Open
) -> None:
    house.publish(reciting("doomed", LINE))
    page = settled(open_window(f"{house.url}/#/playground?model=doomed@1"))
    page.get_by_label("Your text").fill("la")
    assert httpx.delete(f"{house.url}/v1/models/doomed").status_code == 200
    page.get_by_role("button", name="Go on").click()
    expect(page.locator('[data-model="doomed@1"]')).to_contain_text("may have been deleted")
    page.reload()
    expect(page.get_by_text("There is no model doomed@1")).to_be_visible()


# Anomalies


def test_odd_lines_are_flagged_by_a_rate_of_false_alarms(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url + house.views["anomalies"]))
    page.get_by_label("Log lines").fill("lazy-fox bug\n\nlazy-fox\nlazxyyy-fox bug\n")
    page.get_by_role("button", name="Find what is odd").click()
    expect(page.locator(".log-line")).to_have_count(3)
    expect(page.locator(".log-line.anomalous .place")).to_have_text("4")
    expect(page.get_by_role("status").filter(has_text="flagged")).to_contain_text(
        "1 line of 3 flagged; of as many ordinary lines about"
    )
    page.get_by_label("Flagged lines only").check()
    expect(page.locator(".log-line")).to_have_count(1)
    page.locator(".log-line [data-at='3']").hover()
    expect(page.get_by_role("heading", name="Line 4, character 4")).to_be_visible()
    expect(page.locator(".characters li .hidden-label").first).to_have_text("y, 100 %")


def test_lines_can_be_called_ordinary_and_a_file_can_be_looked_at(
    house: House, open_window: Open, tmp_path: Path
) -> None:
    house.publish(reciting("raw", LINE))
    page = settled(open_window(f"{house.url}/#/anomalies?model=raw@1"))
    (tmp_path / "some.log").write_text("lazy-fox bug\n" * 30)
    page.set_input_files("#log-file", tmp_path / "some.log")
    expect(page.get_by_text("has not been told what ordinary lines score")).to_be_visible()
    page.get_by_role("button", name="These lines are ordinary").click()
    expect(page.get_by_text("Compared with 30 ordinary lines")).to_be_visible()
    (tmp_path / "bad.log").write_bytes(b"\xff\xfe\x00")
    page.set_input_files("#log-file", tmp_path / "bad.log")
    expect(page.get_by_role("alert")).to_contain_text("not text in UTF-8")


def test_a_calibration_of_few_lines_can_be_looked_at(house: House, open_window: Open) -> None:
    house.publish(reciting("few", LINE))
    page = settled(open_window(f"{house.url}/#/anomalies?model=few@1"))
    page.get_by_label("Log lines").fill("lazy-fox bug\nlazy-fox\n")
    page.get_by_role("button", name="Find what is odd").click()
    page.get_by_role("button", name="These lines are ordinary").click()
    expect(page.get_by_text("Compared with 2 ordinary lines")).to_be_visible()
    page.get_by_role("button", name="Find what is odd").click()
    expect(page.locator(".log-line")).to_have_count(2)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_what_counts_bytes_is_shown_at_its_characters(house: House, open_window: Open) -> None:
    line = {
        "characters": 8,
        "bits": [0, 0, 1, 2, 9, 0, 0, 0],
        "spans": [{"start": 4, "end": 5}],
        "anomalous": True,
    }
    told = {"score": 9.0, "p_value": 0.001, "bits_per_character": 1.5}
    page = open_window(house.url + house.views["anomalies"])
    calibration = {
        "name": "validation",
        "lines": 2000,
        "smallest_p_value": 0.0005,
        "has_tail": False,
        "source": "s",
    }
    answer = {
        "lines": [line | told],
        "calibration": calibration,
        "unknown_characters": [],
        "drift": "Logs change.",
    }
    page.route("**/score", lambda route: route.fulfill(json=answer))
    settled(page)
    page.get_by_label("Log lines").fill("naïvexy")  # ï has two bytes
    page.get_by_role("button", name="Find what is odd").click()
    expect(page.locator(".log-line .flagged")).to_have_text("v")
    expect(page.get_by_text("Logs change.")).to_be_visible()
    page.locator(".log-line [data-at='2']").hover()
    expect(page.get_by_text("costs 3")).to_be_visible()


def test_lines_that_have_changed_become_normal_at_the_press_of_a_button(
    house: House, open_window: Open
) -> None:
    page = settled(open_window(house.url + house.views["anomalies"]))
    changed = "\n".join(f"quick{i % 7} fox" for i in range(120))
    httpx.post(
        f"{house.url}/v1/models/line@1/calibrate", json={"lines": [LINE.strip()] * 120}
    ).raise_for_status()
    page.get_by_label("Log lines").fill(changed)
    page.get_by_role("button", name="Find what is odd").click()
    expect(page.get_by_text("These lines don't look like the calibration data")).to_be_visible()
    with page.expect_request("**/calibrate") as sent:
        page.get_by_role("button", name="Use these lines as normal").click()
    assert sent.value.post_data_json["lines"] == changed.split("\n")
    expect(page.get_by_role("status").filter(has_text="of 120")).to_be_visible()
    expect(page.get_by_text("These lines don't look like the calibration data")).to_have_count(0)
    calibrate(house.url)


def test_a_line_that_was_not_explained_is_explained_when_it_is_opened(
    house: House, open_window: Open
) -> None:
    text = "lazxyyy-fox bug"
    page = settled(open_window(house.url + house.views["anomalies"]))

    def beyond_the_bound(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        if "expected" not in route.request.post_data_json:
            plain = {"start": 0, "end": len(text), "bits": 9.0, "expected": None}
            told["lines"][0] |= {"explained": False, "spans": [plain]}
        route.fulfill(json=told)

    page.route("**/score", beyond_the_bound)
    page.get_by_label("Log lines").fill(text)
    page.get_by_role("button", name="Find what is odd").click()
    expect(page.locator(".log-line .flagged")).to_have_count(len(text))
    page.locator(".log-line [data-at='3']").hover()
    expect(page.get_by_role("heading", name="Line 1, character 4")).to_be_visible()
    expect(page.get_by_text("Expected there")).to_be_visible()
    assert 0 < page.locator(".log-line .flagged").count() < len(text)


def test_the_anomalies_view_gets_over_a_service_that_was_away(house: House, open_window: Open) -> None:
    page = open_window(house.url + house.views["anomalies"])
    settled(page)
    page.route("**/calibrations", lambda route: route.abort())
    page.reload()
    page.get_by_label("Log lines").fill("lazy-fox bug")
    page.get_by_role("button", name="Find what is odd").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute("**/calibrations")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".log-line")).to_have_count(1)


# Every view


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(house: House, open_window: Open, scheme: str) -> None:
    page = open_window(house.url, scheme=scheme)
    found = {}
    for name, address in house.views.items():
        go(page, house, address)
        if name == "anomalies":
            page.get_by_label("Log lines").fill("lazy-fox bug\nlazxyyy-fox bug#\n")
            page.get_by_role("button", name="Find what is odd").click()
            page.locator(".log-line.anomalous [data-at='3']").hover()
            page.locator(".characters li").first.wait_for()
        if name == "playground":
            page.locator(".characters li").first.wait_for()
        if name == "reference":  # all calls at once take axe a minute
            page.get_by_label("Find a call or a field").fill("confidence_bits")
            page.locator("#contents [data-call]:visible").first.wait_for()
        page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
        violations = Axe().run(page).response["violations"]
        found |= {(name, v["id"]): [node["html"] for node in v["nodes"]] for v in violations}
    assert found == {}


def test_narrow_screens_need_no_sideways_scrolling(house: House, open_window: Open) -> None:
    page = open_window(house.url, width=360)
    widths = {}
    for name, address in house.views.items():
        go(page, house, address)
        widths[name] = page.evaluate("document.documentElement.scrollWidth")
    assert {name: width for name, width in widths.items() if width > 360} == {}


def test_everything_comes_from_the_service_and_markup_never_runs(
    house: House, open_window: Open, tmp_path: Path
) -> None:
    page = open_window(house.url)
    foreign: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith((house.url, "blob:")) else foreign.append(request.url),
    )
    for address in house.views.values():
        go(page, house, address)
        assert page.evaluate("window.ran") is None
    # Markup was there to be run, and in names that the service would refuse too.
    go(page, house, house.views["job"])
    expect(page.locator(".sample").first).to_contain_text(MARKUP)
    go(page, house, house.views["train"])
    page.get_by_label("Name of the model").fill(MARKUP)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator(".wrong:visible")).not_to_be_empty()
    go(page, house, house.views["texts"])
    file = tmp_path / MARKUP.replace("/", "-")
    file.write_bytes(b"\x89PNG\r\n")
    page.set_input_files("#file", file)
    expect(page.get_by_role("alert")).to_contain_text("onerror")
    go(page, house, f"/#/models/{MARKUP.replace('/', '')}")
    expect(page.get_by_role("alert")).to_contain_text("There is no model")
    assert page.evaluate("window.ran") is None
    assert foreign == []


def test_dark_or_light_is_the_systems_until_it_is_chosen(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url, scheme="dark"))
    root = page.locator("html")
    expect(root).to_have_attribute("data-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(root).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Dark theme").click()
    page.reload()
    expect(root).to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("button", name="Dark theme")).to_have_attribute("aria-pressed", "true")


def test_back_forward_and_reload_show_what_the_address_says(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url + "/#/models"))
    page.get_by_role("link", name="line@1", exact=True).click()
    expect(page.locator("h1")).to_have_text("line@1")
    expect(page).to_have_title("line@1 · nextchar")
    page.get_by_role("link", name="Write with it").click()
    expect(page.locator("h1")).to_have_text("Playground")
    page.go_back()
    expect(page.locator("h1")).to_have_text("line@1")
    page.go_back()
    expect(page.locator("h1")).to_have_text("Models")
    page.go_forward()
    page.go_forward()
    expect(page.locator("h1")).to_have_text("Playground")
    page.get_by_label("Model", exact=True).select_option("names@1")
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("names@1")


def test_the_keyboard_is_enough(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url))
    keys = page.keyboard
    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    keys.press("Enter")
    expect(page.locator("h1")).to_be_focused()
    keys.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    keys.press("Escape")
    keys.type("ga")
    expect(page.locator("h1")).to_have_text("Anomalies")
    expect(page.locator("h1")).to_be_focused()
    page.get_by_label("Model", exact=True).press("Tab")
    while not page.get_by_label("Log lines").evaluate("area => area === document.activeElement"):
        keys.press("Tab")
    keys.insert_text("lazy-fox bug\nlazy-fxx bug")
    keys.press("Tab")
    keys.press("Enter")
    page.locator(".log-line").first.wait_for()
    while not page.locator(".log-line").first.evaluate("line => line === document.activeElement"):
        keys.press("Tab")
    keys.press("ArrowRight")
    expect(page.get_by_role("heading", name="Line 1, character 1")).to_be_visible()
    keys.press("ArrowDown")
    keys.press("End")
    expect(page.get_by_role("heading", name="Line 2, character 12")).to_be_visible()
    keys.type("gm")
    expect(page.locator("h1")).to_have_text("Models")


# When things go wrong


def test_a_service_that_goes_away_is_told_and_comes_back(house: House, open_window: Open) -> None:
    page = settled(open_window(house.url))
    page.context.set_offline(True)
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.locator("#banner")).to_contain_text("trying again")
    page.context.set_offline(False)
    expect(page.locator("h1")).to_have_text("Models")
    expect(page.get_by_role("link", name="line@1", exact=True)).to_be_visible()
    expect(page.locator("#banner")).to_be_empty()


def test_a_wanted_key_is_asked_for_and_a_wrong_one_again(
    open_window: Open, tmp_path: Path, redis_url: str
) -> None:
    secret, line = new_key("console", scopes="read,complete,train,admin")
    (tmp_path / "keys.txt").write_text(line)
    settings = ApiSettings(
        data_dir=tmp_path / "data", redis_url=redis_url, port=0, api_keys_file=tmp_path / "keys.txt"
    )
    with served(create_app(settings)) as url:
        page = open_window(url)
        dialog = page.get_by_role("dialog", name="This service wants an API key")
        dialog.get_by_label("API key").fill("wrong")
        dialog.get_by_label("API key").press("Enter")
        expect(dialog).to_contain_text("no longer")
        dialog.get_by_label("API key").fill(secret)
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator("h1")).to_have_text("Teach a small network your text.")
        page.reload()
        expect(page.get_by_role("button", name="Use the sample text")).to_be_visible()
        (tmp_path / "own.txt").write_text("some words of my own\n" * 20)
        page.set_input_files("#file", tmp_path / "own.txt")
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()


def test_key_with_patterns_uploads_a_file_of_any_name(
    open_window: Open, tmp_path: Path, redis_url: str
) -> None:
    secret, line = new_key("console", scopes="read,complete,train", models="mine*")
    (tmp_path / "keys.txt").write_text(line)
    settings = ApiSettings(
        data_dir=tmp_path / "data", redis_url=redis_url, port=0, api_keys_file=tmp_path / "keys.txt"
    )
    (tmp_path / "own.txt").write_text("some words of my own\n" * 20)
    with served(create_app(settings)) as url:
        page = open_window(url)
        dialog = page.get_by_role("dialog", name="This service wants an API key")
        dialog.get_by_label("API key").fill(secret)
        dialog.get_by_role("button", name="Use it").click()
        page.set_input_files("#file", tmp_path / "own.txt")
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()


# The reference


def test_the_reference_shows_every_call_and_finds_words(house: House, open_window: Open) -> None:
    page = settled(open_window(f"{house.url}/docs"))
    paths = httpx.get(f"{house.url}/openapi.json").json()["paths"]
    assert page.locator(".operation").count() == sum(len(methods) for methods in paths.values())
    page.get_by_label("Find a call or a field").fill("confidence_bits")
    expect(page.locator(".operation:visible")).to_have_count(1)
    expect(page.locator(".operation:visible")).to_contain_text("/v1/models/{model}/complete")
