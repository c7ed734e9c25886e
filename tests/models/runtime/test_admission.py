"""How many requests may wait for a model and run there, and of which clients."""

import pytest

from nextchar.models.errors import Busy
from nextchar.models.runtime.generation import GenerationRequest
from nextchar.models.runtime.prefill import MAX_RUNNING, MAX_SHORT_CHARACTERS, Backlog
from nextchar.models.runtime.requests import Caller, CompletionRequest
from nextchar.models.text.vocabulary import Vocabulary

LONG = MAX_SHORT_CHARACTERS + 1


def request(client: str = "a", characters: int = LONG) -> GenerationRequest:
    options = CompletionRequest(prompt="a", max_characters=characters, caller=Caller(client))
    return GenerationRequest(options, Vocabulary("ab"), {"a": 1, "b": 2}, lambda _: None, seed=1)


def waiting(backlog: Backlog, *requests: GenerationRequest) -> list[GenerationRequest]:
    """Requests that the scheduler's thread has received."""
    for one in requests:
        backlog.reserve(one)
        backlog.requests.append(one)
    return [*requests]


def is_refused(backlog: Backlog, one: GenerationRequest) -> bool:
    before = backlog.waiting
    try:
        backlog.reserve(one)
    except Busy:
        assert backlog.waiting == before
        return True
    assert backlog.waiting == before + 1
    return False


def test_short_requests_have_room_when_long_ones_have_none() -> None:
    backlog = Backlog(max_waiting=16, name="m")
    assert [is_refused(backlog, request()) for _ in range(13)] == [False] * 12 + [True]
    short = [request(characters=MAX_SHORT_CHARACTERS) for _ in range(5)]
    assert [is_refused(backlog, one) for one in short] == [False] * 4 + [True]


def test_clients_with_few_requests_are_accepted_until_twice_as_many_wait() -> None:
    backlog = Backlog(max_waiting=32, name="m")
    for _ in range(32):
        backlog.reserve(request("greedy", 1))
    assert is_refused(backlog, request("greedy", 1))
    modest = [is_refused(backlog, request("modest")) for _ in range(3)]
    assert modest == [False, False, True]  # of 32, a sixteenth
    others = [is_refused(backlog, request(str(number))) for number in range(31)]
    assert others == [False] * 30 + [True]


@pytest.mark.parametrize(
    ("service_s", "retry_after_s"), [(0.0, 0.1), (40.01, 2.01 * (3 + MAX_RUNNING) / MAX_RUNNING), (1e6, 30)]
)
def test_retry_after_grows_with_the_requests_that_wait_and_how_long_one_takes(
    service_s: float, retry_after_s: float
) -> None:
    backlog = Backlog(max_waiting=3, name="m")
    backlog.observe(service_s)
    waiting(backlog, *(request(characters=1) for _ in range(3)))
    with pytest.raises(Busy, match=r"^3 requests are waiting for model m$") as caught:
        backlog.reserve(request())
    assert caught.value.retry_after_s == pytest.approx(retry_after_s)


def test_short_requests_and_clients_below_their_share_are_admitted_beyond_the_limit() -> None:
    backlog = Backlog(max_waiting=100, name="m")
    running = [request("a") for _ in range(MAX_RUNNING)]
    long, short, other = waiting(backlog, request("a"), request("a", MAX_SHORT_CHARACTERS), request("b"))
    assert set(backlog.admit(running)) == {short, other}
    assert backlog.requests == [long]


def test_no_more_than_twice_as_many_run() -> None:
    backlog = Backlog(max_waiting=100, name="m")
    short = waiting(backlog, *(request(characters=1) for _ in range(MAX_RUNNING + 3)))
    assert backlog.admit([request(characters=1) for _ in range(MAX_RUNNING)]) == short[:MAX_RUNNING]
    assert backlog.admit([request(characters=1) for _ in range(2 * MAX_RUNNING - 1)]) == short[-3:-2]
    assert backlog.admit([request(characters=1) for _ in range(2 * MAX_RUNNING)]) == []
