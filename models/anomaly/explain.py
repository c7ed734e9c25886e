"""Which characters made a line odd, and what would have stood there.

After a wrong character a network is surprised by right ones as well, for it reads on from a text it never
saw; and at the beginning of a word it is surprised by right ones anyway. So at each character that is at all
surprising it is asked under which reading this one and the next ones are likeliest together: that it stands
as it is, that another was meant, that it is one too many, or that one is missing before it. A character is
marked when an edit gains FAULT_BITS, or when it is surprising beyond the threshold; the line is read on from
the best reading, so what surprises only because of an earlier fault is not marked. This is a greedy noisy
channel with single edits (Kernighan, Church and Gale 1990), its language model being the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import BITS, log_softmax
from models.runtime.scoring import unknown_bits
from models.runtime.session import State, StepNetwork
from models.vocabulary import UNKNOWN_ID, Vocabulary

MOST_MARKS = 12
"""In one line; behind the last one nothing more is looked at."""

FAULT_BITS = 9.0
"""How much likelier an edit must make the line: as if one edit in 512 were right before anything is seen."""

MOST_LOOKED_AT = 200
"""Characters of one line that are asked about; behind them only the threshold counts."""

_LEAST_EXCESS = 3.0  # bits; a character below is not asked about
_LOOK_AHEAD = 8  # characters by which the readings are compared
_CANDIDATES = 6  # that might have been meant
_SLICE = 16  # characters read at a time in search of the next odd one
_JOINED = 1  # spans with so few characters between them become one


@dataclass(frozen=True)
class Span:
    """Odd characters line[start:end], their bits together, and what was expected in their place, if any."""

    start: int
    end: int
    bits: float
    expected: str | None = None


def odd_spans(
    network: StepNetwork,
    vocabulary: Vocabulary,
    line: str,
    *,
    threshold: float,
    context: str = "\n",
    start: State | None = None,
) -> list[Span]:
    """Return the odd spans of a line of characters, in order.

    Args:
        network: what reads it.
        vocabulary: its characters.
        line: the characters.
        threshold: excess of surprisal over its expectation, in bits, above which a character is odd; one
            that the network does not know is odd anyway.
        context: what is read before the line, from the state `start`.
        start: (1, S), by default zeros.
    """
    ids = vocabulary.encode(line)
    state = network.initial_state() if start is None else start
    before = vocabulary.encode(context or "\n")
    state = _read(network, before[:-1], state)
    last = int(before[-1])  # the character that has not been read yet, by which the next is predicted
    marks: list[Span] = []
    at = looked_at = 0
    while at < len(ids) and len(marks) < MOST_MARKS:
        least = min(threshold, _LEAST_EXCESS) if looked_at < MOST_LOOKED_AT else threshold
        found = _next_odd(network, ids[at:], last, state, least)
        if found is None:
            break
        at += found.place
        best = _best_reading(network, vocabulary, ids, at, found)
        looked_at += 1
        if best.gain > FAULT_BITS or found.excess > threshold or ids[at] == UNKNOWN_ID:
            marks.append(Span(at, at + 1, found.bits, best.expected))
        state, last = best.state, best.last
        at += 1
    return _joined(marks)


def plain_spans(
    bits: NDArray[np.float32], entropy: NDArray[np.float32], unknown: NDArray[np.bool_], *, threshold: float
) -> list[Span]:
    """Return the spans that are unknown (N,), or whose bits less entropy (N,) are above the threshold."""
    places = np.flatnonzero((bits - entropy > threshold) | unknown)
    return _joined([Span(int(i), int(i) + 1, float(bits[i])) for i in places])


def highest_window(bits: NDArray[np.float32], entropy: NDArray[np.float32], window: int = 12) -> list[Span]:
    """Return the `window` adjacent characters with the highest excess: where none by itself is odd."""
    if not bits.size:
        return []
    window = min(window, len(bits))
    total = np.concatenate([[0.0], np.cumsum(bits - entropy, dtype=np.float64)])
    start = int((total[window:] - total[:-window]).argmax())
    return [Span(start, start + window, float(bits[start : start + window].sum()))]


@dataclass(frozen=True)
class _Found:
    """A surprising character: what it cost, the logprobs (V - 1,) there, and how the network got there."""

    place: int
    bits: float
    excess: float
    logprobs: NDArray[np.float64]
    state: State  # before
    last: int  # this character, which stands before the surprising one and has not been read


@dataclass(frozen=True)
class _Best:
    """The best reading of a surprising character, and from where the network reads on."""

    gain: float  # bits that the best edit saves; negative: it is best left as it is
    expected: str | None  # in place of the character; None: it stands
    state: State
    last: int  # the character that has not been read


def _next_odd(
    network: StepNetwork, ids: NDArray[np.int32], last: int, state: State, least_excess: float
) -> _Found | None:
    """Find the first character whose excess is above `least_excess`, or that is unknown."""
    inputs = np.concatenate([np.array([last], np.int32), ids[:-1]])
    for at in range(0, len(ids), _SLICE):
        part = inputs[at : at + _SLICE]
        logits, after = network.step(part[:, None], state)
        logprobs = log_softmax(logits[:, 0])  # (T, V - 1)
        bits = _bits(logprobs, ids[at : at + _SLICE], network.V)
        excess = bits + (np.exp(logprobs) * logprobs).sum(1) * BITS
        odd = np.flatnonzero((excess > least_excess) | (ids[at : at + _SLICE] == UNKNOWN_ID))
        if odd.size:
            i = int(odd[0])
            before = _read(network, part[:i], state)
            return _Found(at + i, float(bits[i]), float(excess[i]), logprobs[i], before, int(part[i]))
        state = after
    return None


def _best_reading(
    network: StepNetwork, vocabulary: Vocabulary, ids: NDArray[np.int32], at: int, found: _Found
) -> _Best:
    odd, last = int(ids[at]), found.last
    likely = np.argsort(-found.logprobs, kind="stable")[: _CANDIDATES + 1] + 1
    candidates = [int(i) for i in likely if i != odd][:_CANDIDATES]
    ahead = ids[at + 1 : at + 1 + _LOOK_AHEAD]
    # What is expected here, and what is then read in place of the odd character: it stands, is one too
    # many, was another, or lacks one before it.
    readings: list[tuple[str | None, list[int]]] = [(None, [odd]), ("", [])]
    readings += [(vocabulary.characters[c - 1], [c]) for c in candidates]
    readings += [(vocabulary.characters[c - 1] + vocabulary.decode([odd]), [c, odd]) for c in candidates]
    if not len(ahead):  # nothing tells another character from one too many: the likeliest was meant
        readings[1:] = readings[2 : 2 + len(candidates)]
    costs = _costs_ahead(network, [put for _, put in readings], ahead, found.state, last)
    best = 1 + int(np.argmin(costs[1:])) if len(costs) > 1 else 0
    gain = float(costs[0] - costs[best])
    expected, put = readings[best] if gain > FAULT_BITS else readings[0]
    if not put:
        return _Best(gain, expected, found.state, last)
    return _Best(gain, expected, _read(network, np.array([last, *put[:-1]], np.int32), found.state), put[-1])


def _costs_ahead(
    network: StepNetwork, puts: Sequence[Sequence[int]], ahead: NDArray[np.int32], state: State, last: int
) -> NDArray[np.float64]:
    """Return (n,) the bits, after the last character, of each of `puts` together with `ahead`."""
    longest = max(map(len, puts)) + len(ahead)
    rows = np.zeros((longest + 1, len(puts)), np.int32)
    for column, put in enumerate(puts):
        row = [last, *put, *ahead]
        rows[: len(row), column] = row
    logits, _ = network.step(rows[:-1], np.repeat(state, len(puts), 0))
    logprobs = log_softmax(logits)
    bits = np.stack([_bits(logprobs[:, i], rows[1:, i], network.V) for i in range(len(puts))], 1)
    return np.array([bits[: len(put) + len(ahead), column].sum() for column, put in enumerate(puts)])


def _bits(logprobs: NDArray[np.float64], ids: NDArray[np.int32], size: int) -> NDArray[np.float64]:
    picked = logprobs[np.arange(len(ids)), np.maximum(ids, 1) - 1]
    return np.where(ids > 0, -picked * BITS, unknown_bits(size))


def _read(network: StepNetwork, ids: NDArray[np.int32], state: State) -> State:
    for at in range(0, len(ids), 256):
        part = ids[at : at + 256, None]
        _, state = network.step(part, state, len(part))
    return state


def _joined(marks: Sequence[Span]) -> list[Span]:
    spans: list[Span] = []
    for mark in marks:
        if spans and mark.start - spans[-1].end <= _JOINED:
            both = spans[-1]
            # With characters between, what was expected of the whole is not known.
            expected = None
            if mark.start == both.end and both.expected is not None and mark.expected is not None:
                expected = both.expected + mark.expected
            spans[-1] = replace(both, end=mark.end, bits=both.bits + mark.bits, expected=expected)
        else:
            spans.append(mark)
    return spans
