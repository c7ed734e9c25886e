"""What the scheduler's thread does in a turn, by hand: no thread is started, and only steps take time."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nextchar.models.errors import Unavailable
from nextchar.models.runtime import scheduler as module
from nextchar.models.runtime.beam import BeamSearch
from nextchar.models.runtime.generation import GenerationRequest
from nextchar.models.runtime.requests import CompletionRequest, Event, Failed, Finished, Piece, Usage
from nextchar.models.runtime.scheduler import Scheduler
from nextchar.models.runtime.state_cache import StateCache
from tests.models.runtime.test_scheduler import ID_OF, VOCABULARY, Counting, expected


class Turns:
    """A scheduler whose turns are taken by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now_s)
        thread = SimpleNamespace(start=lambda: None, join=lambda: None)
        threads = SimpleNamespace(
            Thread=lambda **_: thread, Lock=module.threading.Lock, current_thread=lambda: thread
        )
        monkeypatch.setattr(module, "threading", threads)
        self.network = Counting()
        step = self.network.step

        def timed(*arguments: Any) -> Any:
            self.now_s += 1e-6
            return step(*arguments)

        monkeypatch.setattr(self.network, "step", timed)
        self.scheduler = Scheduler(self.network, StateCache(1 << 20), max_waiting=1000, name="m")
        self.waits: list[float | None] = []
        get = self.scheduler._inbox.get

        def noted(*, timeout: float | None) -> Any:
            self.waits.append(timeout)
            return get(timeout=0)

        monkeypatch.setattr(self.scheduler._inbox, "get", noted)
        self.events: dict[GenerationRequest, list[Event]] = {}

    def submit(self, prompt: str = "abc", characters: int = 5, **options: Any) -> GenerationRequest:
        events: list[Event] = []
        asked = CompletionRequest(prompt=prompt, max_characters=characters, **options)
        request = (
            BeamSearch(asked, VOCABULARY, ID_OF, events.append, self.network)
            if asked.beam
            else GenerationRequest(asked, VOCABULARY, ID_OF, events.append, seed=1)
        )
        self.events[request] = events
        self.scheduler.submit(request)
        return request

    def turn(self) -> None:
        assert self.scheduler._receive()
        self.scheduler._run_once()

    def turns_until(self, kind: type, request: GenerationRequest) -> None:
        for _ in range(100):
            if any(isinstance(event, kind) for event in self.events[request]):
                return
            self.turn()
        raise AssertionError(f"no {kind.__name__} came")

    def reason(self, request: GenerationRequest) -> str:
        [finished] = [event for event in self.events[request] if isinstance(event, Finished)]
        return finished.reason


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    return Turns(monkeypatch)


def test_a_new_scheduler_has_counted_nothing(turns: Turns) -> None:
    assert set(turns.scheduler.counters.values()) == {0}
    assert turns.scheduler.active == turns.scheduler.waiting == 0


def test_an_idle_thread_waits_for_the_next_request_and_takes_all_that_came(turns: Turns) -> None:
    requests = [turns.submit(), turns.submit()]
    assert turns.scheduler.waiting == 2
    turns.turn()
    assert turns.waits == [None, 0.0], "without end for the first, not at all for the second"
    assert turns.scheduler.waiting == 0
    turns.waits.clear()
    turns.turn()
    assert turns.waits == [], "there is something to do"
    for request in requests:
        turns.turns_until(Usage, request)
    assert turns.scheduler.counters["requests"] == 2


def test_while_all_is_paused_it_waits_for_the_next_deadline_but_a_second_at_most(turns: Turns) -> None:
    request, other = turns.submit(characters=1000), turns.submit(characters=1000)
    turns.turns_until(Piece, request)
    assert turns.scheduler._idle_s() == 0.0
    for one in (request, other):
        turns.scheduler.pause(one)
    assert turns.scheduler._idle_s() == 0.0, "they are still in the batch"
    turns.turn()
    assert turns.scheduler._idle_s() == 1.0
    request.deadline, other.deadline = turns.now_s + 0.7, turns.now_s + 0.4
    assert turns.scheduler._idle_s() == pytest.approx(0.4, abs=1e-3)
    turns.waits.clear()
    turns.turn()
    assert turns.waits == [pytest.approx(0.4, abs=1e-3)]
    other.deadline = turns.now_s - 1
    assert turns.scheduler._idle_s() == 0.0
    turns.turn()
    assert turns.reason(other) == "timeout"
    turns.scheduler.resume(request)
    turns.turn()
    assert turns.scheduler._decode.sequences and turns.scheduler._idle_s() == 0.0


@pytest.mark.parametrize(("left_s", "ends"), [(0.49, True), (0.51, False)])
def test_a_deadline_in_the_first_half_of_the_next_step_ends_a_request_before_it(
    turns: Turns, left_s: float, ends: bool
) -> None:
    request = turns.submit(characters=1000)
    turns.turns_until(Piece, request)
    turns.scheduler._decode.call_s = 1.0
    calls = len(turns.network.calls)
    request.deadline = turns.now_s + left_s
    turns.turn()
    assert (len(turns.network.calls) == calls) == ends
    assert bool([event for event in turns.events[request] if isinstance(event, Usage)]) == ends
    assert turns.scheduler.counters["timeouts"] == ends


def test_a_deadline_is_over_once_it_has_passed(turns: Turns) -> None:
    running, waiting = turns.submit(characters=1000), turns.submit("b", characters=1000)
    turns.turn()
    for request in (running, waiting):
        request.deadline = turns.now_s
    turns.scheduler._end_due()
    assert all(not any(isinstance(e, Usage) for e in turns.events[r]) for r in (running, waiting))
    turns.now_s += 0.001
    turns.scheduler._end_due()
    assert [turns.reason(request) for request in (running, waiting)] == ["timeout"] * 2
    assert turns.scheduler.counters["timeouts"] == 2 and turns.scheduler.counters["cancelled"] == 0


