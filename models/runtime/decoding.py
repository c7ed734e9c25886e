"""From logits to the next character: sampling, filters, stop strings, and where a completion ends.

The result of a row does not depend on the other rows of the batch: with equal logits a request gets the same
characters alone and in any batch. Random numbers are a function of (seed, completion, position) instead of a
stream, so the order of requests does not matter either.

Id 0, the unknown character, is never chosen; probabilities are over the known characters.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.requests import CompletionRequest, FinishReason, Until
from nextchar.models.text.vocabulary import UNKNOWN_ID, is_word_character

Floats = NDArray[Any]
Choose = Callable[[Floats, Floats, NDArray[np.float64]], NDArray[np.int32]]
"""Chooses ids (B,) by logits (B, V), inverse temperatures (B,) and random numbers in [0, 1) (B,)."""

BITS = 1 / math.log(2)  # nats times this are bits

# Division by less could overflow; sampling at this temperature is as good as greedy.
_MIN_TEMPERATURE = 1e-6

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def uniforms(seed: int, index: int, start: int, count: int) -> NDArray[np.float64]:
    """Return the random numbers in [0, 1) of completion `index` at positions start, start + 1, ...

    SplitMix64 (Steele, Lea and Flood 2014) on a counter; the key is the mixed seed and index.
    """
    key = _mix(np.array([(seed * _GOLDEN + 1) & _MASK], np.uint64))
    key = _mix(key ^ np.uint64(((index + 1) * 0xD1B54A32D192ED03) & _MASK))
    counters = key + np.arange(start + 1, start + 1 + count, dtype=np.uint64) * np.uint64(_GOLDEN)
    # 52 bits: with 53, the product of the largest number and a total could be rounded up to the total.
    return (_mix(counters) >> np.uint64(12)).astype(np.float64) * 2.0**-52


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Sampler:
    """Samples an id for each of B rows, whose options are fixed.

    Filters apply to the probabilities at the row's temperature, in this order: the k likeliest; the smallest
    set of those that reaches `top_p` of their sum; those at least `min_p` times as likely as the likeliest.
    Ties at the edge of a filter are broken by the order of NumPy's sort.
    """

    def __init__(
        self, rows: Sequence[CompletionRequest], vocabulary_size: int, *, choose_plain: Choose | None = None
    ) -> None:
        """`choose_plain` samples the rows without filters; it is the network's own compiled function."""
        self.B = len(rows)
        self._choose_plain = choose_plain
        self._any_greedy = any(r.temperature == 0 for r in rows)
        self._all_greedy = all(r.temperature == 0 for r in rows)
        self._unit = all(r.temperature == 1 for r in rows)
        inverse_temperature = [
            1 / max(r.temperature, _MIN_TEMPERATURE) if r.temperature else 0.0 for r in rows
        ]
        self.inverse_temperature = np.array(inverse_temperature, np.float32)  # (B,), 0 for greedy
        self._inverse_temperature = np.where(
            self.inverse_temperature, self.inverse_temperature, np.float32(1)
        )[:, None]  # (B, 1)
        self._filtered = [i for i, r in enumerate(rows) if r.temperature and _has_filters(r)]
        self.is_plain = not self._filtered
        if self._any_greedy:
            self._greedy = np.array([r.temperature == 0 for r in rows])
        if self._filtered:
            self._plain = [i for i in range(self.B) if i not in self._filtered]
            picked = [rows[i] for i in self._filtered]
            known = vocabulary_size - 1
            self._top_k = np.array([min(r.top_k or known, known) for r in picked])[:, None]
            self._top_p = np.array([1.0 if r.top_p is None else r.top_p for r in picked])[:, None]
            self._min_p = np.array([r.min_p or 0.0 for r in picked], np.float32)[:, None]

    def choose(self, logits: Floats, uniform: Sequence[float]) -> list[int]:
        """Choose ids (B,), each at least 1, by logits (B, V) float32 with (B,) numbers in [0, 1)."""
        if self._choose_plain and self.is_plain:
            return [
                *map(int, self._choose_plain(logits, self.inverse_temperature, np.array(uniform, np.float64)))
            ]
        if self.B == 1 and self.is_plain:
            return [self._choose_one(logits[0, 1:], uniform[0])]
        z = logits[:, 1:]
        if self._all_greedy:
            return [*map(int, z.argmax(1) + 1)]
        u = np.array(uniform)
        z = z - z.max(1, keepdims=True)
        e = np.exp(z if self._unit else z * self._inverse_temperature)
        if self.is_plain:
            chosen = _inverse(e, u)
        else:
            chosen = np.empty(self.B, np.intp)
            chosen[self._plain] = _inverse(e[self._plain], u[self._plain])
            chosen[self._filtered] = self._choose_filtered(e[self._filtered], u[self._filtered])
        if self._any_greedy:
            chosen = np.where(self._greedy, z.argmax(1), chosen)
        chosen += 1
        if self._choose_plain and self._plain:
            plain = self._plain
            chosen[plain] = self._choose_plain(logits[plain], self.inverse_temperature[plain], u[plain])
        return [*map(int, chosen)]

    def _choose_one(self, z: Floats, u: float) -> int:
        """`choose` for one row without filters, in a third of the time."""
        if self._all_greedy:
            return int(z.argmax()) + 1
        z = z - _max(z)
        if not self._unit:
            z *= self._inverse_temperature[0]
        reached = _running_sum(_exp(z, z), dtype=np.float64)
        return int(reached.searchsorted(reached[-1] * u, "right")) + 1

    def _choose_filtered(self, e: Floats, u: NDArray[np.float64]) -> NDArray[np.intp]:
        if e.shape[1] > MAX_SORTED_CHARACTERS:
            filters = zip(self._top_k[:, 0], self._top_p[:, 0], self._min_p[:, 0], strict=True)
            return np.array([_choose_wide(*row) for row in zip(e, u, filters, strict=True)], np.intp)
        order = (-e).argsort(1)  # likeliest first, so every filter keeps a prefix
        e = np.take_along_axis(e, order, 1)
        e[np.arange(e.shape[1]) >= self._top_k] = 0
        reached = e.cumsum(1, dtype=np.float64)
        before = reached - e
        e[before >= self._top_p * reached[:, -1:]] = 0
        e[e < self._min_p * e[:, :1]] = 0
        picked: NDArray[np.intp] = order[np.arange(len(order)), _inverse(e, u)]
        return picked


