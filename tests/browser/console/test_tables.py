"""The console's overview, its tables, and its command palette."""

import re

import httpx
from playwright.sync_api import expect
from redis import Redis

from nextchar.models.text.masks import CUSTOM_PLACEHOLDER, NAMED
from nextchar.store.jobs import JobStatus
from nextchar.store.live import Live
from tests.browser.console.windows import Open, open_view, settled
from tests.browser.populated_service import LINE, PopulatedService
from tests.browser.reciting import reciting


def test_home_is_an_overview_that_does_not_announce_a_model_with_a_problem(
    service: PopulatedService, open_window: Open
) -> None:
    service.publish(reciting("useless", LINE), report={"problems": ["the model has learned almost nothing"]})
    job = service.jobs.move(service.jobs.get(service.queue()), JobStatus.RUNNING, attempt=1)
    with Redis.from_url(service.settings.redis_url, decode_responses=True) as redis:
        live = Live(redis)
        live.acquire_lease(job.id, "some worker")  # or the reconciler would queue it again
        curve = [(0, 6.0), (2, 3.0), (5, 2.0)]
        events = [
            {"step": n, "elapsed_seconds": s, "validation_bits_per_character": b}
            for n, (s, b) in enumerate(curve)
        ]
        live.add_events(
            job.id,
            [{"id": n, "at": 1.0, "type": "metrics", "data": data} for n, data in enumerate(events, 1)],
        )
        live.set_progress(job.id, {"step": 9, "steps": 9, "phase": "memorization of the report"})
        page = settled(open_window(service.url))
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        expect(
            page.get_by_role("link", name=re.compile("[1-9][0-9]* (critical|warning|info)")).first
        ).to_be_visible()
        lines = page.locator("section", has=page.get_by_role("heading", name="Lines scored in the last hour"))
        expect(lines).to_contain_text(re.compile("hour[1-9]"))
        newest = page.locator("section", has=page.get_by_role("heading", name="Newest model")).last
        expect(newest.get_by_role("link", name="Open playground")).to_be_visible()
        expect(newest).not_to_contain_text("useless")
        running = page.locator("article", has=page.locator(f"a[href$='{job.id}']"))
        expect(running).to_contain_text("memorization of the report")
        expect(running.get_by_role("img", name="from 3.00 to 2.00")).to_be_visible()
    service.jobs.move(job, JobStatus.CANCELLED)
    httpx.delete(f"{service.url}/v1/models/useless").raise_for_status()


def test_a_table_is_searched_sorted_and_its_selection_deleted(
    service: PopulatedService, open_window: Open
) -> None:
    for name in ("surplus-a", "surplus-b"):
        service.publish(reciting(name, LINE), report={"validation_bits_per_character": len(name) / 4})
    page = settled(open_window(f"{service.url}/#/models"))
    names = page.locator("tbody th a")
    page.get_by_label("Search models").fill("surplus")
    expect(names).to_have_count(2)
    page.get_by_role("button", name="Name").click()
    expect(names).to_have_text(["surplus-a@1", "surplus-b@1"])
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name="Name").click()
    expect(names).to_have_text(["surplus-b@1", "surplus-a@1"])
    expect(page.locator("tbody time").first).to_have_attribute("title", re.compile(r"\d:\d\d:\d\d"))
    page.get_by_label("Search models").press("Tab")
    page.get_by_label("Select all models").check()
    expect(page.get_by_text("2 models selected")).to_be_visible()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete the models").click()
    expect(page.locator(".toast")).to_contain_text("2 models were deleted")
    expect(page.get_by_role("link", name="line@1", exact=True)).to_be_visible()
    assert httpx.get(f"{service.url}/v1/models/surplus-a").status_code == 404


def test_the_palette_goes_to_pages_models_jobs_and_alerts(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url))
    for text, heading in (
        ("playground", "Playground"),
        ("model names", "names@1"),
        ("job line succeeded", "line succeeded"),
        ("alert lazx", "Alerts"),
    ):
        page.keyboard.press("Control+k")
        page.get_by_role("combobox", name="Go to").fill(text)
        expect(page.get_by_role("dialog").get_by_role("option", selected=True)).to_contain_text(
            text.split()[-1], ignore_case=True
        )
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(heading))
    page.keyboard.press("Control+k")
    page.keyboard.press("Escape")
    expect(page.get_by_role("combobox", name="Go to")).to_have_count(0)
    assert page.evaluate("window.ran") is None


def test_every_placeholder_is_drawn_as_a_name_and_copied_as_the_character(
    service: PopulatedService, open_window: Open
) -> None:
    page = open_view(open_window(service.url), service, "/#/alerts")
    characters = [placeholder for placeholder, _ in NAMED.values()] + [CUSTOM_PLACEHOLDER]
    drawn = page.evaluate(
        """async (characters) => {
          const { placeholders } = await import("/console/components/marked-line.js");
          const line = document.createElement("p");
          line.append(...[placeholders(["a", ...characters])].flat());
          document.querySelector("main").append(line);
          getSelection().selectAllChildren(line);
          const names = [...line.children].map((one) => getComputedStyle(one, "::after").content);
          return [names, getSelection().toString()];
        }""",
        characters,
    )
    assert all(re.fullmatch('"‹[a-z ]+›"', name) for name in drawn[0])
    assert len(drawn[0]) == len(characters) and drawn[1] == "a" + "".join(characters)
