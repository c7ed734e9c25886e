"""The class `Nextchar` in a real browser, against the real service."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route

from tests.browser.conftest import Site

Visit = Callable[[str], Page]


@pytest.fixture
def run(visit: Visit) -> Callable[[str], Any]:
    """A function that runs the body of an async function which has `client`, and returns what it returns.

    An error is returned as its name, code, status and message.
    """
    page = visit("")

    def evaluate(body: str) -> Any:
        return page.evaluate(
            f"""async () => {{
              const {{ Nextchar, NextcharError }} = await import('/clients/js/nextchar.js');
              const client = new Nextchar();
              try {{ return await (async () => {{ {body} }})(); }} catch (error) {{
                if (error instanceof NextcharError) return [error.code, error.status, error.message];
                return error.name;
              }}
            }}"""
        )

    return evaluate


def test_complete_next_and_score_answer_as_the_api_does(run: Callable[[str], Any]) -> None:
    answer = run("return client.complete('line', 'la', { temperature: 0, until: 'line', n: 2 })")
    assert [one["text"] for one in answer["completions"]] == ["zy-fox bug"] * 2 and answer[
        "model"
    ] == "line@1"
    assert run("return client.next('line', 'l', { top: 1 })")["candidates"][0]["character"] == "a"
    assert run("return client.score('line', 'lazy')")["characters"] == 4
    assert len(run("return client.score('line', ['lazy', 'fox'])")["lines"]) == 2


def test_models_are_those_of_the_api_on_all_pages(run: Callable[[str], Any], page: Page, site: Site) -> None:
    listed = page.request.get(f"{site.url}/v1/models").json()["data"]
    assert run("return client.models()") == listed and {"line", "names"} <= {one["name"] for one in listed}

    def one_by_one(route: Route) -> None:
        route.continue_(url=route.request.url + ("&" if "?" in route.request.url else "?") + "limit=1")

    page.route("**/v1/models*", one_by_one)
    assert run("return client.models()") == listed


def test_models_of_an_empty_service_are_none(run: Callable[[str], Any], page: Page) -> None:
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [], "has_more": False}))
    assert run("return client.models()") == []


def test_stream_yields_pieces_and_ends_with_done(run: Callable[[str], Any]) -> None:
    events = run(
        "const all = [];"
        "const fields = { temperature: 0, max_characters: 10 };"
        "for await (const event of client.stream('line', 'la', fields)) all.push(event);"
        "return all"
    )
    assert "".join(e["text"] for e in events if e["type"] == "piece") == "zy-fox bug"
    assert [e["type"] for e in events][-2:] == ["finished", "done"]
    assert events[-1]["usage"]["completion_characters"] == 10


def test_leaving_a_streams_loop_stops_the_completion(
    run: Callable[[str], Any], site: Site, page: Page
) -> None:
    run("for await (const e of client.stream('line', 'la', { max_characters: 10_000 })) break")
    deadline = time.monotonic() + 120
    while 'nextchar_engine_active{model="line@1"} 0.0' not in page.request.get(f"{site.url}/metrics").text():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def test_error_has_the_apis_code_status_and_message(run: Callable[[str], Any]) -> None:
    assert run("return client.complete('nobody', 'a')") == [
        "model_not_found",
        404,
        "there is no model 'nobody'",
    ]
    code, status, _ = run("return client.complete('line', 'a', { temperature: -1 })")
    assert (code, status) == ("invalid_field", 422)
    assert run("for await (const e of client.stream('nobody', 'a')) {}")[0] == "model_not_found"


def test_error_inside_a_stream_is_thrown(run: Callable[[str], Any], page: Page) -> None:
    error = {"type": "unavailable_error", "code": "closing", "message": "it closes", "param": None}
    body = 'event: piece\ndata: {"index": 0, "text": "a"}\n\n'
    body += f"event: error\ndata: {json.dumps({'error': error})}\n\n"
    page.route("**/complete", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    assert run("for await (const e of client.stream('line', 'a')) {}")[0] == "closing"


def test_stream_that_ends_without_done_is_an_error(run: Callable[[str], Any], page: Page) -> None:
    body = 'event: piece\ndata: {"index": 0, "text": "a"}\n\n'
    page.route("**/complete", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    assert run("for await (const e of client.stream('line', 'a')) {}")[0] == "unreachable"


def test_busy_service_is_called_again_after_its_retry_after(run: Callable[[str], Any], page: Page) -> None:
    asked: list[float] = []
    error = {"type": "rate_limit_error", "code": "busy", "message": "busy", "param": None}

    def answer(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            route.fulfill(status=429, json={"error": error}, headers={"Retry-After": "1"})
        else:
            route.continue_()

    page.route("**/next", answer)
    assert run("return client.next('line', 'l', { top: 1 })")["candidates"][0]["character"] == "a"
    assert len(asked) == 2 and asked[1] - asked[0] >= 1
    asked.clear()
    assert run("return client.next('line', 'l', { retries: 0 })")[:2] == ["busy", 429]


def test_busy_service_that_asks_for_more_time_than_there_is_is_not_called_again(
    run: Callable[[str], Any], page: Page
) -> None:
    error = {"type": "rate_limit_error", "code": "rate_limited", "message": "slow down", "param": None}
    headers = {"Retry-After": "45"}
    page.route("**/next", lambda route: route.fulfill(status=429, json={"error": error}, headers=headers))
    assert run("return client.next('line', 'l')") == ["rate_limited", 429, "slow down"]


def test_signal_and_timeout_end_a_call(run: Callable[[str], Any], page: Page) -> None:
    page.route("**/next", lambda _: None)  # never answered
    assert run("return client.next('line', 'l', { signal: AbortSignal.abort() })") == "AbortError"
    assert run("return client.next('line', 'l', { timeout: 50 })")[0] == "timeout"


def test_call_that_was_ended_makes_no_other_request(run: Callable[[str], Any], page: Page) -> None:
    others: list[str] = []

    def answer(route: Route) -> None:
        others.append(route.request.url)
        route.abort()

    page.route("http://other.example/v1/**", lambda _: None)  # never answered
    page.route("http://other.example/healthz", answer)
    other = "new Nextchar({ url: 'http://other.example' })"
    ended = "const end = new AbortController(); setTimeout(() => end.abort(), 50);"
    assert run(f"{ended} return {other}.next('line', 'l', {{ signal: end.signal }})") == "AbortError"
    assert run(f"return {other}.next('line', 'l', {{ timeout: 50 }})")[0] == "timeout"
    assert others == []


def test_service_that_does_not_run_is_unreachable(run: Callable[[str], Any], page: Page) -> None:
    assert run("return new Nextchar({ url: 'http://127.0.0.1:9' }).next('line', 'l')")[0] == "unreachable"
    page.route("**/next", lambda route: route.abort())
    code, _, message = run("return client.next('line', 'l')")
    assert code == "unreachable" and message.endswith(" does not respond: check that the service runs")


def test_key_is_sent(run: Callable[[str], Any], page: Page) -> None:
    with page.expect_request("**/next") as request:
        run("return new Nextchar({ key: 'secret' }).next('line', 'l')")
    assert request.value.headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("lo, world", "lo"),
        (", world", ","),
        (" world wide", " world"),
        ("don't do", "don't"),
        ("\n  return x", "\n  return"),
        ("->next", "->"),
        ("  ", "  "),
        ("é\u0301te x", "é\u0301te"),
    ],
)
def test_first_word(run: Callable[[str], Any], text: str, word: str) -> None:
    call = f"return (await import('/clients/js/nextchar.js')).firstWord({json.dumps(text)})"
    assert run(call) == word


def test_first_word_of_a_script_without_spaces_is_not_the_whole_line(run: Callable[[str], Any]) -> None:
    text = "我们今天去学校"
    word = run(f"return (await import('/clients/js/nextchar.js')).firstWord({json.dumps(text)})")
    assert text.startswith(word) and 0 < len(word) < len(text)
