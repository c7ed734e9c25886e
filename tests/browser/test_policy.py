"""`benchmarks/suggestion_replay.py` replays what the module for pages does: what is shown, what a word is."""

import json
import random
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from benchmarks.suggestion_replay import Continuation, Suggestions, first_word, likely_length

Visit = Callable[[str], Page]


def in_browser(visit: Visit, body: str, argument: object) -> object:
    """Return what a function's body makes of `given`, with the module's exports in `m`."""
    return visit("").evaluate(
        f"async (given) => {{ const m = await import('/clients/js/nextchar.js'); {body} }}", argument
    )


def test_the_same_length_is_shown(visit: Visit) -> None:
    chance = random.Random(1)
    cases = [
        ([-chance.expovariate(4) for _ in range(chance.randrange(40))], chance.randrange(10))
        for _ in range(200)
    ]
    lengths = [likely_length(logprobs, word) for logprobs, word in cases]
    assert in_browser(visit, "return given.map((one) => m.likelyLength(...one))", cases) == lengths
    without = [likely_length(logprobs) for logprobs, _ in cases]
    assert in_browser(visit, "return given.map(([logprobs]) => m.likelyLength(logprobs))", cases) == without
    assert len(set(lengths)) > 10 and lengths != without


def test_the_same_word_is_taken(visit: Visit) -> None:
    chance = random.Random(2)
    cases = ["".join(chance.choices("ab3_'’é .,->\n", k=8)) for _ in range(300)]
    assert in_browser(visit, "return given.map(m.firstWord)", cases) == [first_word(one) for one in cases]


class Recited:
    """Goes on as the alphabet does, surer of the first letters than of the later ones."""

    def complete(self, prompt: str) -> Continuation:
        """Go on from the last letter."""
        text = "abcdefghijklmnopqrstuvwxyz\n abc"[ord(prompt[-1]) - ord("a") + 1 :][:12]
        return Continuation(text, [-0.05 * i for i in range(len(text))])


@pytest.mark.parametrize("accepts_words", [False, True])
def test_the_same_is_shown_while_a_text_is_typed(visit: Visit, accepts_words: bool) -> None:
    typed = ["a", "ab", "abc", "abx", "abxy", "abxyz", "abxyzb"] + [
        "abxyzb" + "cdefghijklmno"[:i] for i in range(13)
    ]
    recited = Recited()
    answers = {prompt: recited.complete(prompt) for prompt in typed}
    known = {
        p: {"text": a.text, "logprobs": [{"logprob": one} for one in a.logprobs or ()]}
        for p, a in answers.items()
    }
    shown = in_browser(
        visit,
        """const client = { complete: async (_, prompt) => ({ completions: [given.known[prompt]] }) };
        const suggester = new m.Suggester(client, 'any');
        suggester.acceptsWords = given.acceptsWords;
        const shown = [];
        for (const prompt of given.typed) shown.push(await suggester.suggest(prompt));
        return shown;""",
        {"known": known, "typed": typed, "acceptsWords": accepts_words},
    )
    suggestions = Suggestions(recited)
    suggestions.accepts_words = accepts_words
    assert shown == [suggestions.after(prompt) for prompt in typed], json.dumps(shown)
    assert suggestions.asked < len(typed) / 2
