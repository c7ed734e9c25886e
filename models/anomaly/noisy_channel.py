"""The noisy channel by which the faults in a line are located, with the network as its language model.

Surprisal alone does not locate a fault. After a wrong character correct ones are surprising too, because the
network has never read such a text; at the beginning of a word correct characters are surprising anyway; and a
wrong character may not be surprising itself (`consteuctor` is so only at the `u`). So for each surprising
character the likeliest of several hypotheses is found, given this character, the three before and the eight
after it: that all are correct, or that one of the first four is a substitution, an insertion, or follows a
deletion. A character is marked if an edit of it gains FAULT_BITS, or if its excess is above the threshold.
Reading then continues from the best hypothesis, so characters that are surprising only because of an earlier
fault are not marked. This is greedy, with single edits (Kernighan, Church and Gale 1990).

Explanations: which characters make a line anomalous, and what was expected in their place.

Many lines are explained side by side. Each is a generator (`find_spans`) that yields the steps
it needs; the steps of all lines run in one batch. If the network is batch-invariant, so are the spans.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.spans import Span, merged
from nextchar.models.runtime.decoding import BITS, log_softmax
from nextchar.models.runtime.session import Logits, State, StepNetwork
from nextchar.models.runtime.surprisal import SLICE_LOGITS
from nextchar.models.text.vocabulary import UNKNOWN_ID, Vocabulary, unknown_bits

MAX_MARKS = 12
"""Per line; a text has as many for each of its lines. The rest of the line is not examined."""

FAULT_BITS = 9.0
"""How much likelier an edit must make the line: a prior probability of a fault of 1 in 512."""

MAX_EXAMINED = 200
"""Characters per line for which edits are considered; after them only the threshold counts."""

PIECE = 2
"""Characters after which hypotheses that have become too unlikely are dropped."""

_MIN_EXCESS = 3.0  # bits; edits are considered for characters above
_LOOK_BACK = 3  # characters before a surprising one that may be the fault
_LOOK_AHEAD = 8  # characters after it by which hypotheses are compared
_CANDIDATES = 6  # replacements considered at each position
_SLICE = 16  # characters read at a time in search of the next surprising one
_ROUNDING = 1e-6  # bits; sums of the same figures differ by less


@dataclass(frozen=True)
class Step:
    """A step that a line needs: logits (T - first, B, V), and the state (B, S) after it if `needs_state`."""

    ids: NDArray[np.int32]  # (T, B)
    state: State  # (B, S) before them
    first: int = 0  # 0, or T if no logits are needed
    needs_state: bool = True


_T = TypeVar("_T")
Steps = Generator[Step, tuple[Logits, State], _T]


def find_spans(
    size: int, vocabulary: Vocabulary, line: str, threshold: float, last: int, state: State
) -> Steps[list[Span]]:
    """Find the anomalous spans of a line after the unread character `last`, with a network of `size` ids."""
    ids = vocabulary.encode(line)
    marks: list[Span] = []
    max_marks = MAX_MARKS * (1 + line.count("\n"))
    at = examined = 0
    while len(marks) < max_marks:
        min_excess = min(threshold, _MIN_EXCESS) if examined < MAX_EXAMINED else threshold
        surprising = yield from _next_surprising(size, ids[at:], last, state, min_excess)
        if surprising is None:
            break
        position = at + surprising.position
        best = yield from _best_hypothesis(size, vocabulary, ids, position, surprising)
        examined += 1
        if best.mark:
            marks.append(best.mark)
        is_above = surprising.excess > threshold and not best.mark  # an edit before it explains it, too
        is_unknown = ids[position] == UNKNOWN_ID and not (best.mark and best.mark.start == position)
        if is_above or is_unknown:
            marks.append(Span(position, position + 1, float(surprising.bits[-1])))
        state, last = best.state, best.last
        at = position + 1
    return merged(marks)


@dataclass(frozen=True)
class _Surprising:
    """A surprising character, with the few before it that have not been examined: a window of W."""

    position: int
    excess: float
    window: NDArray[np.int32]  # (W,) ids, the last of which is the character
    bits: NDArray[np.float64]  # (W,) their surprisal
    logprobs: NDArray[np.float64]  # (W, V - 1) the predictions
    state: State  # before the window
    last: int  # the unread character before the window


@dataclass(frozen=True)
class _Best:
    """The best hypothesis about a surprising character, and where reading continues."""

    mark: Span | None  # the edited character; None: no edit
    state: State
    last: int  # the unread character


def _next_surprising(
    size: int, ids: NDArray[np.int32], last: int, state: State, min_excess: float
) -> Steps[_Surprising | None]:
    """Find the first character whose excess is above `min_excess`, or that is unknown."""
    inputs = np.concatenate([np.array([last], np.int32), ids[:-1]])
    back, before = 0, state  # the beginning of the slice before this one, and the state there
    previous = np.empty((0, size - 1))  # (T, V - 1) the predictions of that slice
    for at in range(0, len(ids), _SLICE):
        part = ids[at : at + _SLICE]
        is_last = at + _SLICE >= len(ids)
        logits, after = yield Step(inputs[at : at + _SLICE, None], state, needs_state=not is_last)
        logprobs = log_softmax(logits[:, 0])
        _, excess = _surprisal(logprobs, part, size)
        surprising = np.flatnonzero((excess > min_excess) | (part == UNKNOWN_ID))
        if surprising.size:
            position = at + int(surprising[0])
            first = max(0, position - _LOOK_BACK)
            before = yield from _read(inputs[back:first], before)
            window = ids[first : position + 1]
            logprobs = np.concatenate([previous, logprobs])[first - back : position + 1 - back]
            bits, _ = _surprisal(logprobs, window, size)
            excess_there = float(excess[surprising[0]])
            return _Surprising(position, excess_there, window, bits, logprobs, before, int(inputs[first]))
        back, before, previous, state = at, state, logprobs, after
    return None


def _best_hypothesis(
    size: int, vocabulary: Vocabulary, ids: NDArray[np.int32], position: int, surprising: _Surprising
) -> Steps[_Best]:
    window = surprising.window.tolist()
    ahead = ids[position + 1 : position + 1 + _LOOK_AHEAD]
    unedited_cost = yield from _unedited_cost(size, ahead, surprising)
    best, limit = None, unedited_cost - FAULT_BITS
    if limit > 0:  # costs are not negative: no edit can gain more than the cost without one
        every = _hypotheses(vocabulary, surprising, ahead, unknown_bits(size))
        hypotheses = [hypothesis for hypothesis in every if hypothesis.cost < limit]
        costs = yield from _costs(size, hypotheses, surprising, limit)
        min_cost = min(costs, default=math.inf)
        if math.isfinite(min_cost):  # of equal ones, the first
            first = next(i for i, cost in enumerate(costs) if cost < min_cost + _ROUNDING)
            best = hypotheses[first]
    mark, corrected = None, window
    if best:
        start = position + 1 - len(window) + best.offset
        mark = Span(start, start + 1, float(surprising.bits[best.offset]), best.expected)
        corrected = [*window[: best.offset], *best.replacement, *window[best.offset + 1 :]]
    if not corrected:
        return _Best(mark, surprising.state, surprising.last)
    inputs = np.array([surprising.last, *corrected[:-1]], np.int32)
    state = yield from _read(inputs, surprising.state)
    return _Best(mark, state, corrected[-1])


def _unedited_cost(size: int, ahead: NDArray[np.int32], surprising: _Surprising) -> Steps[float]:
    """Return the bits of the window and the characters ahead, without an edit."""
    row = np.array([surprising.last, *surprising.window, *ahead], np.int32)
    logits, _ = yield Step(row[:-1, None], surprising.state, needs_state=False)
    return float(_bits(log_softmax(logits[:, 0]), row[1:], size).sum())


@dataclass(frozen=True)
class _Hypothesis:
    """One edit of a character in the window."""

    offset: int  # in the window, of the edited character
    expected: str | None  # there
    replacement: list[int]  # ids that are read in its place
    rest: list[int]  # ids from this offset on, with those ahead
    cost: float  # bits of all before `rest` and of its first


def _hypotheses(
    vocabulary: Vocabulary, surprising: _Surprising, ahead: NDArray[np.int32], unknown_cost: float
) -> Iterator[_Hypothesis]:
    """Yield each edit; `unknown_cost` is the surprisal of an unknown character."""
    window = surprising.window.tolist()
    for i in reversed(range(len(window))):
        before = float(surprising.bits[:i].sum())
        is_last = i == len(window) - 1 and not len(ahead)
        for expected, replacement in _edits(vocabulary, window[i], surprising.logprobs[i], is_last=is_last):
            rest = [*replacement, *window[i + 1 :], *ahead.tolist()]
            first = -float(surprising.logprobs[i, rest[0] - 1]) * BITS if rest[0] else unknown_cost
            yield _Hypothesis(i, expected, replacement, rest, before + first)


def _edits(
    vocabulary: Vocabulary, an_id: int, logprobs: NDArray[np.float64], *, is_last: bool
) -> Iterator[tuple[str, list[int]]]:
    """Yield what is expected instead of a character, and its ids: another one, none, or one more before it.

    For the last character of a line only substitutions: no character after it distinguishes the other edits.
    """
    likely = np.argsort(-logprobs, kind="stable") + 1
    candidates = likely[likely != an_id][:_CANDIDATES].tolist()
    yield from ((vocabulary.characters[c - 1], [c]) for c in candidates)
    if not is_last:
        yield "", []
        character = vocabulary.decode([an_id])
        yield from ((vocabulary.characters[c - 1] + character, [c, an_id]) for c in candidates)


def _costs(
    size: int, hypotheses: Sequence[_Hypothesis], surprising: _Surprising, limit: float
) -> Steps[list[float]]:
    """Return the bits of each hypothesis; infinity if they reach `limit`, after which it is not read on."""
    if not hypotheses:
        return []
    states = [surprising.state]  # before each character of the window
    for character in [surprising.last, *surprising.window[:-1]]:
        states.append((yield from _read(np.array([character], np.int32), states[-1])))
    sizes = [len(hypothesis.rest) for hypothesis in hypotheses]
    ids = np.zeros((max(sizes), len(hypotheses)), np.int32)
    for column, hypothesis in enumerate(hypotheses):
        ids[: len(hypothesis.rest), column] = hypothesis.rest
    lengths = np.array(sizes) - 1  # without the last, which is only predicted
    longest = len(ids) - 1
    costs = np.array([hypothesis.cost for hypothesis in hypotheses])
    rows = np.arange(len(hypotheses))  # those that are still read
    state = np.concatenate([states[1 + hypothesis.offset] for hypothesis in hypotheses])
    for at in range(0, longest, PIECE):
        is_open = (lengths[rows] > at) & (costs[rows] < limit)
        rows, state = rows[is_open], state[is_open]
        if not len(rows):
            break
        end = min(at + PIECE, longest)
        logits, state = yield Step(ids[at:end, rows], state, needs_state=end < longest)
        bits = _bits(log_softmax(logits), ids[at + 1 : end + 1, rows], size)  # (T, B)
        costs[rows] += np.where(np.arange(at, end)[:, None] < lengths[rows], bits, 0.0).sum(0)
    return [float(cost) if cost < limit else math.inf for cost in costs]


def _surprisal(
    logprobs: NDArray[np.float64], ids: NDArray[np.int32], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bits and excess over entropy (T,) of ids (T,), predicted by logprobs (T, V - 1)."""
    bits = _bits(logprobs, ids, size)
    return bits, bits + (np.exp(logprobs) * logprobs).sum(1) * BITS


