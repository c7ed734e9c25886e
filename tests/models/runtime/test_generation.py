"""What a request reads, and what its completions send, without a network."""

import math
from typing import Any

import numpy as np
import pytest

from nextchar.models.runtime.decoding import MAX_NO_REPEAT_CONTEXT, uniforms
from nextchar.models.runtime.generation import UNIFORMS, GenerationRequest
from nextchar.models.runtime.generation import Sequence as Completion
from nextchar.models.runtime.requests import CompletionRequest, Event, Finished, Piece, Usage
from nextchar.models.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary("\n abc")
ID_OF = {character: i for i, character in enumerate(VOCABULARY.characters, 1)}
LOGITS = np.log(np.array([7, 1, 1, 2, 3, 1], np.float32))  # of id 0 and the five characters
STATE = np.zeros((1, 1), np.float32)


def request(prompt: str = "ab", *, starts_line: bool = False, seed: int = 1, **options: Any) -> tuple[
    GenerationRequest, list[Event]
]:  # fmt: skip
    events: list[Event] = []
    asked = CompletionRequest(prompt=prompt, **options)
    made = GenerationRequest(asked, VOCABULARY, ID_OF, events.append, seed=seed, starts_line=starts_line)
    return made, events


def begun(**options: Any) -> tuple[list[Completion], list[Event]]:
    made, events = request(**options)
    return made.begin(LOGITS, STATE), events


def bits(count: int) -> Any:
    return pytest.approx(float(count))


def take(completion: Completion, text: str) -> str | None:
    """Take characters, each of a probability of a half; return the finish reason."""
    for character in text:
        completion.logprobs.append(math.log(0.5))
        if reason := completion.append(ID_OF[character], LOGITS):
            return reason
    return None


@pytest.mark.parametrize(
    ("prompt", "starts_line", "text"),
    [
        ("ab", False, "ab"), ("", False, "\n"), ("", True, "\n"),
        ("ab", True, "\nab"), ("\nab", True, "\nab"), ("\nab", False, "\nab"),
    ],
)  # fmt: skip
def test_an_empty_prompt_and_that_of_records_is_read_from_the_start_of_a_line(
    prompt: str, starts_line: bool, text: str
) -> None:
    made, events = request(prompt, starts_line=starts_line)
    assert made.text == text
    made.cached = 1
    made.end()
    added = len(text) - len(prompt)
    assert events == [Usage(len(prompt), max(0, 1 - added), 0)]


def test_ids_of_a_prompt_are_read_in_turn_and_unknown_characters_are_0() -> None:
    made, _ = request("a?cb")
    assert made.next_ids(2) == [ID_OF["a"], 0]
    made.position = 2
    assert made.next_ids(5) == [ID_OF["c"], ID_OF["b"]]


def test_remaining_work_is_what_may_still_be_read_and_generated() -> None:
    made, _ = request("abc", n=3, max_characters=10)
    assert (made.max_new_characters, made.remaining_work) == (30, 33)
    made.position = 2
    assert made.remaining_work == 31
    first, second, _ = made.begin(LOGITS, STATE)
    take(first, "abca")
    assert (first.remaining, made.max_new_characters, made.remaining_work) == (6, 26, 27)
    second.finish("stop")
    assert made.max_new_characters == 16
    assert request(n=2, beam=5, max_characters=10)[0].max_new_characters == 50
    assert request(n=1, max_characters=10)[0].max_new_characters == 10


def test_what_a_stop_string_may_cut_off_is_held_back() -> None:
    [completion], events = begun(max_characters=9, stop=("bca",))
    take(completion, "ab")
    assert events == [Piece(0, "a")]
    take(completion, "cc")
    assert events == [Piece(0, "a"), Piece(0, "bcc")]
    assert take(completion, "bca") == "stop"
    completion.finish("stop")
    assert events[2:] == [Finished(0, "stop", bits(4), 4)], "bits are of the characters that were sent"


def test_a_stop_at_the_last_character_is_a_stop() -> None:
    [completion], events = begun(max_characters=3, stop=("c",))
    assert take(completion, "abc") == "stop"
    completion.finish("stop")
    assert "".join(e.text for e in events if isinstance(e, Piece)) == "ab"


@pytest.mark.parametrize("options", [{}, {"stream": False}, {"stop": ("cc",)}, {"logprobs": 1}])
def test_taking_many_characters_is_taking_each(options: dict[str, Any]) -> None:
    text = "abcabcab"
    [one], events = begun(max_characters=8, **options)
    [other], others = begun(max_characters=8, **options)
    assert take(one, text) == "length"
    ids = [ID_OF[character] for character in text]
    other.logprobs = [math.log(0.5)] * 8
    assert other.extend(ids[:3], np.tile(LOGITS, (3, 1))) is None
    assert (other.last_id, other.remaining) == (ids[2], 5)
    assert other.extend(ids[3:], np.tile(LOGITS, (5, 1))) == "length"
    assert other.last_id == one.last_id == ids[-1]
    for completion in (one, other):
        completion.finish("length")
    for found in (events, others):
        assert "".join(e.text for e in found if isinstance(e, Piece)) == text
        described = [one.character for e in found if isinstance(e, Piece) for one in e.logprobs]
        assert "".join(described) == (text if "logprobs" in options else "")
    assert events[-1] == others[-1] == Finished(0, "length", bits(8), 8)


def test_random_numbers_are_those_of_the_position_however_they_are_taken() -> None:
    count = 3 * UNIFORMS
    expected = uniforms(9, 2, 0, count).tolist()
    for step in (1, 7, UNIFORMS, UNIFORMS + 1, count):
        completion = begun(seed=9, n=3, max_characters=count)[0][2]
        for at in range(0, count, step):
            size = min(step, count - at)
            assert completion.next_uniform() == expected[at]
            assert completion.next_uniforms(size) == expected[at : at + size]
            assert completion.next_uniform() == expected[at]
            completion.extend([1] * size, np.tile(LOGITS, (size, 1)))
    [greedy], _ = begun(temperature=0.0)
    assert greedy.next_uniform() == 0 and greedy.next_uniforms(3) == [0, 0, 0]


def test_what_must_not_be_repeated_is_the_end_of_the_prompt_and_the_completion() -> None:
    prompt = "bca" + "b" * (MAX_NO_REPEAT_CONTEXT - 1)  # without its first two characters
    completions, _ = begun(prompt=prompt, no_repeat=3, n=2, max_characters=9)

    def banned(completion: Completion) -> set[int]:
        assert completion.adjustment and completion.adjustment.no_repeat
        return set(completion.adjustment.no_repeat.banned())

    assert [banned(completion) for completion in completions] == [{ID_OF["b"]}] * 2
    take(completions[0], "c")
    assert banned(completions[0]) == set()
    take(completions[0], "abb")
    assert banned(completions[0]) == {ID_OF["b"], ID_OF["c"]}
    assert banned(completions[1]) == {ID_OF["b"]}
    assert begun(prompt=prompt)[0][0].adjustment is None
