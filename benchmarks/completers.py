"""Sources of suggestions: the service, character n-grams, and the most frequent word."""

import math
import re
from collections import Counter

from benchmarks.suggestion_replay import LONGEST, Continuation
from nextchar import Client
from nextchar.models.text.ngram import NgramModel

_WORDS = re.compile(r"[\w'’]+")
_BEGUN = re.compile(r"[\w'’]+\Z")
_PROMPT = 2000  # characters before the caret; up to twice as many are sent


class Service:
    """A model of a running service, with the requests of the JavaScript client."""

    def __init__(self, client: Client, model: str) -> None:
        self._client, self._model = client, model

    def complete(self, prompt: str) -> Continuation:
        """Return the likeliest character each time."""
        # From a fixed start, so that the service can reuse its cached state.
        start = max(0, (len(prompt) // _PROMPT - 1) * _PROMPT)
        options = {"max_characters": LONGEST, "temperature": 0, "logprobs": 0}
        (choice,) = self._client.complete(self._model, prompt[start:], **options)["completions"]
        return Continuation(choice["text"], [one["logprob"] for one in choice["logprobs"] or ()])


class Ngram:
    """Character n-grams of the same text (`models/text/ngram.py`)."""

    def __init__(self, text: str, *, order: int = 5) -> None:
        self._model = NgramModel.fit(text, order=order)
        self._characters = self._model.vocabulary.characters if self._model.vocabulary else ""
        self._reach = order - 1
        self._likeliest: dict[str, tuple[str, float]] = {}  # by context

    def complete(self, prompt: str) -> Continuation:
        """Return the likeliest character each time."""
        text, logprobs = "", []
        for _ in range(LONGEST):
            character, logprob = self._next((prompt + text)[-self._reach :])
            text += character
            logprobs.append(logprob)
        return Continuation(text, logprobs)

    def _next(self, context: str) -> tuple[str, float]:
        if context not in self._likeliest:
            bits = [float(one[0]) for one in self._model.surprisals([*self._characters], context=context)]
            least = min(bits)
            self._likeliest[context] = self._characters[bits.index(least)], -least * math.log(2)
        return self._likeliest[context]


class FrequentWord:
    """The most frequent word of the training text with the prefix at the caret."""

    def __init__(self, text: str) -> None:
        self._by_beginning: dict[str, str] = {}
        for word, _ in sorted(Counter(_WORDS.findall(text)).items(), key=lambda item: (-item[1], item[0])):
            for end in range(1, len(word)):
                self._by_beginning.setdefault(word[:end], word)

    def complete(self, prompt: str) -> Continuation:
        """Return the rest of the word."""
        begun = _BEGUN.search(prompt[-100:])
        if not begun:
            return Continuation("")
        return Continuation(self._by_beginning.get(begun[0], begun[0])[len(begun[0]) :])