MAX_SORTED_CHARACTERS = 500
"""In larger vocabularies only the characters that can be chosen are sorted, row by row."""


def _choose_wide(e: Floats, u: float, filters: tuple[int, float, float]) -> int:
    """Choose an index of one row (V - 1,): a tenth of the time if V is in the thousands."""
    top_k, top_p, min_p = filters
    total = None
    if top_k < len(e):
        floor = np.partition(e, -top_k)[-top_k]
    elif top_p < 1:
        # All characters below this weight together have less than 1 - top_p; halved for safety.
        total = e.sum(dtype=np.float64)
        floor = (1 - top_p) * total / len(e) / 2
    else:
        floor = min_p * e.max()
    kept = np.flatnonzero(e >= floor)
    kept = kept[(-e[kept]).argsort(kind="stable")[:top_k]]
    e = e[kept]
    reached = e.cumsum(dtype=np.float64)
    if total is None:
        total = reached[-1]
    count = np.count_nonzero((reached - e < top_p * total) & (e >= min_p * e[0]))
    return int(kept[reached[:count].searchsorted(reached[count - 1] * u, "right")])


def _has_filters(request: CompletionRequest) -> bool:
    return bool(request.top_k or request.min_p or (request.top_p is not None and request.top_p < 1))


def _inverse(weights: Floats, u: Floats) -> NDArray[np.intp]:
    """Return for each row the first index where the cumulative sum exceeds u times the total."""
    reached = weights.cumsum(1, dtype=np.float64)
    indices: NDArray[np.intp] = (reached <= reached[:, -1:] * u[:, None]).sum(1)
    return indices


# Array methods take a microsecond longer than the ufuncs that they call.
_max, _running_sum, _exp = np.maximum.reduce, np.add.accumulate, np.exp