def _bits(logprobs: NDArray[np.float64], ids: NDArray[np.int32], size: int) -> NDArray[np.float64]:
    """Return the bits (...) of ids (...), predicted by logprobs (..., V - 1)."""
    picked = np.take_along_axis(logprobs, np.maximum(ids, 1)[..., None] - 1, -1)[..., 0]
    return np.where(ids > 0, -picked * BITS, unknown_bits(size))


def _read(ids: NDArray[np.int32], state: State) -> Steps[State]:
    """Return the state (1, S) after reading ids (T,)."""
    if len(ids):
        _, state = yield Step(ids[:, None], state, len(ids))
    return state


_SIDE_BY_SIDE = 8  # lines explained at a time; if `max_read` is reached, these are lost


def explain(
    network: StepNetwork,
    vocabulary: Vocabulary,
    lines: Sequence[str],
    *,
    threshold: float,
    max_read: int | None = None,
) -> list[list[Span] | None]:
    """Return the anomalous spans of each line, read after a newline; None for lines that are not explained.

    Once the network has read `max_read` characters no further line is started, and after twice as many the
    started ones are abandoned. So which lines are explained depends on the lines, not on time.

    Args:
        network: the network.
        vocabulary: its characters.
        lines: lines of characters.
        threshold: excess of surprisal over entropy, in bits, above which a character is anomalous; unknown
            characters always are.
        max_read: limit of the characters that the network reads; None: explain all lines.
    """
    state = network.initial_state()
    newline = int(vocabulary.encode("\n")[0])
    spans: list[list[Span] | None] = [None] * len(lines)
    waiting = iter(range(len(lines)))
    running: dict[int, tuple[Steps[list[Span]], Step]] = {}
    read = 0
    while max_read is None or read < 2 * max_read:
        while len(running) < _SIDE_BY_SIDE and (max_read is None or read < max_read):
            index = next(waiting, None)
            if index is None:
                break
            generator = find_spans(network.V, vocabulary, lines[index], threshold, newline, state)
            _advance(running, spans, index, generator, None)
        if not running:
            break
        requested = list(running.items())
        read += sum(step.ids.size for _, (_, step) in requested)
        results = _run_steps(network, [step for _, (_, step) in requested])
        for i, (index, (generator, _)) in enumerate(requested):
            _advance(running, spans, index, generator, results[i])
    return spans


