"""The policy of the keystroke benchmark, on completers whose answers are obvious; the latency, in short."""

import math
import shutil

import pytest

from benchmarks.suggestion_replay import Continuation, first_word, replay
from tests.benchmarks.test_serving import run

TEXT = "one two three, one two three\n" * 3


class Right:
    """Knows the text, and says so with this much certainty for each character."""

    def __init__(self, certainty: float) -> None:
        self._logprob = math.log(certainty)

    def complete(self, prompt: str) -> Continuation:
        rest = TEXT[len(prompt) :][:40]
        return Continuation(rest, [self._logprob] * len(rest))


class Wrong:
    """Is sure, and never right."""

    def complete(self, prompt: str) -> Continuation:  # noqa: ARG002
        return Continuation("###", [0.0] * 3)


def test_sure_and_right_writes_a_line_with_one_key_and_its_break_with_it_after_the_first() -> None:
    outcome = replay(Right(0.9999), TEXT, context="")
    # A line, a break with what is known of the next, its rest with its break, and two keys for the third.
    assert outcome.keys == 5 and outcome.characters == len(TEXT) and outcome.words == 0
    assert outcome.saved == 1 - outcome.keys / len(TEXT)


def test_wrong_saves_nothing_and_costs_nothing() -> None:
    outcome = replay(Wrong(), TEXT, context="")
    assert outcome.keys == outcome.characters == outcome.shown == outcome.asked and outcome.whole == 0


def test_keys_are_counted_apart_by_whether_the_prefix_is_in_the_training_text() -> None:
    class Twice:
        def complete(self, prompt: str) -> Continuation:
            return Continuation("jkl", [0.0] * 3) if prompt.endswith("abcdefghi") else Continuation("")

    text = "abcdefghijklmnopqr"
    outcome = replay(Twice(), text, context="0123456789", training_text="0123456789abcdefghi")
    # Nine keys, then one for "jkl", whose prefix is known; then six keys after prefixes that are not.
    assert (outcome.seen.characters, outcome.seen.keys) == (12, 10)
    assert (outcome.unseen.characters, outcome.unseen.keys) == (6, 6)
    assert (outcome.characters, outcome.keys) == (len(text), 16) and outcome.unseen.saved == 0


def test_unsure_is_not_shown() -> None:
    outcome = replay(Right(0.3), TEXT, context="")
    assert outcome.shown == 0 and outcome.saved == 0


def test_first_word_is_taken_where_the_rest_is_wrong() -> None:
    class WrongLater:
        def complete(self, prompt: str) -> Continuation:
            rest = TEXT[len(prompt) :]
            word = first_word(rest)
            return Continuation(word + " ###", [0.0] * (len(word) + 4))

    outcome = replay(WrongLater(), "one two three", context="")
    # one,  , t, wo,  , t, hree: what is known to be wrong stays until it has been left
    assert (outcome.whole, outcome.words, outcome.keys) == (0, 3, 7)


def test_latency_is_measured_in_a_browser() -> None:
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on this machine")
    table, found = run("benchmarks.keystroke_latency", "--keys", "3", "--network", "1x16")
    assert found["requests_for_three_characters_along"] == 0 and "p95 ms" in table[0]
    assert found["keys"]["asked"]["keys"] == 3  # type: ignore[index]
