"""Which characters made a line odd, and what would have stood there.

After a wrong character a network is surprised by right ones as well, for it reads on from a text it never
saw; at the beginning of a word it is surprised by right ones anyway; and a wrong one may not surprise it
where it stands (`consteuctor` does at the `u`). So at each character that is at all surprising it is asked
under which reading this one, the three before and the eight behind it are likeliest together: that all stands
as it is, or that this one or one of the three was another, is one too many, or lacks one before it. A
character is marked when an edit of it gains FAULT_BITS, or when it is surprising beyond the threshold; the
line is read on from the best reading, so what surprises only because of an earlier fault is not marked. This
is a greedy noisy channel with single edits (Kernighan, Church and Gale 1990), its language model the network.

Many lines are explained side by side. Each is a generator (`_odd_spans`) that yields each `_Step`
it needs of the network, and the steps of all lines are taken together. A network whose rows do not depend on
each other gives a line the same spans alone and in company.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import BITS, log_softmax
from models.runtime.scoring import SLICE_LOGITS, unknown_bits
from models.runtime.session import Logits, State, StepNetwork
from models.text.vocabulary import UNKNOWN_ID, Vocabulary

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

_SIDE_BY_SIDE = 8  # lines that are explained at a time; where the limit is reached, those are lost
_PIECE = 2  # characters after which readings that have become too unlikely are given up
_ROUNDING = 1e-6  # bits; sums of the same figures may differ by less


@dataclass(frozen=True)
class Span:
    """Odd characters line[start:end], their bits together, and what was expected in their place, if any."""

    start: int
    end: int
    bits: float
    expected: str | None = None


@dataclass(frozen=True)
class _Step:
    """What a line needs of the network: logits (T - first, B, V) and perhaps the state (B, S) after them."""

    ids: NDArray[np.int32]  # (T, B)
    state: State  # (B, S) before them
    first: int = 0  # 0, or T: then no logits are needed
    needs_state: bool = True


_T = TypeVar("_T")
_Asking = Generator[_Step, tuple[Logits, State], _T]


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
    [spans] = explain(network, vocabulary, [line], threshold=threshold, context=context, start=start)
    assert spans is not None, "there is no limit"
    return spans


def explain(
    network: StepNetwork,
    vocabulary: Vocabulary,
    lines: Sequence[str],
    *,
    threshold: float,
    max_read: int | None = None,
    context: str = "\n",
    start: State | None = None,
) -> list[list[Span] | None]:
    """Return `anomalous_spans` of each line, or None where explaining it would take too long.

    With `max_read`, once the network has read so many characters no other line is begun, and after twice as
    many those that were begun are given up. Which lines are left out depends on the lines, not on the time.
    """
    state = network.initial_state() if start is None else start
    before = vocabulary.encode(context or "\n")
    state = _read_on(network, before[:-1], state)
    last = int(before[-1])  # the character that has not been read yet, by which the next is predicted
    found: list[list[Span] | None] = [None] * len(lines)
    waiting = iter(range(len(lines)))
    under_way: dict[int, tuple[_Asking[list[Span]], _Step]] = {}
    read = 0
    while max_read is None or read < 2 * max_read:
        while len(under_way) < _SIDE_BY_SIDE and (max_read is None or read < max_read):
            place = next(waiting, None)
            if place is None:
                break
            asking = _odd_spans(network.V, vocabulary, lines[place], threshold, last, state)
            _advance(under_way, found, place, asking, None)
        if not under_way:
            break
        asked = list(under_way.items())
        read += sum(step.ids.size for _, (_, step) in asked)
        answers = _step_together(network, [step for _, (_, step) in asked])
        for (place, (asking, _)), answer in zip(asked, answers, strict=True):
            _advance(under_way, found, place, asking, answer)
    return found


def _advance(
    under_way: dict[int, tuple[_Asking[list[Span]], _Step]],
    found: list[list[Span] | None],
    place: int,
    asking: _Asking[list[Span]],
    answer: tuple[Logits, State] | None,
) -> None:
    """Give a line what it asked for, and note what it asks for next, or what was found."""
    try:
        under_way[place] = (asking, next(asking) if answer is None else asking.send(answer))
    except StopIteration as end:
        found[place] = end.value
        under_way.pop(place, None)


def _step_together(network: StepNetwork, steps: Sequence[_Step]) -> list[tuple[Logits, State]]:
    """Take all steps, those of a like length in one call, within the bounds of a slice."""
    answers: list[tuple[Logits, State] | None] = [None] * len(steps)
    kind = {place: (_padded_length(step), step.first > 0) for place, step in enumerate(steps)}
    for (length, is_without_logits), group in groupby(sorted(kind, key=kind.__getitem__), kind.__getitem__):
        places = list(group)
        most_rows = max(1, SLICE_LOGITS // (length * network.V))
        for part in _parts([steps[place].ids.shape[1] for place in places], most_rows):
            mine = [steps[place] for place in places[part]]
            ids = np.concatenate([_padded(step.ids, length) for step in mine], 1)
            state = np.concatenate([step.state for step in mine])
            logits, state = network.step(ids, state, length if is_without_logits else 0)
            at = 0
            for place, step in zip(places[part], mine, strict=True):
                end = at + step.ids.shape[1]
                answers[place] = logits[: len(step.ids), at:end], state[at:end]
                at = end
    return [answer for answer in answers if answer is not None]


def _padded_length(step: _Step) -> int:
    """Return how many steps a step is padded to: it may be where the state after it is not needed."""
    length = len(step.ids)
    return length if step.needs_state else -(-length // _PIECE) * _PIECE


def _padded(ids: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    return np.pad(ids, ((0, length - len(ids)), (0, 0))) if len(ids) < length else ids


def _parts(rows: Sequence[int], most_rows: int) -> Iterator[slice]:
    """Yield consecutive places with at most so many rows together, or one of them with more."""
    start = total = 0
    for place, count in enumerate(rows):
        if place > start and total + count > most_rows:
            yield slice(start, place)
            start, total = place, 0
        total += count
    yield slice(start, len(rows))


def _odd_spans(
    size: int, vocabulary: Vocabulary, line: str, threshold: float, last: int, state: State
) -> _Asking[list[Span]]:
    """Find the odd spans of a line behind the character `last`, by a network of `size` ids."""
    ids = vocabulary.encode(line)
    marks: list[Span] = []
    most_marks = MOST_MARKS * (1 + line.count("\n"))
    at = looked_at = 0
    while at < len(ids) and len(marks) < most_marks:
        least = min(threshold, _LEAST_EXCESS) if looked_at < MOST_LOOKED_AT else threshold
        found = yield from _next_odd(size, ids[at:], last, state, least)
        if found is None:
            break
        place = at + found.place
        best = yield from _best_reading(size, vocabulary, ids, place, found)
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
    size: int, ids: NDArray[np.int32], last: int, state: State, least_excess: float
) -> _Asking[_Found | None]:
    """Find the first character whose excess is above `least_excess`, or that is unknown."""
    inputs = np.concatenate([np.array([last], np.int32), ids[:-1]])
    back, before = 0, state  # the beginning of the slice before this one, and the state there
    known = np.empty((0, size - 1))  # (T, V - 1) what was predicted from there on
    for at in range(0, len(ids), _SLICE):
        part = ids[at : at + _SLICE]
        is_last = at + _SLICE >= len(ids)
        logits, after = yield _Step(inputs[at : at + _SLICE, None], state, needs_state=not is_last)
        logprobs = log_softmax(logits[:, 0])
        _, excess = _surprise(logprobs, part, size)
        odd = np.flatnonzero((excess > least_excess) | (part == UNKNOWN_ID))
        if odd.size:
            place = at + int(odd[0])
            first = max(0, place - _LOOK_BACK)
            before = yield from _read(inputs[back:first], before)
            window = ids[first : place + 1]
            logprobs = np.concatenate([known, logprobs])[first - back : place + 1 - back]
            bits, _ = _surprise(logprobs, window, size)
            return _Found(place, float(excess[odd[0]]), window, bits, logprobs, before, int(inputs[first]))
        back, before, known, state = at, state, logprobs, after
    return None


def _best_reading(
    size: int, vocabulary: Vocabulary, ids: NDArray[np.int32], at: int, found: _Found
) -> _Asking[_Best]:
    window, ahead = found.window.tolist(), ids[at + 1 : at + 1 + _LOOK_AHEAD]
    as_it_stands = yield from _cost_as_it_stands(size, ahead, found)
    best, limit = None, as_it_stands - FAULT_BITS
    if limit > 0:  # else nothing can be so much likelier
        every = _readings(vocabulary, found, ahead, unknown_bits(size))
        readings = [one for one in every if one.cost < limit]
        costs = yield from _costs(size, readings, found, limit)
        likeliest = min(costs, default=math.inf)
        if likeliest < limit:  # of some that read alike, the first
            best = next(
                one for one, cost in zip(readings, costs, strict=True) if cost < likeliest + _ROUNDING
            )
    mark, put = None, window
    if best:
        start = at + 1 - len(window) + best.place
        mark = Span(start, start + 1, float(found.bits[best.place]), best.expected)
        put = [*window[: best.place], *best.put, *window[best.place + 1 :]]
    if not put:
        return _Best(mark, found.state, found.last)
    state = yield from _read(np.array([found.last, *put[:-1]], np.int32), found.state)
    return _Best(mark, state, put[-1])


def _cost_as_it_stands(size: int, ahead: NDArray[np.int32], found: _Found) -> _Asking[float]:
    """Return the bits of the window and what is ahead, as they are."""
    row = np.array([found.last, *found.window, *ahead], np.int32)
    logits, _ = yield _Step(row[:-1, None], found.state, needs_state=False)
    return float(_bits(log_softmax(logits[:, 0]), row[1:], size).sum())


@dataclass(frozen=True)
class _Reading:
    """One edit of a surprising character or one of the few before it."""

    place: int  # in the window, of what is edited
    expected: str | None  # there
    put: list[int]  # what is read in its place
    behind: list[int]  # what is read from this place on, to the end of what is ahead
    cost: float  # bits of all before `behind` and of its first


def _readings(
    vocabulary: Vocabulary, found: _Found, ahead: NDArray[np.int32], unknown: float
) -> Iterator[_Reading]:
    """Yield each edit; `unknown` is what a character costs that the network does not know."""
    window = found.window.tolist()
    for i in reversed(range(len(window))):
        before = float(found.bits[:i].sum())
        is_last = i == len(window) - 1 and not len(ahead)
        for expected, put in _edits(vocabulary, window[i], found.logprobs[i], is_last=is_last):
            behind = [*put, *window[i + 1 :], *ahead.tolist()]
            first = 0.0
            if behind:
                first = -float(found.logprobs[i, behind[0] - 1]) * BITS if behind[0] else unknown
            yield _Reading(i, expected, put, behind, before + first)


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


def _costs(size: int, readings: Sequence[_Reading], found: _Found, limit: float) -> _Asking[list[float]]:
    """Return the bits of each reading; of one that needs `limit` or more, infinity.

    Characters cost no less than nothing, so a reading that is beyond the limit stays there: it is given up.
    """
    if not readings:
        return []
    states = [found.state]  # before each place of the window
    for character in [found.last, *found.window[:-1]]:
        states.append((yield from _read(np.array([character], np.int32), states[-1])))
    lengths = np.array([len(reading.behind) - 1 for reading in readings])
    longest = int(lengths.max())
    ids = np.zeros((longest + 1, len(readings)), np.int32)
    for column, reading in enumerate(readings):
        ids[: len(reading.behind), column] = reading.behind
    costs = np.array([reading.cost for reading in readings])
    rows = np.arange(len(readings))  # those that go on
    state = np.concatenate([states[1 + reading.place] for reading in readings])
    for at in range(0, longest, _PIECE):
        goes_on = (lengths[rows] > at) & (costs[rows] < limit + _ROUNDING)
        rows, state = rows[goes_on], state[goes_on]
        if not len(rows):
            break
        end = min(at + _PIECE, longest)
        logits, state = yield _Step(ids[at:end, rows], state, needs_state=end < longest)
        bits = _bits(log_softmax(logits), ids[at + 1 : end + 1, rows], size)  # (T, B)
        costs[rows] += np.where(np.arange(at, end)[:, None] < lengths[rows], bits, 0.0).sum(0)
    return [float(cost) if cost < limit + _ROUNDING else math.inf for cost in costs]


def _bits(logprobs: NDArray[np.float64], ids: NDArray[np.int32], size: int) -> NDArray[np.float64]:
    """Return the bits (...) of ids (...) where logprobs (..., V - 1) were predicted."""
    picked = np.take_along_axis(logprobs, np.maximum(ids, 1)[..., None] - 1, -1)[..., 0]
    return np.where(ids > 0, -picked * BITS, unknown_bits(size))


def _read(ids: NDArray[np.int32], state: State) -> _Asking[State]:
    """Return the state (1, S) after reading ids (T,)."""
    if len(ids):
        _, state = yield _Step(ids[:, None], state, len(ids))
    return state


def _read_on(network: StepNetwork, ids: NDArray[np.int32], state: State) -> State:
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
