"""`benchmarks/suggestion_replay.py` replays what the module for pages does: what is shown, what a word is."""

import json
import random
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from benchmarks import suggestion_replay
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
        ([-chance.expovariate(4) for _ in range(chance.randrange(40))], chance.randrange(10), chance.random())
        for _ in range(200)
    ]
    lengths = [likely_length(*case) for case in cases]
    assert in_browser(visit, "return given.map((one) => m.likelyLength(...one))", cases) == lengths
    without = [likely_length(logprobs) for logprobs, _, _ in cases]
    assert in_browser(visit, "return given.map(([logprobs]) => m.likelyLength(logprobs))", cases) == without
    assert len(set(lengths)) > 10 and lengths != without


def test_the_same_word_is_taken(visit: Visit) -> None:
    chance = random.Random(2)
    cases = ["".join(chance.choices("ab3_'’é .,->\n", k=8)) for _ in range(300)]
    assert in_browser(visit, "return given.map(m.firstWord)", cases) == [first_word(one) for one in cases]


class Recited:
    """Goes on as the alphabet does, sure of some letters."""

    def __init__(self) -> None:
        self.answers: dict[str, Continuation] = {}

    def complete(self, prompt: str) -> Continuation:
        """Go on from the last letter."""
        chance = random.Random(prompt)
        text = (LETTERS * 2)[LETTERS.index(prompt[-1]) + 1 :][:12]
        logprobs = [-chance.expovariate(1 + i) for i in range(len(text))]
        self.answers[prompt] = Continuation(text, logprobs)
        return self.answers[prompt]


LETTERS = "abc defghij klm nopqrs\ntuvwxyz "


@pytest.mark.parametrize("accepts", [0.0, 0.5, 1.0])
def test_the_same_is_shown_while_a_text_is_written(
    visit: Visit, accepts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(1)
    recited = Recited()
    suggestions = Suggestions(recited)
    typed, expected = ["a"], list[str]()
    for _ in range(300):
        text = suggestions.after(typed[-1])
        expected.append(text)
        if text and chance.random() < accepts:
            key = chance.choice([text, first_word(text)])
        else:
            following = (LETTERS * 2)[LETTERS.index(typed[-1][-1]) + 1]
            key = following if chance.random() < 0.9 else "x"
        typed.append(typed[-1] + key)
    typed.pop()
    known = {
        prompt: {"text": answer.text, "logprobs": [{"logprob": one} for one in answer.logprobs or ()]}
        for prompt, answer in recited.answers.items()
    }
    shown = in_browser(
        visit,
        """const client = { complete: async (_, prompt) => ({ completions: [given.known[prompt]] }) };
        const suggester = new m.Suggester(client, 'any', { debounce: 0 });
        const shown = [];
        for (const prompt of given.typed) {
          suggester.recall(prompt);  // as a page does, before it waits for the suggestion
          shown.push(await suggester.suggest(prompt));
        }
        return shown;""",
        {"known": known, "typed": typed},
    )
    assert shown == expected, json.dumps(shown)
    assert suggestions.asked < 0.8 * len(typed)
    monkeypatch.setattr(suggestion_replay, "LEARNING_RATE", 0)
    unchanging = Suggestions(recited)
    assert [unchanging.after(prompt) for prompt in typed] != expected
