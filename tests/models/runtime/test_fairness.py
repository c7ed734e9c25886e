from nextchar.models.runtime.generation import GenerationRequest, ScheduledRequest
from nextchar.models.runtime.prefill import ARRIVALS_PER_DOUBLING, fair_order
from nextchar.models.runtime.requests import Caller, CompletionRequest
from nextchar.models.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary("ab")


def scheduled(arrival: int, client: str, characters: int, n: int = 1) -> ScheduledRequest:
    options = CompletionRequest(prompt="a", max_characters=characters, n=n, caller=Caller(client))
    request = GenerationRequest(options, VOCABULARY, {"a": 1, "b": 2}, lambda _: None, seed=1)
    request.arrival = arrival
    return request


def order_of(*requests: ScheduledRequest) -> list[int]:
    return [request.arrival for request in fair_order(requests, lambda request: request)]


def test_clients_take_turns() -> None:
    greedy = [scheduled(i, "greedy", 40) for i in range(4)]
    modest = [scheduled(i, "modest", 40) for i in (4, 5)]
    assert order_of(*greedy, *modest) == [0, 4, 1, 5, 2, 3]


def test_oldest_comes_first_and_then_the_shortest() -> None:
    characters = {1: 50, 0: 10_000, 2: 9_000, 3: 40}
    assert order_of(*(scheduled(i, "", count) for i, count in characters.items())) == [0, 1, 3, 2]


def test_completions_of_one_request_count_together() -> None:
    assert order_of(scheduled(0, "", 1), scheduled(1, "", 1_000, n=10), scheduled(2, "", 3_000)) == [0, 2, 1]


def test_work_of_the_same_magnitude_is_served_in_order_of_arrival() -> None:
    assert order_of(*(scheduled(i, "", n) for i, n in enumerate((1, 1_000, 600, 700)))) == [0, 1, 2, 3]


def test_a_long_request_is_not_overtaken_for_ever() -> None:
    oldest, long = scheduled(0, "", 10_000), scheduled(1, "", 1_000)
    short = [scheduled(i, "", 60) for i in range(2, 8 * ARRIVALS_PER_DOUBLING)]
    order = order_of(oldest, long, *short)
    assert order[:2] == [0, 2]
    # A prompt of one character and 1,000 new ones are four powers of two above 61: four times as patient.
    assert order.index(1) == 4 * ARRIVALS_PER_DOUBLING
