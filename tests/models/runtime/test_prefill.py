"""How prompts are read: in which pieces, in how much time, and which states are kept."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from nextchar.models.runtime import prefill as module
from nextchar.models.runtime.generation import GenerationRequest
from nextchar.models.runtime.prefill import (
    DENSE_CHARACTERS,
    MAX_CALL_S,
    MAX_PREFILL_BATCH,
    PREFILL_ALONE_S,
    PREFILL_CHUNK_S,
    Inbox,
    Prefill,
)
from nextchar.models.runtime.requests import Caller, CompletionRequest
from nextchar.models.runtime.state_cache import CHUNK, STRIDE, StateCache
from nextchar.models.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary("ab")
ID_OF = {"a": 1, "b": 2}


class Timed:
    """A network whose state is how many characters it has read, and whose steps take `step_s` each."""

    V = len(VOCABULARY)

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.now_s = 100.0
        self.calls: list[tuple[int, int, int]] = []  # (T, B, first)

    def initial_state(self, rows: int = 1) -> np.ndarray:
        return np.zeros((rows, 1), np.float32)

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        assert state.shape == (ids.shape[1], 1)
        self.calls.append((*ids.shape, first))
        self.now_s += self.step_s * len(ids)
        return np.zeros((len(ids) - first, ids.shape[1], self.V), np.float32), state + len(ids)


class Reading(Timed):
    """The same, which can read a prompt in one call."""

    def __init__(self, step_s: float) -> None:
        super().__init__(step_s)
        self.read_ends: list[list[int]] = []

    def read(
        self, ids: np.ndarray, ends: Sequence[int], state: np.ndarray, stop: np.ndarray
    ) -> list[np.ndarray]:
        assert len(ids) == ends[-1] and not stop[0]
        self.read_ends.append([*ends])
        self.now_s += self.step_s * len(ids)
        return [state + end for end in ends]

    def choose(self) -> None: ...

    def generate(self) -> None: ...


class Bench:
    def __init__(self, network: Timed) -> None:
        self.network, self.inbox, self.cache = network, Inbox(), StateCache(1 << 24)
        self.counters = {"read_characters": 0.0}
        self.prefill = Prefill(network, self.cache, self.inbox, self.counters)

    def add(self, length: int, *, client: str = "", timeout_s: float | None = None) -> GenerationRequest:
        """Start with a prompt of this length that is like no other."""
        number = len(self.prefill.requests)
        text = format(number, "06b").replace("0", "a").replace("1", "b") + "a" * (length - 6)
        options = CompletionRequest(prompt=text[:length], caller=Caller(client), timeout_s=timeout_s)
        request = GenerationRequest(options, VOCABULARY, ID_OF, lambda _: None, seed=1)
        self.prefill.add(request)
        return request

    def finish(self, request: GenerationRequest) -> list[tuple[int, int, int]]:
        """Read until a prompt is complete; return the calls."""
        while request in self.prefill.requests:
            self.prefill.step(decode_s=None, is_alone=False)
        return self.network.calls


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Timed]]:
    """The networks whose time is that of the clock: the last one's."""
    networks: list[Timed] = []
    monkeypatch.setattr(module.time, "perf_counter", lambda: networks[-1].now_s)
    return networks


def bench(clock: list[Timed], network: Timed) -> Bench:
    clock.append(network)
    return Bench(network)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 66, 129, 200])
def test_a_prompt_is_read_up_to_each_chunk_and_before_its_last_character(
    clock: list[Timed], length: int
) -> None:
    one = bench(clock, Timed(1e-9))
    request = one.add(length)
    one.finish(request)
    ends = np.cumsum([steps for steps, _, _ in one.network.calls]).tolist()
    measured = min(1, length - 1)  # by the first character
    assert ends == sorted({measured, *range(CHUNK, length - 1, CHUNK), length - 1, length} - {0})
    with_logits = [first < steps for steps, _, first in one.network.calls]
    assert with_logits == [False] * (len(ends) - 1) + [True]
    assert one.counters["read_characters"] == length
    [(completed, logits, state)] = one.prefill.take_completed()
    assert completed is request and logits.shape == (1, 3) and state.tolist() == [[length]]
    assert one.prefill.take_completed() == [] == one.prefill.requests