def logprobs_of(logits: Floats, ids: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the natural log-probabilities of ids (..., B) >= 1 by logits (..., B, V)."""
    z = logits.reshape(-1, logits.shape[-1])[:, 1:]
    z = z - _max(z, 1, keepdims=True)
    picked = z[np.arange(len(z)), ids.ravel() - 1]
    logprobs: NDArray[np.float64] = picked.astype(np.float64) - np.log(_exp(z, z).sum(1))
    return logprobs.reshape(ids.shape)


def log_softmax(logits: Floats, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return natural log-probabilities of the known characters, (..., V) -> (..., V - 1); index 0 is id 1."""
    z: NDArray[np.float64] = logits[..., 1:].astype(np.float64) / max(temperature, _MIN_TEMPERATURE)
    z -= z.max(-1, keepdims=True)
    z -= np.log(np.exp(z).sum(-1, keepdims=True))
    return z


def entropy_bits(logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy in bits of natural log-probabilities over the last axis."""
    nats: NDArray[np.float64] = -(np.exp(logprobs) * logprobs).sum(-1)
    return nats * BITS + 0.0  # no -0.0


def likeliest(logprobs: NDArray[np.float64], count: int) -> list[tuple[int, float]]:
    """Return (id, log-probability) of the `count` likeliest of logprobs (V - 1,), ties by lower id."""
    return [(int(i) + 1, float(logprobs[i])) for i in largest(logprobs, count)]


def largest(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the indices of the `count` largest of values (N,), the largest first, ties by lower index.

    It is `np.argsort(-values, kind="stable")[:count]`, without sorting the other values.
    """
    costs = -values
    kept = np.arange(len(costs))
    if count < len(costs):
        threshold = np.partition(costs, count - 1)[count - 1]
        kept = np.flatnonzero(~(costs > threshold))  # NaN is kept, and sorted last
    return kept[np.argsort(costs[kept], kind="stable")[:count]]


class StopMatcher:
    """Finds stop strings in a text, character by character (Knuth, Morris and Pratt 1977)."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _prefix_function(stop)) for stop in stops if stop]
        self._matched = [0] * len(self._stops)

    def copy(self) -> "StopMatcher":
        """Return a matcher that continues from here independently of this one."""
        matcher = copy.copy(self)
        matcher._matched = self._matched.copy()
        return matcher

    def push(self, character: str) -> tuple[int, bool]:
        """Take one more character.

        Returns:
            How many of the last characters, this one included, may belong to a stop string; and whether they
            are the longest stop string that ends here.
        """
        held = matched = 0
        for i, (stop, borders) in enumerate(self._stops):
            n = self._matched[i]
            while n and (n == len(stop) or stop[n] != character):
                n = borders[n - 1]
            if stop[n] == character:
                n += 1
            self._matched[i] = n
            held = max(held, n)
            if n == len(stop):
                matched = max(matched, n)
        return (matched, True) if matched else (held, False)


def _prefix_function(stop: str) -> list[int]:
    """Return for each prefix of `stop` the length of its longest proper suffix that is also a prefix."""
    borders = [0] * len(stop)
    n = 0
    for i in range(1, len(stop)):
        while n and stop[n] != stop[i]:
            n = borders[n - 1]
        if stop[n] == stop[i]:
            n += 1
        borders[i] = n
    return borders


class Ending:
    """Decides, character by character, how much of a completion's text is settled and when it finishes.

    until "word": before the first character outside a word after one inside a word, so a prompt that ends
    inside a word is completed to its end. until "line": before the line break.
    """

    def __init__(
        self,
        *,
        stop: Sequence[str],
        until: Until | None,
        is_word_character: Callable[[str], bool] = is_word_character,
    ) -> None:
        self._matcher = StopMatcher(stop) if any(stop) else None
        self._is_word_character = is_word_character
        self._word, self._line = until == "word", until == "line"
        self._in_word = False
        self.always_settled = self._matcher is None and not self._word and not self._line

    def copy(self) -> "Ending":
        """Return an ending that continues from here independently of this one; both use one vocabulary."""
        ending = Ending.__new__(Ending)  # a tenth of the time of copy.copy, which a beam search needs often
        ending.__dict__.update(self.__dict__)
        ending._matcher = self._matcher and self._matcher.copy()
        return ending

    def push(self, character: str) -> tuple[int, FinishReason | None]:
        """Take one more character.

        Returns:
            How many of the last characters, this one included, are not settled; and the finish reason, with
            which those are cut off, or None.
        """
        if self._line and character in "\n\r":
            return 1, "line"
        if self._word:
            if self._is_word_character(character):
                self._in_word = True
            elif self._in_word:
                return 1, "word"
        if self._matcher is None:
            return 0, None
        held, is_stop = self._matcher.push(character)
        return held, "stop" if is_stop else None


class Adjustment:
    """The bias, the penalties and the ban on repeats of one completion, with what it has taken.

        adjusted[id] = logits[id] + bias[id] - frequency * uses[id] - presence * (uses[id] > 0)

    `uses` counts the characters of the completion so far, not those of the prompt. What would repeat an
    n-gram gets -inf, unless that would be every character. Reported log-probabilities are the network's own,
    without these changes.
    """

    def __init__(
        self, request: CompletionRequest, vocabulary_size: int, text: str, id_of: Mapping[str, int]
    ) -> None:
        """Take a request for a model with V ids, and the text before the completion, as `NoRepeat`."""
        self._presence, self._frequency = request.presence_penalty, request.frequency_penalty
        self._bias = np.zeros(vocabulary_size, np.float32)  # (V,)
        for an_id, bias in request.logit_bias:
            self._bias[an_id] = bias
        self._uses = np.zeros(vocabulary_size, np.float32)  # (V,)
        size = request.no_repeat
        self.no_repeat = NoRepeat(size, text[-MAX_NO_REPEAT_CONTEXT:], id_of) if size else None

    def copy(self) -> "Adjustment":
        """Return one that continues from here independently."""
        other = copy.copy(self)
        other._uses = self._uses.copy()
        other.no_repeat = self.no_repeat and self.no_repeat.copy()
        return other

    def append(self, character: str, an_id: int) -> None:
        """Count a character that the completion has taken."""
        self._uses[an_id] += 1
        if self.no_repeat:
            self.no_repeat.append(character, an_id)

    def apply(self, logits: Floats) -> Floats:
        """Return logits (V,) with bias, penalties and bans."""
        used = self._frequency * self._uses + self._presence * (self._uses > 0)
        adjusted = logits + self._bias - used
        banned = self.no_repeat.banned() if self.no_repeat else ()
        if len(banned) < len(logits) - 1:
            adjusted[list(banned)] = -np.inf
        return adjusted


def adjustment_of(
    request: CompletionRequest, vocabulary_size: int, text: str, id_of: Mapping[str, int]
) -> Adjustment | None:
    """Return the adjustment that a request asks for, if any; the arguments are those of `Adjustment`."""
    if request.logit_bias or request.presence_penalty or request.frequency_penalty or request.no_repeat:
        return Adjustment(request, vocabulary_size, text, id_of)
    return None


MAX_NO_REPEAT_CONTEXT = 1000
"""The characters at the end of a prompt that `no_repeat` takes into account."""


class NoRepeat:
    """Finds the characters that would repeat an n-gram of a text, in a time independent of its length.

    The ids that followed each (n - 1)-gram are kept by its 64-bit hash, because n-grams may be long. In the
    improbable case that two have the same hash, a character is banned that would repeat nothing.
    """

    def __init__(self, size: int, text: str, id_of: Mapping[str, int]) -> None:
        """Take n-grams of `size` characters, and the text so far, whose characters may have no id."""
        self._length = size - 1
        self._end = ""  # the last n - 1 characters
        self._followers: dict[int, tuple[int, ...]] = {}  # distinct ids
        for character in text:
            self.append(character, id_of.get(character, UNKNOWN_ID))

    def copy(self) -> "NoRepeat":
        """Return one that continues from here independently."""
        other = copy.copy(self)
        other._followers = self._followers.copy()
        return other

    def append(self, character: str, an_id: int) -> None:
        """Add a character to the text."""
        if an_id != UNKNOWN_ID and an_id not in (banned := self.banned()):
            self._followers[hash(self._end)] = (*banned, an_id)
        self._end = (self._end + character)[-self._length :] if self._length else ""

    def banned(self) -> tuple[int, ...]:
        """Return the ids of the characters that would repeat an n-gram."""
        return self._followers.get(hash(self._end), ())
