"""The console without a connection, and with API keys."""

from pathlib import Path

from playwright.sync_api import Route, expect

from nextchar.app.access.keys import new_key
from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from tests.app.service import served
from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import PopulatedService


def test_lost_connection_shows_a_banner_until_it_returns(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url))
    page.context.set_offline(True)
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("does not respond")
    expect(page.locator("#banner")).to_contain_text("Reconnecting")
    page.context.set_offline(False)
    expect(page.locator("h1")).to_have_text("Models")
    expect(page.get_by_role("link", name="line@1", exact=True)).to_be_visible()
    expect(page.locator("#banner")).to_be_empty()


def test_required_key_is_requested_until_it_is_valid(
    open_window: Open, tmp_path: Path, redis_url: str
) -> None:
    secret, line = new_key("console", scopes="read,complete,train,admin")
    (tmp_path / "keys.txt").write_text(line)
    settings = ApiSettings(
        data_dir=tmp_path / "data", redis_url=redis_url, port=0, api_keys_file=tmp_path / "keys.txt"
    )
    with served(create_app(settings)) as url:
        page = open_window(url)
        dialog = page.get_by_role("dialog", name="API key required")
        dialog.get_by_label("API key").fill("wrong")
        dialog.get_by_label("API key").press("Enter")
        expect(dialog).to_contain_text("invalid or was revoked")
        dialog.get_by_label("API key").fill(secret)
        dialog.get_by_role("button", name="Use key").click()
        expect(page.locator("h1")).to_have_text("Train a character-level model on your text")
        page.reload()
        expect(page.get_by_role("button", name="Use the sample text")).to_be_visible()
        (tmp_path / "own.txt").write_text("some words of my own\n" * 20)
        page.set_input_files("#file", tmp_path / "own.txt")
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()


def test_key_with_name_patterns_uploads_a_file_of_any_name(
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
        dialog = page.get_by_role("dialog", name="API key required")
        dialog.get_by_label("API key").fill(secret)
        dialog.get_by_role("button", name="Use key").click()
        page.set_input_files("#file", tmp_path / "own.txt")
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()


def test_stream_of_events_goes_on_after_a_proxy_without_a_service(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url))
    answers = iter([503, 200])

    def answer(route: Route) -> None:
        if (status := next(answers)) == 200:
            route.fulfill(body='id: 7\nevent: done\ndata: {"n": 1}\n\n', content_type="text/event-stream")
        else:
            route.fulfill(status=status, body="no service")

    page.route("**/events", answer)
    script = """async () => {
      const { followEvents } = await import("/console/event-stream.js");
      const events = [];
      for await (const event of followEvents("/events", { signal: new AbortController().signal })) {
        events.push(event);
      }
      return events;
    }"""
    assert page.evaluate(script) == [{"id": "7", "event": "done", "data": {"n": 1}}]


def test_waiting_leaves_no_listener_behind_and_ends_at_once_if_it_is_aborted(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url))
    script = """async () => {
      const { delay } = await import("/console/api.js");
      const end = new AbortController();
      let listeners = 0;
      for (const [name, change] of [["addEventListener", 1], ["removeEventListener", -1]]) {
        const original = end.signal[name];
        end.signal[name] = function (...given) { listeners += change; return original.apply(this, given); };
      }
      for (let i = 0; i < 3; i += 1) await delay(0, end.signal);
      const left = listeners;
      const waiting = delay(1e9, end.signal);
      end.abort();
      await waiting;
      await delay(1e9, end.signal);
      return left;
    }"""
    assert page.evaluate(script) == 0


def test_cancelled_upload_of_a_sample_is_cancelled_and_one_that_a_proxy_answers_an_error(
    service: PopulatedService, open_window: Open
) -> None:
    page = settled(open_window(service.url))
    script = """async (isCancelled) => {
      const { uploadSampleLog } = await import("/console/upload.js");
      const signal = isCancelled ? AbortSignal.abort() : undefined;
      return uploadSampleLog({ signal }).catch((error) => [error.name, error.status]);
    }"""
    assert page.evaluate(script, True)[0] == "AbortError"
    page.route("**/sample-log.txt.gz", lambda route: route.fulfill(status=503, body="no service"))
    assert page.evaluate(script, False) == ["Error", 503]
