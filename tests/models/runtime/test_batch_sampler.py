"""How the sequences of a batch take characters: one by one, and several that the network has chosen."""

import math
from typing import Any

import numpy as np
import pytest

from nextchar.models.runtime import decode as module
from nextchar.models.runtime.decode import BatchSampler
from nextchar.models.runtime.generation import GenerationRequest, Sequence
from nextchar.models.runtime.requests import CompletionRequest, Event, Finished, Piece
from nextchar.models.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary("abcd")
V = len(VOCABULARY)
ID_OF = {character: i for i, character in enumerate(VOCABULARY.characters, 1)}
P = np.array([7, 4, 2, 1, 1], np.float32)  # of id 0 and the four characters; of these a half, a quarter, ...


class Batch:
    """Sequences of one request each, and their events."""

    def __init__(self, *options: dict[str, Any], prompt: str = "x") -> None:
        self.events: list[list[Event]] = []
        self.sequences: list[Sequence] = []
        for one in options:
            events: list[Event] = []
            asked = CompletionRequest(prompt=prompt, **{"temperature": 0.0, "max_characters": 9} | one)
            request = GenerationRequest(asked, VOCABULARY, ID_OF, events.append, seed=1)
            self.sequences += request.begin(np.log(P), np.zeros((1, 1), np.float32))
            self.events.append(events)
        self.sampler = BatchSampler(self.sequences, V)

    def choose(self, *likeliest: str) -> list[int]:
        """Let each sequence take a character by logits of which this one is the likeliest."""
        logits = np.log(np.tile(P, (len(self.sequences), 1)))
        for row, character in enumerate(likeliest[: len(logits)]):
            first = ID_OF["a"]
            logits[row, [first, ID_OF[character]]] = logits[row, [ID_OF[character], first]]
        return self.sampler.choose(logits)

    def text(self, index: int) -> str:
        return "".join(event.text for event in self.events[index] if isinstance(event, Piece))

    def finished(self, index: int) -> Finished | None:
        found = [event for event in self.events[index] if isinstance(event, Finished)]
        return found[0] if found else None


@pytest.mark.parametrize("count", [1, 2])
def test_sequences_take_the_characters_of_their_row_until_they_finish(count: int) -> None:
    batch = Batch(*[{"max_characters": 2 + index} for index in range(count)])
    assert batch.choose("b", "c") == []
    assert [batch.text(index) for index in range(count)] == ["b", "c"][:count]
    assert batch.choose("a", "a") == [0]
    assert batch.finished(0) == Finished(0, "length", pytest.approx(2.0), 2)
    if count > 1:
        assert batch.finished(1) is None
        assert batch.choose("d", "d") == [1]
        assert batch.finished(1) == Finished(0, "length", pytest.approx(3.0), 3)


