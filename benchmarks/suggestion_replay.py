"""Keystrokes saved by suggestions: replays the behavior of `clients/js` for a user who is never wrong.

Suggestions: after each key the completer returns a continuation of up to 40 characters with
log-probabilities. The prefix that is expected to save the most keys (`likely_length`) is shown, up to the end
of a line, with its break if the text has one before. It stays while the user types along it; the rest of the
answer is used before the next request.
The fewer right suggestions the user has accepted, the more keys a suggestion must save (`ACCEPTANCE`).

The user: Tab accepts the suggestion, Ctrl + right arrow its first word (`first_word`); each is one key, as is
each character typed. The user knows the text, and accepts all if it is correct, else the first word if that
is correct and longer than one character, else types a character. With `accepts` below 1 the user accepts only
this fraction of the suggestions that could be accepted, and types along the others. Once the user has
accepted a word, the suggestions are those for a user who does. Real users are less attentive, so the figures
are upper bounds, for comparing completers.

    saved = 1 - keys / characters

A lookup table can be right only where it knows the prefix. So characters and keys are also counted apart by
whether the prefix occurs in the training text: the line up to the caret with the newline before it, of which
at most the last SEEN_LENGTH characters count.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

LONGEST = 40  # characters that a completer is asked for
MIN_SAVED_KEYS = 0.1  # expected for this user, for a suggestion to be shown
ACCEPTANCE = 0.5  # at first: the fraction of right suggestions that the user accepts, a moving average
MIN_ACCEPTANCE = 0.05  # to which it falls, so that something is shown still
LEARNING_RATE = 0.1  # of the acceptance
SEEN_LENGTH = 12  # characters of a prefix that is looked up in the training text

_WORD = re.compile(r"\s*(?:[\w'’]+|[^\s\w'’]+)")
_LINE = re.compile(r"\s*[^\r\n]*")


@dataclass(frozen=True)
class Continuation:
    """A continuation. Without log-probabilities (natural, one per character) all of it is shown."""

    text: str
    logprobs: Sequence[float] | None = None


class Completer(Protocol):
    """A source of suggestions."""

    def complete(self, prompt: str) -> Continuation:
        """Return a continuation of `prompt`."""


@dataclass
class Keys:
    """Characters, and the keys that wrote them."""

    characters: int = 0
    keys: int = 0

    @property
    def saved(self) -> float:
        """The share of keys that suggestions saved; 0 without characters."""
        return 1 - self.keys / self.characters if self.characters else 0.0


@dataclass
class Outcome(Keys):
    """The result of writing a text; `seen` and `unseen` are its parts by prefix."""

    seen: Keys = field(default_factory=Keys)
    unseen: Keys = field(default_factory=Keys)
    shown: int = 0  # new suggestions
    right: int = 0  # of these, those that are correct as a whole
    whole: int = 0  # accepted by Tab
    words: int = 0  # accepted by Ctrl + right arrow
    asked: int = 0  # requests to the completer


def replay(
    completer: Completer,
    text: str,
    *,
    context: str,
    training_text: str = "",
    worth: float = MIN_SAVED_KEYS,
    accepts: float = 1.0,
    seed: int = 1,
) -> Outcome:
    """Write `text`, which follows `context`, with the suggestions of `completer`."""
    outcome = Outcome()
    suggestions = Suggestions(completer, context=context, worth=worth)
    chance = random.Random(seed)
    is_accepted = False
    at = 0
    while at < len(text):
        shown = suggestions.after(text[:at])
        if suggestions.shown > outcome.shown:  # a new one
            outcome.shown = suggestions.shown
            outcome.right += text.startswith(shown, at)
            is_accepted = chance.random() < accepts
        if is_accepted and shown and text.startswith(shown, at):
            taken = shown
            outcome.whole += 1
        elif is_accepted and (word := first_word(shown)) and len(word) > 1 and text.startswith(word, at):
            taken = word
            outcome.words += 1
        else:
            taken = text[at]
        before = (context + text[:at])[-SEEN_LENGTH:]
        is_seen = before[max(0, before.rfind("\n")) :] in training_text
        for part in (outcome, outcome.seen if is_seen else outcome.unseen):
            part.characters += len(taken)
            part.keys += 1
        at += len(taken)
    outcome.asked = suggestions.asked
    return outcome


class Suggestions:
    """The suggestion after a text, as in `Suggester` of the JavaScript client."""

    def __init__(self, completer: Completer, *, context: str = "", worth: float = MIN_SAVED_KEYS) -> None:
        self._completer, self._context, self._worth = completer, context, worth
        self._prompt, self._known = "", Continuation("")
        self._typed = self._end = 0  # characters of what is known that are typed, and that are shown
        self._acceptance, self._accepts_words = ACCEPTANCE, False
        self.shown = self.asked = 0

    def after(self, prompt: str) -> str:
        """Return the suggestion after `prompt`, or "". Several characters at once have been accepted."""
        known = self._recall(prompt)
        if known is None:
            self._prompt, self._known = prompt, self._completer.complete(self._context + prompt)
            self._typed = self._end = 0
            self.asked += 1
            known = self._recall(prompt) or ""
        return known

    def _recall(self, prompt: str) -> str | None:
        typed = prompt[len(self._prompt) :]
        if not (self.asked and prompt.startswith(self._prompt) and self._known.text.startswith(typed)):
            return None
        self._learn(len(typed))
        if len(typed) >= self._end:
            self._end = self._cut(len(typed))
            self.shown += self._end > len(typed)
        if typed and self._end <= len(typed):
            return None
        return self._known.text[len(typed) : self._end]

    def _learn(self, typed: int) -> None:
        """See whether what was shown is accepted now, or typed to its end."""
        is_accepted, is_part = typed > self._typed + 1, typed < self._end
        if self._typed < self._end and (is_accepted or not is_part):
            self._acceptance += LEARNING_RATE * ((1 if is_accepted else MIN_ACCEPTANCE) - self._acceptance)
            self._accepts_words = self._accepts_words or is_part
        self._typed = typed

    def _cut(self, start: int) -> int:
        text, logprobs = self._known.text, self._known.logprobs
        line = _LINE.match(text, start)
        end = line.end() if line else start
        if text[end : end + 1] == "\n" and "\n" in self._context + self._prompt + text[:start]:
            end += 1
        if logprobs is None:
            return end
        word = len(first_word(text[start:end])) if self._accepts_words else 1
        return start + likely_length(logprobs[start:end], word, self._acceptance, worth=self._worth)


def likely_length(
    logprobs: Sequence[float],
    word_length: int = 1,
    acceptance: float = ACCEPTANCE,
    *,
    worth: float = MIN_SAVED_KEYS,
) -> int:
    """Return how many characters to show, so that the expected number of saved keys is highest.

    Accepting n characters costs one key, so it saves n - 1, if all of them are right. For a user who accepts
    words, the first word saves `word_length` - 1 if only it is right. Keys that later suggestions from the
    same answer save count too: it is divided where that saves the most, and the first part is returned, or 0
    if this part itself saves less than `worth` keys, for a user of this `acceptance`.

    >>> likely_length([math.log(0.9)] * 3), likely_length([math.log(0.1)] * 3)
    (3, 0)
    >>> doubtful = [math.log(0.9)] * 5 + [math.log(0.3), *[0.0] * 4]
    >>> likely_length(doubtful), likely_length(doubtful, 5)
    (5, 10)
    """
    chances = [math.exp(logprob) for logprob in logprobs]
    best, length = [0.0] * (len(chances) + 1), 0  # `best` has the keys saved from each character on
    for start in reversed(range(len(chances))):
        whole, word, length = 1.0, 0.0, 0
        for i, chance in enumerate(chances[start:], 1):
            whole *= chance
            saved = (i - 1) * whole
            if i == word_length:
                word = whole
            if start == 0 and i > word_length:
                saved += (word_length - 1) * (word - whole)
            total = saved + whole * best[start + i]
            if total > best[start]:
                best[start], length = total, 0 if acceptance * saved < worth else i
    return length


def first_word(text: str) -> str:
    """Return the first word of a suggestion, with the characters before it.

    >>> first_word(" world wide"), first_word("->next")
    (' world', '->')
    """
    found = _WORD.match(text)
    return found[0] if found else text
