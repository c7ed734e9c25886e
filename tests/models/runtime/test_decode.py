"""The batch of sequences: who is in it, what their steps are, and how far the network goes by itself."""

from typing import Any

import numpy as np
import pytest

from nextchar.models.runtime import decode as module
from nextchar.models.runtime.decode import GENERATE_AHEAD_S, MAX_BATCH, MIN_PIGGYBACKED, Decode
from nextchar.models.runtime.generation import GenerationRequest
from nextchar.models.runtime.prefill import Inbox, Prefill
from nextchar.models.runtime.requests import CompletionRequest, Event, Finished, Piece
from nextchar.models.runtime.state_cache import StateCache
from tests.models.runtime.test_scheduler import ID_OF, VOCABULARY, Counting, Generating, expected


class Bench:
    """A batch, without a scheduler; `step_s` is how long each step of the network takes."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, step_s: float = 1.0, kind: type[Counting] = Counting
    ) -> None:
        self.network, self.now_s, self.step_s = kind(), 100.0, step_s
        step = self.network.step

        def timed(ids: np.ndarray, *arguments: Any) -> Any:
            self.now_s += self.step_s * len(ids)
            return step(ids, *arguments)

        monkeypatch.setattr(self.network, "step", timed)
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now_s)
        self.counters = {"generated_characters": 0.0, "steps": 0.0, "read_characters": 0.0}
        self.decode = Decode(self.network, self.counters)
        self.prefill = Prefill(self.network, StateCache(1 << 20), Inbox(), self.counters)
        self.events: dict[GenerationRequest, list[Event]] = {}

    def request(self, prompt: str, **options: Any) -> GenerationRequest:
        events: list[Event] = []
        asked = CompletionRequest(prompt=prompt, **{"temperature": 0.0, "max_characters": 100} | options)
        request = GenerationRequest(asked, VOCABULARY, ID_OF, events.append, seed=1)
        self.events[request] = events
        return request

    def start(self, prompt: str, **options: Any) -> GenerationRequest:
        """Read a prompt, and let its sequences wait for a place."""
        request = self.request(prompt, **options)
        ids = np.array([[ID_OF[character]] for character in prompt], np.int32)
        logits, state = self.network.step(ids, self.network.initial_state(), len(prompt) - 1)
        sequences = request.begin(logits[0, 0], state)
        self.decode.waiting += [(sequence, logits[0], state) for sequence in sequences]
        return request

    def turn(self, *, may_generate: bool = False) -> list[list[Any] | None]:
        self.decode.rebalance()
        return [self.decode.choose(), self.step(may_generate=may_generate)]

    def step(self, *, may_generate: bool = False) -> list[Any] | None:
        """Step without any deadline."""
        return self.decode.step(
            self.prefill, may_generate=may_generate, is_due_within=lambda _: False, end_due=lambda: None
        )

    def text(self, request: GenerationRequest, index: int = 0) -> str:
        pieces = (event for event in self.events[request] if isinstance(event, Piece))
        return "".join(piece.text for piece in pieces if piece.index == index)


def test_sequences_that_fit_join_and_finished_ones_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    short, long = bench.start("ab", max_characters=2), bench.start("c", n=2)
    assert bench.turn() == [None, None]
    assert len(bench.decode.sequences) == 3 and bench.decode.waiting == []
    bench.decode.rebalance()
    assert bench.decode.choose() == [short]
    assert [sequence.request for sequence in bench.decode.sequences] == [long, long]
    bench.step()
    bench.turn()
    assert bench.text(short) == expected("ab", 2)
    assert [bench.text(long, index) for index in range(2)] == [expected("c", 3)] * 2
    assert bench.counters["steps"] == 3 and bench.counters["generated_characters"] == 3 + 3 + 2
    assert bench.decode.steps_by_batch_size == [0, 0, 2, 1, *[0] * (MAX_BATCH - 3)]
    assert bench.decode.step_s == 1.0


def test_a_request_is_over_when_its_last_sequence_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    one = bench.start("a", n=2, max_characters=1)
    two = bench.start("b", n=2, max_characters=2, stop=("zz",))
    bench.decode.rebalance()
    assert bench.decode.choose() == [one]
    assert not bench.step()
    assert bench.decode.choose() == [two] and bench.decode.sequences == []
    assert sum(isinstance(event, Finished) for event in bench.events[two]) == 2


def test_paused_sequences_wait_with_their_states(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    requests = [bench.start(prompt, n=2) for prompt in ("a", "bc", "d")]
    bench.turn()
    requests[1].is_paused = True
    for _ in range(3):
        bench.turn()
    assert [len(bench.text(request)) for request in requests] == [4, 1, 4]
    assert len(bench.decode.waiting) == 2
    for _, logits, state in bench.decode.waiting:
        assert logits.shape == (1, bench.network.V) and state.shape == (1, 1)
    requests[0].is_paused, requests[1].is_paused = True, False
    for _ in range(2):
        bench.turn()
    requests[0].is_paused = False
    for _ in range(2):
        bench.turn()
    texts = [[bench.text(request, index) for index in range(2)] for request in requests]
    assert texts == [[expected(prompt, count)] * 2 for prompt, count in (("a", 6), ("bc", 5), ("d", 8))]


def test_of_more_than_fit_those_next_in_turn_are_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    greedy = bench.start("a", n=MAX_BATCH, client="greedy")
    bench.turn()
    assert len(bench.decode.sequences) == MAX_BATCH
    modest = bench.start("b", n=3, client="modest")
    bench.turn()
    assert len(bench.decode.sequences) == MAX_BATCH and len(bench.decode.waiting) == 3
    assert [bench.text(modest, index) for index in range(3)] == [expected("b", 1)] * 3
    assert sorted(len(bench.text(greedy, index)) for index in range(MAX_BATCH)) == [1] * 3 + [2] * (
        MAX_BATCH - 3
    )


def test_removed_requests_leave_the_batch_and_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    running, other = bench.start("a", n=2), bench.start("b")
    bench.turn()
    waiting, another = bench.start("c"), bench.start("d")
    bench.decode.remove(waiting)
    bench.decode.remove(running)
    assert [sequence.request for sequence in bench.decode.sequences] == [other]
    assert [sequence.request for sequence, _, _ in bench.decode.waiting] == [another]
    bench.turn()
    assert (bench.text(other), bench.text(another)) == (expected("b", 2), expected("d", 1))
    bench.decode.clear()
    assert bench.decode.sequences == bench.decode.waiting == []
    fresh = bench.start("e")
    bench.turn()
    assert bench.text(fresh) == expected("e", 1) and len(bench.decode.sequences) == 1


@pytest.mark.parametrize(("sequences", "piggybacked"), [(1, MIN_PIGGYBACKED), (6, 6)])
def test_prompts_are_read_along_with_a_step(
    monkeypatch: pytest.MonkeyPatch, sequences: int, piggybacked: int
) -> None:
    bench = Bench(monkeypatch)
    decoding = bench.start("a", n=sequences)
    reading = [bench.request("bc" + "d" * index) for index in range(8)]
    for request in reading:
        bench.prefill.add(request)
    for _ in range(2):
        bench.turn()
    assert [request.position for request in reading] == [2] * piggybacked + [0] * (8 - piggybacked)
    assert bench.network.calls[-1] == (1, sequences + piggybacked)
    assert bench.counters["read_characters"] == 2 * piggybacked
    [(completed, logits, state)] = bench.prefill.take_completed()
    assert completed is reading[0] and logits.shape == (1, bench.network.V)
    assert state.tolist() == [[(ID_OF["b"] + ID_OF["c"]) % 10]]
    assert [bench.text(decoding, index) for index in range(sequences)] == [expected("a", 2)] * sequences
    assert bench.decode.steps_by_batch_size[sequences] == 2


@pytest.mark.parametrize("options", [{}, {"stop": ("zz",)}])
def test_an_idle_network_chooses_by_itself_for_as_long_as_it_may(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    bench = Bench(monkeypatch, step_s=GENERATE_AHEAD_S / 6.5, kind=Generating)
    request = bench.start("ab", max_characters=40, **options)
    counts = []
    for _ in range(3):
        before = bench.counters["generated_characters"]
        bench.turn(may_generate=True)
        counts.append(bench.counters["generated_characters"] - before)
    # One by sampling, and those between steps: of one step while its duration is unknown, then of 6.
    assert counts == [1, 1 + 5, 1 + 5]
    assert bench.counters["steps"] == bench.decode.steps_by_batch_size[1] == 1 + 6 + 6
    assert bench.decode.step_s == pytest.approx(6 * bench.step_s)
    assert bench.text(request) == expected("ab", 13)
    bench.step_s *= 10
    bench.turn(may_generate=True)
    bench.turn(may_generate=True)
    # An outlier counts as twice as slow: by then 3 steps fit, then 1.
    assert bench.counters["steps"] == 13 + 6 + 3
    assert bench.text(request) == expected("ab", 13 + 6 + 3)


def test_the_network_does_not_choose_beyond_the_last_character(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, step_s=GENERATE_AHEAD_S / 100, kind=Generating)
    request = bench.start("ab", max_characters=4)
    bench.turn()
    bench.decode.choose()
    assert bench.step(may_generate=True) is None
    assert bench.text(request) == expected("ab", 3)
    assert bench.decode.choose() == [request]
    assert bench.text(request) == expected("ab", 4)


def test_the_network_chooses_by_itself_only_if_it_may_and_can(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, may_generate in ((Generating, False), (Counting, True)):
        bench = Bench(monkeypatch, step_s=1e-9, kind=kind)
        bench.start("ab")
        bench.turn(may_generate=may_generate)
        assert bench.counters["generated_characters"] == bench.counters["steps"] == 1


def test_steps_longer_than_the_limit_are_not_left_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, step_s=2 * GENERATE_AHEAD_S, kind=Generating)
    bench.start("ab")
    bench.turn()
    bench.turn(may_generate=True)
    assert bench.counters["generated_characters"] == bench.counters["steps"] == 2