def _advance(
    running: dict[int, tuple[Steps[list[Span]], Step]],
    spans: list[list[Span] | None],
    index: int,
    generator: Steps[list[Span]],
    result: tuple[Logits, State] | None,
) -> None:
    """Send a line the result of its step; note its next step, or its spans at the end."""
    try:
        running[index] = (generator, next(generator) if result is None else generator.send(result))
    except StopIteration as end:
        spans[index] = end.value
        running.pop(index, None)


def _run_steps(network: StepNetwork, steps: Sequence[Step]) -> list[tuple[Logits, State]]:
    """Run all steps, those of the same padded length in one call, within the bounds of a slice."""
    results: list[tuple[Logits, State] | None] = [None] * len(steps)
    kind = {index: (_padded_length(step), bool(step.first)) for index, step in enumerate(steps)}
    for (length, is_without_logits), group in groupby(sorted(kind, key=kind.__getitem__), kind.__getitem__):
        indices = list(group)
        max_rows = max(1, SLICE_LOGITS // (length * network.V))
        for part in _parts([steps[index].ids.shape[1] for index in indices], max_rows):
            batch = [steps[index] for index in indices[part]]
            ids = np.concatenate([_padded(step.ids, length) for step in batch], 1)
            state = np.concatenate([step.state for step in batch])
            logits, state = network.step(ids, state, length if is_without_logits else 0)
            at = 0
            for index in indices[part]:
                characters, rows = steps[index].ids.shape
                end = at + rows
                results[index] = logits[:characters, at:end], state[at:end]
                at = end
    return [result for result in results if result is not None]


def _padded_length(step: Step) -> int:
    """Return the length to which a step is padded, which is possible if the state after it is not needed."""
    length = len(step.ids)
    return length if step.needs_state else -(-length // PIECE) * PIECE


def _padded(ids: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    missing = length - len(ids)
    return np.pad(ids, ((0, missing), (0, 0))) if missing else ids


def _parts(rows: Sequence[int], max_rows: int) -> Iterator[slice]:
    """Yield slices of consecutive items with at most `max_rows` rows, or of a single item with more."""
    start = total = 0
    for index, count in enumerate(rows):
        if index > start and total + count > max_rows:
            yield slice(start, index)
            start, total = index, 0
        total += count
    yield slice(start, len(rows))
