"""The console's view of a job: its actions, failures and pauses."""

import re

import pytest
from playwright.sync_api import expect
from redis import Redis

from nextchar.models.text.kind_detection import Purpose, TextKind
from nextchar.store.jobs import EarlyModel, JobError, JobStatus
from nextchar.store.live import Live
from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import LINE, PopulatedService
from tests.browser.reciting import reciting


def test_pause_resume_and_cancel_show_in_two_tabs(service: PopulatedService, open_window: Open) -> None:
    job = service.queue()
    one, other = (settled(open_window(f"{service.url}/#/jobs/{job}")) for _ in range(2))
    one.get_by_role("button", name="Pause").click()
    for page in (one, other):
        expect(page.locator(".badge")).to_have_text("paused")
    other.get_by_role("button", name="Resume").click()
    expect(one.locator(".badge")).to_have_text("queued")
    one.get_by_role("button", name="Cancel").click()
    one.get_by_role("button", name="Go back").click()
    one.get_by_role("button", name="Cancel").click()
    one.get_by_role("button", name="Cancel and discard").click()
    for page in (one, other):
        expect(page.locator(".badge")).to_have_text("cancelled")
        expect(page.get_by_text("Cancelled. No model was kept.")).to_be_visible()


def test_failed_job_shows_reason_and_advice(service: PopulatedService, open_window: Open) -> None:
    page = settled(open_window(service.url + service.views["failed job"]))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("the loss is")
    expect(alert).to_contain_text("lower learning rate")


def test_failed_job_is_resumed_and_followed_again(service: PopulatedService, open_window: Open) -> None:
    job = service.jobs.move(service.jobs.get(service.queue()), JobStatus.RUNNING, attempt=1)
    error = JobError(code="internal_error", message="training broke")
    service.jobs.move(job, JobStatus.FAILED, error=error)
    page = settled(open_window(f"{service.url}/#/jobs/{job.id}"))
    expect(page.locator(".badge")).to_have_text("failed")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".badge")).to_have_text("queued")
    reason = JobError(code="storage_full", message="the storage is full")
    queued = service.jobs.get(job.id)
    service.jobs.move(queued, JobStatus.PAUSED, pause_reason=reason, storage_pauses=20)  # for some minutes
    expect(page.locator(".badge")).to_have_text("paused")
    expect(page.get_by_text("The job resumes by itself when the storage works again")).to_be_visible()


def test_job_that_waits_for_storage_shows_a_warning(service: PopulatedService, open_window: Open) -> None:
    progress = {"step": 50, "steps": 50, "waiting_for_storage": "the storage is full; make room"}
    job = service.jobs.move(service.jobs.get(service.queue()), JobStatus.RUNNING, attempt=1)
    with Redis.from_url(service.settings.redis_url, decode_responses=True) as redis:
        live = Live(redis)
        live.acquire_lease(job.id, "some worker")  # or the reconciler would queue it again
        live.set_progress(job.id, progress)
        page = settled(open_window(f"{service.url}/#/jobs/{job.id}"))
        expect(page.locator(".box.warning")).to_contain_text(
            "Waiting for storageThe storage is full; make room."
        )
    service.jobs.move(job, JobStatus.CANCELLED)


def test_the_early_model_of_a_job_is_tried_on_its_page_until_the_job_ends(
    service: PopulatedService, open_window: Open
) -> None:
    job = service.jobs.move(service.jobs.get(service.queue()), JobStatus.RUNNING, attempt=1)
    saved = reciting("waiting", LINE)
    card = saved.card.model_copy(update={"job": job.id, "report": {"is_early": True}})
    service.models.early.write(job, card, {name: saved.file(name) for name in saved.card.files})
    with Redis.from_url(service.settings.redis_url, decode_responses=True) as redis:
        Live(redis).acquire_lease(job.id, "some worker")  # or the reconciler would queue it again
        page = settled(open_window(f"{service.url}/#/jobs/{job.id}"))
        early = page.get_by_role("region", name="Early model")
        expect(early).to_have_count(0)
        job = service.jobs.move(job, JobStatus.RUNNING, early=EarlyModel(attempt=1, since=1.0))
        expect(early).to_contain_text(f"waiting@{job.id}")
        expect(early.locator(".generated")).to_contain_text("lazy-fox bug")
        service.jobs.move(job, JobStatus.CANCELLED)
        expect(early).to_have_count(0)