def test_states_are_kept_at_strides_and_at_chunks_near_the_end(clock: list[Timed]) -> None:
    one = bench(clock, Timed(1e-9))
    length = DENSE_CHARACTERS + 2 * STRIDE + 100
    request = one.add(length)
    one.finish(request)

    def cached(count: int) -> int:
        return one.cache.match(request.text[:count]).length

    dense_from = 2 * STRIDE  # the beginning of the stride that is DENSE_CHARACTERS before the end
    assert [cached(STRIDE + n) for n in (-1, 0, CHUNK, STRIDE - 1)] == [0, STRIDE, STRIDE, STRIDE]
    for end in (dense_from + CHUNK, dense_from + 5 * CHUNK, length - 100 + CHUNK):
        assert [cached(end - 1), cached(end), cached(end + 1)] == [end - CHUNK, end, end]
    assert [cached(length), cached(length - 1), cached(length - 2)] == [
        length, length - 1, length - 100 + CHUNK
    ]  # fmt: skip


def test_a_cached_prefix_is_skipped_but_for_the_last_character(clock: list[Timed]) -> None:
    one = bench(clock, Timed(1e-9))
    one.finish(one.add(200))
    one.network.calls.clear()
    again = one.add(200)
    assert (again.cached, again.position, again.state.tolist()) == (199, 199, [[199]])
    assert one.finish(again) == [(1, 1, 0)]


def test_prompts_are_read_side_by_side_up_to_the_next_stop_of_any(clock: list[Timed]) -> None:
    one = bench(clock, Timed(1e-9))
    short, long = one.add(20), one.add(100)
    one.finish(short)
    assert (short.position, long.position) == (20, 20) and one.prefill.requests == [long]
    assert one.network.calls == [(1, 2, 1), (18, 2, 18), (1, 2, 0)]
    [(completed, logits, state)] = one.prefill.take_completed()
    assert completed is short and logits.shape == (1, 3) and state.tolist() == [[20]]


def test_no_more_prompts_are_read_together_than_fit_and_clients_take_turns(clock: list[Timed]) -> None:
    one = bench(clock, Timed(1e-9))
    greedy = [one.add(50, client="greedy") for _ in range(MAX_PREFILL_BATCH + 3)]
    modest = one.add(50, client="modest")
    assert one.prefill.piggybacked(MAX_PREFILL_BATCH + 4) == [*greedy, modest]
    assert one.prefill.piggybacked(2) == [greedy[0], modest]
    assert one.prefill.piggybacked(0) == []
    one.prefill.step(decode_s=None, is_alone=False)
    assert one.network.calls == [(1, MAX_PREFILL_BATCH, 1)]
    assert [modest.position, *(request.position for request in greedy)] == [1] * MAX_PREFILL_BATCH + [0] * 4


def test_while_text_is_generated_prompts_take_half_as_long(clock: list[Timed]) -> None:
    step_s = PREFILL_CHUNK_S / 16
    one = bench(clock, Timed(step_s))
    request = one.add(CHUNK)
    one.prefill.step(decode_s=None, is_alone=False)
    assert request.position == 1
    one.prefill.clear()  # nothing is left of the budget
    one.prefill.requests.append(request)
    one.prefill.step(decode_s=step_s, is_alone=False)
    assert request.position == 1, "there is no time yet"
    one.prefill.grant(8.1 * step_s)
    one.prefill.step(decode_s=step_s, is_alone=False)
    assert request.position == 5
    one.prefill.step(decode_s=step_s, is_alone=False)
    assert request.position == 5, "the time is used up"
    one.prefill.grant(2 * step_s)
    one.prefill.step(decode_s=step_s, is_alone=False)
    assert request.position == 6


def test_a_slow_network_reads_in_slices_of_a_bounded_time_and_keeps_the_same_states(
    clock: list[Timed],
) -> None:
    network = Reading(MAX_CALL_S / 10.5)
    one = bench(clock, network)
    request = one.add(5 * CHUNK)
    guessed = int(MAX_CALL_S / (PREFILL_ALONE_S / CHUNK))
    one.prefill.step(decode_s=None, is_alone=True)
    assert network.read_ends[0] == [*range(guessed, CHUNK, guessed), CHUNK]
    one.prefill.step(decode_s=None, is_alone=True)
    assert network.read_ends[1] == [*range(10, CHUNK, 10), CHUNK, *range(CHUNK + 10, 115, 10)]
    assert request.position == request.state[0, 0] == one.counters["read_characters"] == CHUNK + 114
    assert one.cache.match(request.text).length == 2 * CHUNK