def test_log_probabilities_are_computed_for_many_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, at_once in ((1, 3), (2, 3), (1, 1)):
        monkeypatch.setattr(module, "MAX_PENDING_LOGITS", at_once * count * V if at_once > 1 else 1)
        batch = Batch(*[{}] * count)
        seen = []
        for _ in range(7):
            batch.choose("a", "b")
            seen.append(len(batch.sequences[0].logprobs))
        assert seen == [n // at_once * at_once for n in range(1, 8)]
        batch.sampler.flush()
        for sequence in batch.sequences:
            assert sequence.logprobs == pytest.approx([math.log(0.5)] * 7)
        batch.sampler.flush()
        assert len(batch.sequences[0].logprobs) == 7


def test_a_completion_that_is_unsure_finishes_without_a_character() -> None:
    batch = Batch({"until": "confidence", "confidence_bits": 1.7}, {"until": "confidence"}, {})
    assert batch.choose("b", "b", "b") == [0]  # the entropy is 1.75 bits
    assert batch.finished(0) == Finished(0, "confidence", 0.0, 0)
    assert [batch.text(index) for index in range(3)] == ["", "b", "b"]
    single = Batch({"until": "confidence", "confidence_bits": 1.7})
    assert single.choose("b") == [0]
    assert single.finished(0) == Finished(0, "confidence", 0.0, 0)


@pytest.mark.parametrize("others", [0, 1])
def test_biases_and_penalties_change_the_choice_of_their_row_and_no_log_probability(others: int) -> None:
    batch = Batch({"frequency_penalty": 1.0}, *[{}] * others)
    for _ in range(3):
        batch.choose("a", "a")
    batch.sampler.flush()
    assert batch.text(0) == "aba"  # halved by 2.7 each time it is used: .5 .25, .18 .25, .18 .09
    assert batch.sequences[0].logprobs == pytest.approx(np.log([0.5, 0.25, 0.5]))
    if others:
        assert batch.text(1) == "aaa"


@pytest.mark.parametrize("others", [0, 1])
def test_a_run_is_not_repeated_unless_every_character_would_repeat_one(others: int) -> None:
    batch = Batch({"no_repeat": 2}, *[{}] * others, prompt="ba")
    for _ in range(4):
        batch.choose("a", "a")
    whole = "ba" + batch.text(0)
    runs = [whole[i : i + 2] for i in range(len(whole) - 1)]
    assert len(set(runs)) == len(runs)
    if others:
        assert batch.text(1) == "aaaa"
    forced = Batch({"no_repeat": 1}, prompt="abcd")
    forced.choose("c")
    assert forced.text(0) == "c", "something has to be chosen"
    last = Batch({"no_repeat": 1}, prompt="abc")
    last.choose("a")
    assert last.text(0) == "d"


def test_the_network_chooses_ahead_only_where_it_can() -> None:
    assert Batch({}, {"max_characters": 3}).sampler.max_ahead == 3
    assert Batch({"temperature": 1.0}).sampler.max_ahead == 9
    for special in (
        {"until": "confidence"},
        {"no_repeat": 3},
        {"presence_penalty": 1.0},
        {"top_k": 2, "temperature": 1.0},
    ):
        assert Batch({}, special).sampler.max_ahead == 0


def test_the_network_chooses_no_more_than_may_be_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_LOGITS", 5 * 2 * V)
    assert Batch({}, {}).sampler.max_ahead == 5


def test_random_numbers_are_those_of_each_sequence() -> None:
    batch = Batch({"temperature": 0.5}, {"temperature": 0.0}, {"temperature": 2.0})
    inverse_temperature, uniforms = batch.sampler.sampling(4)
    assert inverse_temperature.tolist() == [2.0, 0.0, 0.5]
    assert uniforms.shape == (4, 3) and uniforms.flags.c_contiguous
    expected = [sequence.next_uniforms(4) for sequence in batch.sequences]
    assert uniforms.T.tolist() == expected and expected[1] == [0.0] * 4


@pytest.mark.parametrize("stop", [(), ("db",)])
def test_characters_that_the_network_has_chosen_are_taken(stop: tuple[str, ...]) -> None:
    batch = Batch({"stop": stop}, {"max_characters": 3})
    logits = np.log(np.tile(P, (3, 2, 1)))
    chosen = np.array(
        [[ID_OF["a"], ID_OF["b"]], [ID_OF["d"], ID_OF["b"]], [ID_OF["b"], ID_OF["c"]]], np.int32
    )
    finished = batch.sampler.take_ahead(logits, chosen)
    assert finished == ([0, 1] if stop else [1])
    assert batch.finished(1) == Finished(0, "length", pytest.approx(2 + 2 + 3), 3)
    assert batch.text(1) == "bbc"
    if stop:
        assert batch.finished(0) == Finished(0, "stop", pytest.approx(1.0), 1)
        assert batch.text(0) == "a"
    else:
        assert batch.finished(0) is None
        assert batch.sequences[0].logprobs == pytest.approx(np.log([1 / 2, 1 / 8, 1 / 4]))