def test_the_configuration_follows_the_choice_of_preset_auto(
    service: PopulatedService, open_window: Open
) -> None:
    job = service.jobs.get(service.queue())
    page = open_window(f"{service.url}/#/jobs/{job.id}")
    page.get_by_text("Configuration").click()
    details = page.locator("details", has_text="Configuration")
    expect(details).to_contain_text("auto, which chooses when training starts: tiny, small, medium, large")
    expect(details).not_to_contain_text("units")
    running = service.jobs.move(job, JobStatus.RUNNING, attempt=1)
    request = running.request.with_choice(running.request.candidates[-1])
    service.jobs.move(running, JobStatus.RUNNING, request=request)
    expect(details).to_contain_text("auto, which chose large")
    expect(details.locator("dl").first).to_contain_text("1024")


def test_what_is_pressed_or_focused_stays_while_a_job_is_polled(
    service: PopulatedService, open_window: Open
) -> None:
    job = service.jobs.move(service.jobs.get(service.queue()), JobStatus.RUNNING, attempt=1)
    polled = re.compile(r"/v1/jobs(/job_[0-9a-f]+)?(\?.*)?$")
    with Redis.from_url(service.settings.redis_url, decode_responses=True) as redis:
        live = Live(redis)
        live.acquire_lease(job.id, "some worker")  # or the reconciler would queue it again
        page = settled(open_window(f"{service.url}/#/jobs"))
        page.locator(f"a[href='#/jobs/{job.id}']").hover()
        page.mouse.down()
        for step in (1, 2):
            live.set_progress(job.id, {"step": step, "steps": 50})
            page.wait_for_event("requestfinished", lambda request: bool(polled.search(request.url)))
        expect(page.get_by_role("progressbar", name=f"Progress of {job.request.name}").first).to_be_visible()
        page.mouse.up()
        expect(page.get_by_role("heading", level=1)).to_contain_text("running")
        for step in (3, 4):
            live.set_progress(job.id, {"step": step, "steps": 50})
            page.wait_for_event("requestfinished", lambda request: request.url.endswith(job.id))
        assert page.evaluate("document.activeElement.tagName") == "H1"
        page.get_by_role("button", name="Pause").hover()
        page.mouse.down()
        page.wait_for_event("requestfinished", lambda request: request.url.endswith(job.id))
        page.wait_for_event("requestfinished", lambda request: request.url.endswith(job.id))
        page.mouse.up()
        expect(page.locator(".badge")).to_have_text("pausing")
    service.jobs.move(service.jobs.get(job.id), JobStatus.CANCELLED)


@pytest.mark.parametrize(
    ("kind", "purpose", "model", "action"),
    [("records", "both", "names@1", "Try the list"), ("log", "anomalies", "line@1", "Score lines")],
)
def test_trained_model_is_tried_as_its_kind_needs(
    service: PopulatedService, open_window: Open, kind: TextKind, purpose: Purpose, model: str, action: str
) -> None:
    job = service.jobs.move(service.jobs.get(service.queue()), JobStatus.RUNNING, attempt=1)
    masked = "masked by default: ip. For example 10.0.0.1 becomes ⓘ"
    changes = {"kind": kind, "purpose": purpose, "masked_by_default": masked}
    request = job.request.model_copy(update=changes)
    service.jobs.move(job, JobStatus.SUCCEEDED, model=model, request=request)
    page = settled(open_window(f"{service.url}/#/jobs/{job.id}"))
    card = page.get_by_role("region", name="Trained model")
    expect(card.get_by_role("link").first).to_have_text(action)
    expect(card.get_by_role("button", name="Generate")).to_have_count(0)
    expect(page.locator(".box .placeholder")).to_have_attribute("data-name", "‹ip›")
    field = card.get_by_role("combobox")
    expect(field).to_have_count(1 if kind == "records" else 0)
    if kind == "records":
        field.press_sequentially("a")
        expect(page.locator(".nextchar-list li")).to_have_text(["ad", "an"])
