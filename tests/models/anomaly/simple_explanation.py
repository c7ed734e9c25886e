"""The spans of one line, found the simple way: every edit of a surprising character is read to its end.

The reference for `models.anomaly.explanation`, which reads many lines side by side and skips
edits that cannot win.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.anomaly.explanation import FAULT_BITS, MOST_LOOKED_AT, MOST_MARKS, Span, _joined
from models.runtime.decoding import BITS, log_softmax
from models.runtime.scoring import unknown_bits
from models.runtime.session import State, StepNetwork
from models.text.vocabulary import UNKNOWN_ID, Vocabulary

_LEAST_EXCESS = 3.0
_LOOK_BACK = 3
_LOOK_AHEAD = 8
_CANDIDATES = 6
_SLICE = 16


def anomalous_spans(
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
