import gc
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.models.errors import Busy
from nextchar.models.runtime import decode
from nextchar.models.runtime.beam import BeamSearch
from nextchar.models.runtime.decode import CALL_ROWS, MAX_BATCH
from nextchar.models.runtime.generation import GenerationRequest
from nextchar.models.runtime.prefill import MAX_RUNNING
from nextchar.models.runtime.requests import Caller, CompletionRequest, Event, Failed, Finished, Piece, Usage
from nextchar.models.runtime.scheduler import Scheduler
from nextchar.models.runtime.state_cache import CHUNK, StateCache
from nextchar.models.text.vocabulary import Vocabulary
from tests.models.runtime.engine_calls import DEADLINE_S, Answer, StartedRequest

VOCABULARY = Vocabulary("abcdefghij")
ID_OF = {character: i for i, character in enumerate(VOCABULARY.characters, 1)}


@dataclass
class Counting:
    """A network with an obvious answer: the next letter is the sum of all ids read so far.

    The state is that sum. A closed `gate` stops it before its next step; `failing` lets steps fail; after
    `steps_left` steps, if that is positive, the gate is closed.
    """

    V: int = len(VOCABULARY)
    gate: threading.Event = field(default_factory=threading.Event)
    failing: bool = False
    steps_left: int = 0
    calls: list[tuple[int, int]] = field(default_factory=list)  # (T, B)

    def __post_init__(self) -> None:
        self.gate.set()

    def initial_state(self, rows: int = 1) -> np.ndarray:
        return np.zeros((rows, 1), np.float32)

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        assert self.gate.wait(DEADLINE_S)
        if self.failing:
            raise RuntimeError("the network broke")
        self.calls.append(ids.shape)
        self.steps_left -= 1
        if self.steps_left == 0:
            self.gate.clear()
        sums = state[:, 0] + np.cumsum(ids, axis=0)  # (T, B)
        logits = np.zeros((*sums[first:].shape, self.V), np.float32)
        np.put_along_axis(logits, (sums[first:, :, None] % 10 + 1).astype(int), 50, -1)
        return logits, (sums[-1:].T % 10).astype(np.float32)


