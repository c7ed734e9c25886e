"""Which characters made a line odd, and what would have stood there.

After a wrong character a network is surprised by right ones as well, for it reads on from a text it never
saw; at the beginning of a word it is surprised by right ones anyway; and a wrong one may not surprise it
where it stands (`consteuctor` does at the `u`). So at each character that is at all surprising it is asked
under which reading this one, the three before and the eight behind it are likeliest together: that all stands
as it is, or that this one or one of the three was another, is one too many, or lacks one before it. A
character is marked when an edit of it gains FAULT_BITS, or when it is surprising beyond the threshold; the
line is read on from the best reading, so what surprises only because of an earlier fault is not marked. This
is a greedy noisy channel with single edits (Kernighan, Church and Gale 1990), its language model the network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import BITS, log_softmax
from models.runtime.scoring import unknown_bits
from models.runtime.session import State, StepNetwork
from models.vocabulary import UNKNOWN_ID, Vocabulary

MOST_MARKS = 12
"""In one line, and in a text as many for each of its lines; behind the last nothing more is looked at."""

FAULT_BITS = 9.0
"""How much likelier an edit must make the line: as if one in 512 were right before anything is seen."""

MOST_LOOKED_AT = 200
"""Characters of one line that are asked about; behind them only the threshold counts."""

_LEAST_EXCESS = 3.0  # bits; a character below is not asked about
_LOOK_BACK = 3  # characters before a surprising one that may be the wrong one
_LOOK_AHEAD = 8  # characters behind it by which the readings are compared, too
_CANDIDATES = 6  # that might have been meant, at each place
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
    most_marks = MOST_MARKS * (1 + line.count("\n"))
    at = looked_at = 0
    while at < len(ids) and len(marks) < most_marks:
        least = min(threshold, _LEAST_EXCESS) if looked_at < MOST_LOOKED_AT else threshold
        found = _next_odd(network, ids[at:], last, state, least)
        if found is None:
            break
        place = at + found.place
        best = _best_reading(network, vocabulary, ids, place, found)
        looked_at += 1
        if best.mark:
            marks.append(best.mark)
        is_odd = found.excess > threshold and not best.mark  # an edit before it explains it, too
        is_unknown = ids[place] == UNKNOWN_ID and not (best.mark and best.mark.start == place)
        if is_odd or is_unknown:
            marks.append(Span(place, place + 1, float(found.bits[-1])))
        state, last = best.state, best.last
        at = place + 1
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
    """A surprising character, and the few before it that have not been asked about."""

    place: int
    excess: float
    window: NDArray[np.int32]  # (W,) those characters, and it
    bits: NDArray[np.float64]  # (W,) what they cost
    logprobs: NDArray[np.float64]  # (W, V - 1) what was predicted
    state: State  # before them
    last: int  # the character before them, which has not been read


@dataclass(frozen=True)
class _Best:
    """The best reading of a surprising character, and from where the network reads on."""

    mark: Span | None  # the character that is edited; None: all is best left as it is
    state: State
    last: int  # the character that has not been read


def _next_odd(
    network: StepNetwork, ids: NDArray[np.int32], last: int, state: State, least_excess: float
) -> _Found | None:
    """Find the first character whose excess is above `least_excess`, or that is unknown."""
    inputs = np.concatenate([np.array([last], np.int32), ids[:-1]])
    back, before = 0, state  # the beginning of the slice before this one
    for at in range(0, len(ids), _SLICE):
        part = ids[at : at + _SLICE]
        logits, after = network.step(inputs[at : at + _SLICE, None], state)
        _, excess = _surprise(log_softmax(logits[:, 0]), part, network.V)
        odd = np.flatnonzero((excess > least_excess) | (part == UNKNOWN_ID))
        if odd.size:
            place = at + int(odd[0])
            first = max(0, place - _LOOK_BACK)
            before = _read(network, inputs[back:first], before)
            logits, _ = network.step(inputs[first : place + 1, None], before)
            logprobs, window = log_softmax(logits[:, 0]), ids[first : place + 1]
            bits, _ = _surprise(logprobs, window, network.V)
            return _Found(place, float(excess[odd[0]]), window, bits, logprobs, before, int(inputs[first]))
        back, before, state = at, state, after
    return None


def _best_reading(
    network: StepNetwork, vocabulary: Vocabulary, ids: NDArray[np.int32], at: int, found: _Found
) -> _Best:
    window = found.window.tolist()
    ahead = ids[at + 1 : at + 1 + _LOOK_AHEAD]
    # The place, what is expected there, and what is then read in place of the window. First: all stands.
    readings: list[tuple[int, str | None, list[int]]] = [(len(window) - 1, None, window)]
    for i in reversed(range(len(window))):
        is_last = i == len(window) - 1 and not len(ahead)
        for expected, put in _edits(vocabulary, window[i], found.logprobs[i], is_last=is_last):
            readings.append((i, expected, [*window[:i], *put, *window[i + 1 :]]))
    costs = _costs_ahead(network, [put for _, _, put in readings], ahead, found.state, found.last)
    best = int(np.argmin(costs))
    if costs[0] - costs[best] <= FAULT_BITS:
        best = 0
    i, instead, put = readings[best]
    start = at + 1 - len(window) + i
    mark = Span(start, start + 1, float(found.bits[i]), instead) if best else None
    state, last = found.state, found.last
    if put:
        state, last = _read(network, np.array([last, *put[:-1]], np.int32), state), put[-1]
    return _Best(mark, state, last)


def _edits(
    vocabulary: Vocabulary, odd: int, logprobs: NDArray[np.float64], *, is_last: bool
) -> Iterator[tuple[str, list[int]]]:
    """Yield what is expected in place of a character, and its ids: nothing, another, or one more before it.

    Of the last of a line another is expected: nothing behind it tells that from the rest.
    """
    likely = np.argsort(-logprobs, kind="stable")[: _CANDIDATES + 1] + 1
    candidates = [int(i) for i in likely if i != odd][:_CANDIDATES]
    yield from ((vocabulary.characters[c - 1], [c]) for c in candidates)
    if not is_last:
        yield "", []
        yield from ((vocabulary.characters[c - 1] + vocabulary.decode([odd]), [c, odd]) for c in candidates)


def _surprise(
    logprobs: NDArray[np.float64], ids: NDArray[np.int32], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bits and excess (T,) of ids (T,) where logprobs (T, V - 1) were predicted."""
    bits = _bits(logprobs, ids, size)
    return bits, bits + (np.exp(logprobs) * logprobs).sum(1) * BITS


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