def test_cancelled_requests_end_wherever_they_are(turns: Turns) -> None:
    decoding, beam = turns.submit(characters=1000), turns.submit(characters=50, beam=3)
    turns.turns_until(Piece, decoding)
    reading = turns.submit("abcdefghij" * 500)
    turns.turn()
    assert turns.scheduler.active == 3
    late = turns.submit()
    for request in (decoding, beam, reading, late):
        turns.scheduler.cancel(request)
    turns.turn()
    assert [turns.reason(request) for request in (decoding, beam, reading, late)] == ["cancelled"] * 4
    assert (turns.scheduler.counters["cancelled"], turns.scheduler.counters["timeouts"]) == (4, 0)
    assert turns.scheduler.active == turns.scheduler.waiting == 0
    assert turns.scheduler.counters["requests"] == 4


def test_beam_searches_of_different_clients_take_turns(turns: Turns) -> None:
    searches = [turns.submit(characters=4, beam=2, client=client) for client in ("a", "a", "b")]
    ended = []
    for _ in range(40):
        turns.turn()
        ended += [i for i, one in enumerate(searches) if i not in ended and turns.events[one][-1:]
                  and isinstance(turns.events[one][-1], Usage)]  # fmt: skip
        if len(ended) == 3:
            break
    assert ended[0] == 2 and sorted(ended) == [0, 1, 2], "the two of one client share its turns"
    assert turns.scheduler.active == 0


def test_a_single_prompt_is_alone_and_two_requests_are_not(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    step = turns.scheduler._prefill.step

    def noted(**options: Any) -> None:
        asked.append(options)
        step(**options)

    monkeypatch.setattr(turns.scheduler._prefill, "step", noted)
    turns.submit("abcdefghij" * 500)
    turns.turn()
    assert asked == [{"decode_s": None, "is_alone": True}]
    turns.submit("j", characters=1000)
    turns.turn()
    assert asked[1] == {"decode_s": None, "is_alone": False}
    while not turns.scheduler._decode.sequences:
        turns.turn()
    turns.scheduler._decode.step_s = 0.25
    turns.turn()
    assert asked[-1]["decode_s"] == turns.scheduler._decode.step_s


def test_the_network_may_generate_by_itself_when_there_is_nothing_else(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    may: list[bool] = []
    step = turns.scheduler._decode.step

    def noted(prefill: Any, *, may_generate: bool, **options: Any) -> Any:
        may.append(may_generate)
        return step(prefill, may_generate=may_generate, **options)

    monkeypatch.setattr(turns.scheduler._decode, "step", noted)
    request = turns.submit(characters=1000)
    turns.turns_until(Piece, request)
    may.clear()
    turns.turn()
    assert may == [True]
    assert turns.scheduler._receive()
    turns.scheduler._inbox.put(None)
    turns.scheduler._run_once()
    assert may == [True, False], "something came"
    turns.submit("abcdefghij" * 500)
    turns.turn()
    turns.turn()
    assert may[-1] is False, "a prompt is read"
    beam = turns.submit("a", characters=1000, beam=2)
    turns.scheduler._prefill.requests.clear()
    while not turns.scheduler._self_stepping:
        turns.turn()
    turns.turn()
    assert may[-1] is False, "a beam search has steps of its own"
    turns.scheduler.cancel(beam)


def test_durations_of_requests_are_observed(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    observed: list[float] = []
    monkeypatch.setattr(turns.scheduler._backlog, "observe", observed.append)
    request = turns.submit(characters=2)
    turns.turn()
    turns.now_s += 7
    turns.turns_until(Usage, request)
    assert observed == [pytest.approx(7.0, abs=1e-3)]
    assert "".join(e.text for e in turns.events[request] if isinstance(e, Piece)) == expected("abc", 2)


def test_closing_waits_for_what_runs_until_its_timeout(turns: Turns) -> None:
    request, late = turns.submit(characters=3), turns.submit("b", characters=1000)
    turns.turn()
    turns.scheduler.close(timeout_s=5)
    with pytest.raises(Unavailable) as caught:
        turns.submit()
    assert caught.value.code == "model_unloading"
    turns.turns_until(Usage, request)
    turns.now_s += 4.99
    turns.turn()
    turns.now_s = turns.scheduler._close_deadline
    turns.turn()
    assert not any(isinstance(event, Failed) for event in turns.events[late]), "not yet"
    turns.now_s += 0.1
    assert turns.scheduler._receive()
    failed = turns.events[late][-1]
    assert isinstance(failed, Failed) and isinstance(failed.error, Unavailable)
    assert failed.error.code == "model_unloading"
    assert turns.scheduler.counters["failures"] == 1 and turns.scheduler.active == 0
    assert not turns.scheduler._receive()


def test_a_closed_scheduler_without_requests_ends_at_once(turns: Turns) -> None:
    turns.scheduler.close()
    assert turns.scheduler._receive(), "close woke it"
    assert not turns.scheduler._receive()
    assert turns.waits == [None]


def test_what_waits_is_admitted_after_a_failure(turns: Turns) -> None:
    request = turns.submit(characters=1000)
    turns.turn()
    turns.scheduler._fail_all(RuntimeError("broken"))
    assert isinstance(turns.events[request][-1], Failed)
    assert turns.scheduler._has_changed and turns.scheduler.counters["failures"] == 1
    again = turns.submit(characters=2)
    turns.turns_until(Usage, again)