class Generating(Counting):
    """The same as a GeneratingNetwork; `read_slices` counts the slices of each call of `read`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.read_slices: list[int] = []

    def read(
        self, ids: np.ndarray, ends: Sequence[int], state: np.ndarray, stop: np.ndarray
    ) -> list[np.ndarray]:
        states: list[np.ndarray] = []
        for start, end in pairwise([0, *ends]):
            if stop[0]:
                break
            state = self.step(ids[start:end, None], state, end - start)[1]
            states.append(state)
        self.read_slices.append(len(states))
        return states

    def choose(self, logits: np.ndarray, inverse_temperature: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        assert len(logits) == len(inverse_temperature) == len(uniforms)
        return logits.argmax(1).astype(np.int32)

    def generate(
        self, ids: np.ndarray, state: np.ndarray, inverse_temperature: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen, every_logits = [], []
        for t in range(len(uniforms) + 1):
            logits, state = self.step(ids[None], state)
            every_logits.append(logits[0])
            if t < len(uniforms):
                ids = self.choose(logits[0], inverse_temperature, uniforms[t])
                chosen.append(ids)
        return np.array(chosen), np.array(every_logits), state


NETWORKS = [Counting, Generating]


def expected(prompt: str, characters: int) -> str:
    total, text = sum(ID_OF[c] for c in prompt), ""
    for _ in range(characters):
        text += VOCABULARY.characters[total % 10]
        total += total % 10 + 1
    return text


class Bench:
    def __init__(self, kind: type[Counting] = Counting, *, max_waiting: int = 1000) -> None:
        self.network = kind()
        self.scheduler = Scheduler(
            self.network, StateCache(1 << 20), max_waiting=max_waiting, name="counting"
        )

    def start(self, prompt: str, characters: int = 5, client: str = "", **options: object) -> "BenchRequest":
        started = BenchRequest()
        asked = {"prompt": prompt, "max_characters": characters, "caller": Caller(client)} | options
        request = CompletionRequest(**asked)  # type: ignore[arg-type]
        report = started.arriving.put
        started.request = (
            BeamSearch(request, VOCABULARY, ID_OF, report, network=self.network)
            if request.beam
            else GenerationRequest(request, VOCABULARY, ID_OF, report, seed=1)
        )
        self.scheduler.submit(started.request)
        return started


class BenchRequest(StartedRequest):
    request: GenerationRequest


def wait_until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


@pytest.fixture(params=NETWORKS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param)
    yield bench
    bench.network.gate.set()
    bench.scheduler.close()


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(NETWORKS),
    st.lists(
        st.tuples(st.text("abcdefghij", min_size=1, max_size=150), st.integers(1, 12), st.integers(1, 4)),
        max_size=30,
    ),
)
def test_every_request_gets_its_own_answer_in_any_batch(
    kind: type[Counting], requests: list[tuple[str, int, int]]
) -> None:
    bench = Bench(kind)
    waiting = [(p, c, n, bench.start(p, c, n=n)) for p, c, n in requests]
    for prompt, characters, n, one in waiting:
        answer = one.answer()
        for index in range(n):
            assert answer.text(index) == expected(prompt, characters)
            assert answer.finished(index).reason == "length"
        assert answer.usage.completion_characters == n * characters
        assert one.arriving.empty(), "something came after Usage"
    bench.scheduler.close()
    assert bench.scheduler.active == bench.scheduler.waiting == 0


def test_counters_agree_with_what_the_network_read(bench: Bench) -> None:
    prompts = [("abc", 40), ("abcdefghij" * 30, 1), ("b", 17), ("abcdefghij" * 9, 30)]
    started = [bench.start(prompt, characters, n=2) for prompt, characters in prompts]
    answers = [one.answer() for one in started] + [bench.start("jjj", 60).answer()]
    bench.scheduler.close()
    counters, by_size = bench.scheduler.counters, bench.scheduler.steps_by_batch_size
    assert counters["generated_characters"] == sum(a.usage.completion_characters for a in answers)
    assert counters["requests"] == 5 and counters["failures"] == counters["cancelled"] == 0
    read = sum(a.usage.prompt_characters - a.usage.cached_characters for a in answers)
    assert counters["read_characters"] == read
    assert counters["steps"] == sum(by_size) > 0 and by_size[0] == 0
    generated = sum(size * steps for size, steps in enumerate(by_size))
    assert sum(steps * rows for steps, rows in bench.network.calls) == read + generated


@pytest.mark.parametrize("options", [{"n": 3}, {"beam": 2}, {"timeout_s": 0.05, "characters": 100_000}])
def test_a_request_is_freed_when_it_ends(bench: Bench, options: dict[str, Any]) -> None:
    """And its arrays: the garbage collector would come late, after thousands of requests."""
    gc.disable()
    try:
        started = bench.start("abc", **options)
        request = weakref.ref(started.request)
        del started.request
        started.answer()
        wait_until(lambda: bench.start("a").answer() and request() is None, "it is freed")
    finally:
        gc.enable()


def test_requests_join_and_leave_between_steps(bench: Bench) -> None:
    long = bench.start("a", 100_000)
    long.wait_for(Piece)
    short = bench.start("abc", 3).answer()
    assert short.text() == expected("abc", 3)
    assert not any(isinstance(e, Finished) for e in long.events)
    bench.scheduler.cancel(long.request)
    assert long.answer().finished().reason == "cancelled"


def test_long_prompt_does_not_block_others(bench: Bench) -> None:
    long = bench.start("abcdefghij" * 200_000, 1)
    for _ in range(20):
        assert bench.start("abc", 3).answer().text() == expected("abc", 3)
    assert long.arriving.empty(), "the others had to wait for the long prompt"
    bench.scheduler.cancel(long.request)
    assert long.answer().finished().reason == "cancelled"


def test_cancellation_frees_the_slot_in_every_stage(bench: Bench) -> None:
    generating = bench.start("a", 10_000_000, n=64)
    generating.wait_for(Piece)
    joining = bench.start("b", 10_000_000, n=64)  # its sequences find the batch full
    reading = bench.start("abcdefghij" * 100_000, 5)
    others = [bench.start("c", 10_000_000) for _ in range(100)]  # more than can run
    wait_until(lambda: bench.scheduler.waiting > 0, "no request is waiting")
    for started in (*others, reading, joining, generating):
        bench.scheduler.cancel(started.request)
    for started in (*others, reading, joining, generating):
        answer = started.answer()
        assert answer.finished().reason == "cancelled"
        assert isinstance(answer.events[-1], Usage)
    assert bench.scheduler.active == bench.scheduler.waiting == 0
    assert bench.start("abc", 3).answer().text() == expected("abc", 3)


def test_cancelled_request_sends_the_text_it_has(bench: Bench) -> None:
    started = bench.start("a", 10_000_000, stream=False)
    wait_until(lambda: bench.scheduler.counters["generated_characters"] > 10, "nothing was generated")
    bench.scheduler.cancel(started.request)
    answer = started.answer()
    assert answer.text() == expected("a", answer.finished().characters)
    assert answer.finished().characters > 10
    assert answer.usage.completion_characters == answer.finished().characters


def test_timeout_gives_a_partial_answer(bench: Bench) -> None:
    answer = bench.start("a", 10_000_000, timeout_s=0.5, n=2).answer()
    for index in range(2):
        assert answer.finished(index).reason == "timeout"
        assert answer.text(index) == expected("a", answer.finished(index).characters)
    assert answer.finished().characters > 0


def test_deadline_shorter_than_a_step_gives_an_empty_answer_with_reason_timeout(bench: Bench) -> None:
    answer = bench.start("a", 5, timeout_s=0.0).answer()
    assert answer.text() == ""
    assert answer.finished() == Finished(0, "timeout", bits=0.0, characters=0)


def test_a_prompt_that_was_not_read_in_time_goes_on_where_it_was(bench: Bench) -> None:
    prompt = "abcdefghij" * 5
    bench.network.steps_left = 2
    started = bench.start(prompt)
    wait_until(lambda: bench.network.steps_left == 0, "the prompt is not read")
    bench.scheduler.cancel(started.request)
    bench.network.gate.set()
    assert started.answer().finished().reason == "cancelled"
    answer = bench.start(prompt).answer()
    assert answer.text() == expected(prompt, 5)
    assert 2 <= answer.usage.cached_characters < CHUNK


@pytest.mark.parametrize("beam", [None, 3])
def test_no_call_of_the_network_is_begun_after_a_deadline(beam: int | None) -> None:
    bench = Bench()
    network = bench.network
    options: dict[str, Any] = {} if beam is None else {"beam": beam, "temperature": 0}
    network.gate.clear()
    ending = [bench.start("a", 10_000, client=str(i), **options) for i in range(40)]
    others = [bench.start("ab" * 20_000, 1, client="b"), bench.start("b", 10_000)]
    due: list[tuple[BenchRequest, int]] = []  # and the number of calls before
    step = network.step

    def step_past_a_deadline(*arguments: Any) -> Any:
        result = step(*arguments)
        if len(network.calls) >= 100 and len(due) < len(ending):
            request = ending[len(due)]
            request.request.deadline = 0.0  # it passes during this call
            due.append((request, len(network.calls)))
        return result

    network.step = step_past_a_deadline  # type: ignore[method-assign,assignment]
    ended: dict[int, int] = {}  # by position: the number of calls before
    for position, started in enumerate(ending):
        put = started.arriving.put

        def note(event: Event, position: int = position, put: Any = put) -> None:
            if isinstance(event, Usage):
                ended[position] = len(network.calls)
            put(event)

        started.request._on_event = note
    network.gate.set()
    try:
        for started in ending:
            started.answer()
        assert [ended[i] for i in range(len(ending))] == [calls for _, calls in due]
    finally:
        for started in others:
            bench.scheduler.cancel(started.request)
        bench.scheduler.close()


@pytest.mark.parametrize("has_deadlines", [True, False])
def test_a_long_step_is_made_in_several_calls_only_if_a_deadline_passes_meanwhile(
    monkeypatch: pytest.MonkeyPatch, has_deadlines: bool
) -> None:
    """And requests whose deadlines pass during one of them end before the next."""
    monkeypatch.setattr(decode, "MAX_CALL_S", 0.0)  # every step is long
    bench = Bench()
    network = bench.network
    network.gate.clear()
    timeout_s = 10 * DEADLINE_S if has_deadlines else None
    prompts = ["abc", "ab" * 400]  # the long ones are read along
    started = [bench.start(prompts[i % 2], 2_000, client=str(i), timeout_s=timeout_s) for i in range(60)]
    due: dict[int, int] = {}  # by request: the number of calls before its deadline
    ended: dict[int, int] = {}
    step = network.step

    def step_past_deadlines(*arguments: Any) -> Any:
        result = step(*arguments)
        # Not before a long step: on a busy machine prompts may wait for long, and few sequences are decoded.
        is_long = network.calls[-1][1] == CALL_ROWS or bool(due)
        if has_deadlines and is_long and len(network.calls) >= 300 and len(due) < 40:
            for i in range(len(due), len(due) + 3):  # of those that read and those that write
                started[i].request.deadline = 0.0
                due[i] = len(network.calls)
        return result

    network.step = step_past_deadlines  # type: ignore[method-assign,assignment]
    for i, one in enumerate(started):
        put = one.arriving.put

        def note(event: Event, i: int = i, put: Any = put) -> None:
            if isinstance(event, Usage):
                ended[i] = len(network.calls)
            put(event)

        one.request._on_event = note
    # The deadlines of all others pass within any long step.
    monkeypatch.setattr(bench.scheduler, "_is_due_within", lambda _: has_deadlines)
    network.gate.set()
    answers = [one.answer() for one in started]
    for i, answer in enumerate(answers):
        text = answer.text()
        assert text == expected(prompts[i % 2], len(text))
        assert answer.finished().reason == ("timeout" if i in due else "length")
    assert {i: ended[i] for i in due} == due
    largest = max(rows for _, rows in network.calls)
    assert largest == CALL_ROWS if has_deadlines else largest > CALL_ROWS, largest
    bench.scheduler.close()


def test_timeout_ends_a_waiting_request(bench: Bench) -> None:
    endless = [bench.start("a", 10_000_000) for _ in range(64)]
    for started in endless:
        started.wait_for(Piece)
    late = bench.start("b", 10_000_000, timeout_s=0.02).answer()  # a short one would not have to wait
    assert (late.text(), late.finished().reason) == ("", "timeout")
    for started in endless:
        bench.scheduler.cancel(started.request)
        started.answer()


def test_full_queue_is_busy_with_a_retry_after() -> None:
    bench = Bench(max_waiting=3)
    bench.network.gate.clear()
    accepted: list[BenchRequest] = []
    with pytest.raises(Busy) as caught:
        while len(accepted) < 100:
            accepted += [bench.start("abc")]
    assert 0.1 <= caught.value.retry_after_s <= 30
    assert len(accepted) >= 3
    bench.network.gate.set()
    assert [a.answer().text() for a in accepted] == [expected("abc", 5)] * len(accepted)
    assert bench.start("abc").answer().text() == expected("abc", 5)
    bench.scheduler.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failing_step_fails_its_requests_and_the_thread_survives(bench: Bench) -> None:
    bench.network.failing = True
    failures = [bench.start("abc") for _ in range(3)]
    for started in failures:
        failed = started.wait_for(Usage, Failed)
        assert isinstance(failed, Failed)
        assert "broke" in str(failed.error)
    bench.network.failing = False
    assert bench.start("abc").answer().text() == expected("abc", 5)
    assert bench.scheduler.counters["failures"] == 3


def test_a_step_that_fails_while_text_is_generated_leaves_no_sequence_behind(bench: Bench) -> None:
    generating = [bench.start("a", 10_000_000) for _ in range(MAX_BATCH + 2)]  # two wait for room
    generating[0].wait_for(Piece)
    bench.network.failing = True
    for started in generating:
        assert isinstance(started.wait_for(Usage, Failed), Failed)
    bench.network.failing = False
    assert bench.start("abc", 3).answer().text() == expected("abc", 3)
    decode = bench.scheduler._decode
    wait_until(lambda: not decode.sequences and not decode.waiting, "sequences are left")


def test_listener_that_raises_ends_only_its_own_request(bench: Bench) -> None:
    def broken(event: Event) -> None:
        raise OSError("gone")

    neighbor = bench.start("a", 10_000_000)
    neighbor.wait_for(Piece)
    request = CompletionRequest(prompt="b", max_characters=10_000_000)
    bench.scheduler.submit(GenerationRequest(request, VOCABULARY, ID_OF, broken, seed=1))
    wait_until(lambda: bench.scheduler.counters["cancelled"] == 1, "its request is still running")
    assert bench.scheduler.active == 1
    bench.scheduler.cancel(neighbor.request)
    answer = Answer(neighbor.answer().events)
    assert answer.text() == expected("a", answer.finished().characters)


def test_same_prompt_again_costs_one_step(bench: Bench) -> None:
    prompt = "abcdefghij" * 20
    bench.start(prompt, 1).answer()
    read = bench.scheduler.counters["read_characters"]
    assert bench.start(prompt, 1).answer().usage.cached_characters == len(prompt) - 1
    assert bench.scheduler.counters["read_characters"] == read + 1


def test_single_long_prompt_is_read_in_few_calls_and_cached_at_the_same_positions() -> None:
    bench = Bench(Generating)
    prompt = "abcdefghij" * 200
    assert bench.start(prompt, 5).answer().text() == expected(prompt, 5)
    slices = bench.network.read_slices  # type: ignore[attr-defined]
    assert len(slices) < len(prompt) // CHUNK
    edited = prompt[:1000] + "j" + prompt[1000:]
    answer = bench.start(edited, 5).answer()
    assert answer.text() == expected(edited, 5)
    assert answer.usage.cached_characters == 1000 // CHUNK * CHUNK
    bench.scheduler.close()


def test_arrival_interrupts_the_prefill_of_a_single_prompt() -> None:
    bench = Bench(Generating)
    bench.network.gate.clear()
    long = bench.start("abcdefghij" * 10_000, 1)
    wait_until(lambda: bench.scheduler.active > 0, "nothing is read")
    short = bench.start("abc", 3)
    bench.network.gate.set()
    assert short.answer().text() == expected("abc", 3)
    # The current slice was read to its end; the others, hundreds of them, had to wait.
    assert bench.network.read_slices[0] <= 2  # type: ignore[attr-defined]
    assert long.answer().text() == expected("abcdefghij" * 10_000, 1)
    bench.scheduler.close()


def test_single_request_is_generated_in_few_calls_and_finishes_correctly() -> None:
    bench = Bench(Generating)
    free = bench.start("abc", 40).answer().text()
    assert free == expected("abc", 40)
    generations = []
    generate = bench.network.generate  # type: ignore[attr-defined]

    def counted(ids: np.ndarray, *rest: np.ndarray) -> tuple[np.ndarray, ...]:
        generations.append(len(ids))
        found: tuple[np.ndarray, ...] = generate(ids, *rest)
        return found

    bench.network.generate = counted  # type: ignore[attr-defined]
    for options in ({}, {"stream": False}, {"logprobs": 1}, {"n": 2}):
        assert bench.start("abc", 40, **options).answer().text() == free
    assert 0 < len(generations) < 4 * 20
    stopped = bench.start("abc", 40, stop=(free[7:10],)).answer()
    assert (stopped.text(), stopped.finished().reason) == (free[: free.index(free[7:10])], "stop")
    assert bench.scheduler.active == 0
    # With a filter the network does not choose by itself.
    before = len(generations)
    assert bench.start("abc", 40, top_k=2, temperature=0.1).answer().text() == free
    assert len(generations) == before
    bench.scheduler.close()


def test_short_request_is_answered_while_long_ones_wait_in_hundreds(bench: Bench) -> None:
    long = [bench.start("a", 10_000_000, n=10) for _ in range(300)]
    long[0].wait_for(Piece)
    wait_until(lambda: bench.scheduler.waiting == 300 - MAX_RUNNING, "the long ones are not admitted")
    bench.network.calls.clear()
    assert bench.start("abc", 5).answer().text() == expected("abc", 5)
    assert len(bench.network.calls) < 1_000, "it had to wait"
    for started in long:
        bench.scheduler.cancel(started.request)
    for started in long:
        assert started.answer().finished(9).reason == "cancelled"
    assert bench.scheduler.active == bench.scheduler.waiting == 0


def test_short_request_does_not_wait_for_one_that_fills_the_batch(bench: Bench) -> None:
    long = bench.start("a", 10_000_000, n=64)
    long.wait_for(Piece)
    bench.network.calls.clear()
    assert bench.start("abc", 5).answer().text() == expected("abc", 5)
    assert len(bench.network.calls) < 1_000, "it had to wait"
    bench.scheduler.cancel(long.request)
    long.answer()


def test_clients_share_the_batch_equally_whatever_they_request(bench: Bench) -> None:
    greedy = [bench.start("a", 10_000_000, n=10, client="greedy") for _ in range(100)]
    greedy[0].wait_for(Piece)
    modest = bench.start("b", 1_000, n=32, client="modest").answer()
    for index in range(32):
        assert modest.text(index) == expected("b", 1_000)
    # All its sequences were always in the batch: 1,000 steps, and some for prefill.
    since = [shape for shape in bench.network.calls if shape[1] >= MAX_BATCH]
    assert 900 < len(since) < 2_000
    for started in greedy:
        bench.scheduler.cancel(started.request)
    for started in greedy:
        started.answer()


def test_preempted_sequences_continue_with_the_same_text(bench: Bench) -> None:
    greedy = bench.start("a", 400, n=64, client="greedy")
    greedy.wait_for(Piece)
    modest = [bench.start("b", 50, n=8, client="modest") for _ in range(3)]
    for started in modest:
        assert started.answer().text(7) == expected("b", 50)
    answer = greedy.answer()
    for index in range(64):
        assert answer.text(index) == expected("a", 400)


def test_oldest_long_request_finishes_while_shorter_ones_wait(bench: Bench) -> None:
    long = bench.start("a", 1_200)
    others = [bench.start("b", 500) for _ in range(400)]
    assert long.answer().text() == expected("a", 1_200)
    assert bench.scheduler.active + bench.scheduler.waiting > 100, "it had to wait for all of them"
    assert {started.answer().text() for started in others} == {expected("b", 500)}


def test_waiting_long_requests_leave_room_for_short_ones_and_for_other_clients() -> None:
    bench = Bench(max_waiting=64)
    bench.network.gate.clear()
    accepted: list[BenchRequest] = []

    def fill(**options: object) -> int:
        before = len(accepted)
        with pytest.raises(Busy):
            while len(accepted) < 1000:
                accepted.append(bench.start("abc", **options))
        return len(accepted) - before

    assert fill(characters=10_000, client="greedy") >= 48
    assert fill(client="greedy") == 16
    assert fill(client="other") == 4
    assert fill(characters=10_000, client="another") == 4
    bench.network.gate.set()
    for started in accepted:
        bench.scheduler.cancel(started.request)
        started.answer()
    assert bench.start("abc").answer().text() == expected("abc", 5)
    bench.scheduler.close()


def test_paused_request_generates_nothing_and_continues_where_it_was(bench: Bench) -> None:
    started = bench.start("a", 2_000, n=2)
    started.wait_for(Piece)
    bench.scheduler.pause(started.request)
    assert bench.start("abc", 3).answer().text() == expected("abc", 3)  # it is paused by now
    generated = bench.scheduler.counters["generated_characters"]
    assert generated < 2 * 2_000
    wait_until(lambda: bench.scheduler.active == 2, "its sequences are gone")
    assert bench.start("abc", 3).answer().text() == expected("abc", 3)
    assert bench.scheduler.counters["generated_characters"] == generated + 3
    bench.scheduler.resume(started.request)
    answer = started.answer()
    assert [answer.text(i) for i in range(2)] == [expected("a", 2_000)] * 2


def test_paused_requests_take_no_places_and_obey_their_deadline(bench: Bench) -> None:
    paused = [bench.start("a", 10_000_000, n=10) for _ in range(2 * MAX_RUNNING)]
    for started in paused:
        bench.scheduler.pause(started.request)
    later = bench.start("b", 500, n=MAX_BATCH).answer()
    assert later.text(0) == expected("b", 500)
    late = bench.start("c", 10_000_000, timeout_s=0.05)
    bench.scheduler.pause(late.request)
    assert late.answer().finished().reason == "timeout"
    for started in paused:
        bench.scheduler.cancel(started.request)
        assert started.answer().finished(9).reason == "cancelled"
    assert bench.scheduler.active == bench.scheduler.waiting == 0
