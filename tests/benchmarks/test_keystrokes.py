"""The policy of the keystroke benchmark, on completers whose answers are obvious; the latency, in short."""

import math
import shutil

import pytest

from benchmarks.completers import FrequentWord, Ngram
from benchmarks.suggestion_replay import Continuation, Suggestions, first_word, likely_length, replay
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


def test_sure_and_right_writes_a_line_with_one_key() -> None:
    outcome = replay(Right(0.9999), TEXT, context="")
    # Its answers are 40 characters, which end in the next line; the line break goes with what follows.
    assert outcome.keys < 10 and outcome.characters == len(TEXT) and outcome.words == 0
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


def test_length_is_where_most_keys_can_be_expected_to_be_saved() -> None:
    sure, doubt = math.log(0.99), math.log(0.3)
    assert likely_length([sure] * 5 + [doubt] * 5) == 5
    assert likely_length([doubt] * 10) == likely_length([]) == 0
    assert likely_length([sure]) == 0, "one character saves nothing"


def test_a_suggestion_ends_where_the_rest_is_better_suggested_next() -> None:
    sure, doubt = math.log(0.9), math.log(0.5)
    logprobs = [sure] * 5 + [doubt] + [0.0] * 9
    assert likely_length(logprobs) == 5, "all 15 save 4.1 keys; the first 5 save 2.4, and then the rest 2.7"
    assert likely_length(logprobs[5:]) == 10
    assert likely_length([sure] * 2 + [math.log(0.6)] + [0.0] * 9) == 12, "5.3 keys; divided 0.8 and 4.4"


def test_more_is_shown_to_a_user_who_accepts_words() -> None:
    sure, doubt = math.log(0.9), math.log(0.3)
    logprobs = [sure] * 5 + [doubt] + [sure] * 2
    assert likely_length(logprobs) == 5
    assert likely_length(logprobs, 5) == 8, "the first five can be accepted alone"
    assert likely_length(logprobs, 1) == 5, "one character saves nothing"

    class DoubtfulLater:
        def complete(self, prompt: str) -> Continuation:
            rest = TEXT[len(prompt) :][:8]
            return Continuation(rest, [sure] * 3 + [0.0 if len(prompt) < 4 else doubt] + [sure] * 4)

    def shown_at_last(*prompts: str) -> str:
        suggestions = Suggestions(DoubtfulLater())
        return [suggestions.after(prompt) for prompt in prompts][-1]

    assert shown_at_last("", "one two ", "one two t", "one two three, ") == "one"
    assert shown_at_last("", "one", "one two three, ") == "one two ", "the first word of what was shown"


def test_less_is_shown_to_a_user_who_accepts_less() -> None:
    pair = [math.log(0.9), math.log(0.3 / 0.9)]  # is expected to save 0.3 keys
    assert [likely_length(pair, 1, acceptance) for acceptance in (0.3, 0.4, 1.0)] == [0, 2, 2]

    class Doubtful:
        def complete(self, prompt: str) -> Continuation:
            return Continuation(TEXT[len(prompt) :][:2], pair)

    keen, some, none = (replay(Doubtful(), TEXT, context="", accepts=share) for share in (1.0, 0.5, 0.0))
    assert keen.shown == keen.right == keen.whole > 40 and keen.saved > 0.4
    assert 0 < some.whole < some.shown and 0 < some.saved < keen.saved
    assert 0 < none.shown < some.shown / 2 and none.saved == 0


def test_wrong_suggestions_do_not_change_what_is_shown() -> None:
    pair = [math.log(0.9), math.log(0.3 / 0.9)]

    class Often:
        def complete(self, prompt: str) -> Continuation:
            return Continuation("##" if len(prompt) < 60 else TEXT[len(prompt) :][:2], pair)

    suggestions = Suggestions(Often())
    assert all(suggestions.after(TEXT[:end]) for end in range(60))
    typed = [suggestions.after(TEXT[:end]) for end in range(60, 80)]
    assert typed[0] and not typed[-1], "right suggestions that are not accepted do"


def test_ngram_goes_on_with_what_it_has_seen() -> None:
    found = Ngram("abcdefgh\n" * 50).complete("xabc")
    assert found.text.startswith("defgh\nabc") and math.exp(found.logprobs[0]) > 0.9  # type: ignore[index]


def test_frequent_word_is_the_most_frequent_with_that_beginning() -> None:
    completer = FrequentWord("then the the theory")
    assert completer.complete("so th").text == "e" and completer.complete("so then").text == ""
    assert completer.complete("so theo").text == "ry" and completer.complete("so ").text == ""


def test_latency_is_measured_in_a_browser() -> None:
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on this machine")
    table, found = run("benchmarks.keystroke_latency", "--keys", "3", "--network", "1x16")
    assert found["requests_for_three_characters_along"] == 0 and "p95 ms" in table[0]
    assert found["keys"]["asked"]["keys"] == 3  # type: ignore[index]
