from models.runtime.fairness import by_turns
from models.runtime.requests import CompletionRequest
from models.runtime.sequences import CompletionJob, Job
from models.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary("ab")


def job(number: int, client: str, characters: int, n: int = 1) -> Job:
    request = CompletionRequest(prompt="a", max_characters=characters, n=n, client=client)
    made = CompletionJob(request, VOCABULARY, {"a": 1, "b": 2}, lambda _: None, seed=1)
    made.number = number
    return made


def served(*jobs: Job) -> list[int]:
    return [one.number for one in by_turns(jobs, lambda one: one)]


def test_clients_take_turns() -> None:
    assert served(*(job(i, "greedy", 40) for i in range(4)), job(4, "modest", 40), job(5, "modest", 40)) == [
        0,
        4,
        1,
        5,
        2,
        3,
    ]


def test_oldest_comes_first_and_then_the_shortest() -> None:
    assert served(job(1, "", 50), job(0, "", 10_000), job(2, "", 9_000), job(3, "", 40)) == [0, 1, 3, 2]


def test_completions_of_one_request_count_together() -> None:
    assert served(job(0, "", 1), job(1, "", 1_000, n=10), job(2, "", 3_000)) == [0, 2, 1]


def test_work_of_the_same_magnitude_is_served_in_the_order_of_arrival() -> None:
    assert served(job(0, "", 1), job(1, "", 1_000), job(2, "", 600), job(3, "", 700)) == [0, 1, 2, 3]
