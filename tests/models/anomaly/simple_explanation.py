"""Reference for `models.anomaly.explanation`: one line at a time, every hypothesis read to its end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.noisy_channel import FAULT_BITS, MAX_EXAMINED, MAX_MARKS
from nextchar.models.anomaly.spans import Span, merged
from nextchar.models.runtime.decoding import BITS, log_softmax
from nextchar.models.runtime.session import State, StepNetwork
from nextchar.models.text.vocabulary import UNKNOWN_ID, Vocabulary, unknown_bits

_MIN_EXCESS = 3.0
_LOOK_BACK = 3
_LOOK_AHEAD = 8
_CANDIDATES = 6
_SLICE = 16


def anomalous_spans(
    network: StepNetwork, vocabulary: Vocabulary, line: str, *, threshold: float
) -> list[Span]:
    """Return the anomalous spans of a line of characters, in order."""
    ids = vocabulary.encode(line)
    state = network.initial_state()
    last = int(vocabulary.encode("\n")[0])  # not read yet
    marks: list[Span] = []
    max_marks = MAX_MARKS * (1 + line.count("\n"))
    at = examined = 0
    while at < len(ids) and len(marks) < max_marks:
        min_excess = min(threshold, _MIN_EXCESS) if examined < MAX_EXAMINED else threshold
        found = _next_surprising(network, ids[at:], last, state, min_excess)
        if found is None:
            break
        position = at + found.position
        best = _best_hypothesis(network, vocabulary, ids, position, found)
        examined += 1
        if best.mark:
            marks.append(best.mark)
        is_above = found.excess > threshold and not best.mark  # an edit before it explains it, too
        is_unknown = ids[position] == UNKNOWN_ID and not (best.mark and best.mark.start == position)
        if is_above or is_unknown:
            marks.append(Span(position, position + 1, float(found.bits[-1])))
        state, last = best.state, best.last
        at = position + 1
    return merged(marks)


@dataclass(frozen=True)
class _Surprising:
    """A surprising character, with the few before it that have not been examined."""

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
    network: StepNetwork, ids: NDArray[np.int32], last: int, state: State, min_excess: float
) -> _Surprising | None:
    """Find the first character whose excess is above `min_excess`, or that is unknown."""
    inputs = np.concatenate([np.array([last], np.int32), ids[:-1]])
    back, before = 0, state  # the beginning of the slice before this one
    for at in range(0, len(ids), _SLICE):
        part = ids[at : at + _SLICE]
        logits, after = network.step(inputs[at : at + _SLICE, None], state)
        _, excess = _surprisal(log_softmax(logits[:, 0]), part, network.V)
        surprising = np.flatnonzero((excess > min_excess) | (part == UNKNOWN_ID))
        if surprising.size:
            position = at + int(surprising[0])
            first = max(0, position - _LOOK_BACK)
            before = _read(network, inputs[back:first], before)
            logits, _ = network.step(inputs[first : position + 1, None], before)
            logprobs, window = log_softmax(logits[:, 0]), ids[first : position + 1]
            bits, _ = _surprisal(logprobs, window, network.V)
            return _Surprising(
                position, float(excess[surprising[0]]), window, bits, logprobs, before, int(inputs[first])
            )
        back, before, state = at, state, after
    return None


def _best_hypothesis(
    network: StepNetwork, vocabulary: Vocabulary, ids: NDArray[np.int32], at: int, surprising: _Surprising
) -> _Best:
    window = surprising.window.tolist()
    ahead = ids[at + 1 : at + 1 + _LOOK_AHEAD]
    # Position in the window, what is expected there, and the corrected window; the first has no edit.
    hypotheses: list[tuple[int, str | None, list[int]]] = [(len(window) - 1, None, window)]
    for i in reversed(range(len(window))):
        is_last = i == len(window) - 1 and not len(ahead)
        for expected, edited in _edits(vocabulary, window[i], surprising.logprobs[i], is_last=is_last):
            hypotheses.append((i, expected, [*window[:i], *edited, *window[i + 1 :]]))
    costs = _costs_ahead(
        network, [edited for _, _, edited in hypotheses], ahead, surprising.state, surprising.last
    )
    best = int(np.argmin(costs))
    if costs[0] - costs[best] <= FAULT_BITS:
        best = 0
    i, expected, edited = hypotheses[best]
    start = at + 1 - len(window) + i
    mark = Span(start, start + 1, float(surprising.bits[i]), expected) if best else None
    state, last = surprising.state, surprising.last
    if edited:
        state, last = _read(network, np.array([last, *edited[:-1]], np.int32), state), edited[-1]
    return _Best(mark, state, last)


def _edits(
    vocabulary: Vocabulary, an_id: int, logprobs: NDArray[np.float64], *, is_last: bool
) -> Iterator[tuple[str, list[int]]]:
    """Yield what is expected instead of a character, and its ids."""
    likely = np.argsort(-logprobs, kind="stable")[: _CANDIDATES + 1] + 1
    candidates = [int(i) for i in likely if i != an_id][:_CANDIDATES]
    yield from ((vocabulary.characters[c - 1], [c]) for c in candidates)
    if not is_last:
        yield "", []
        yield from (
            (vocabulary.characters[c - 1] + vocabulary.decode([an_id]), [c, an_id]) for c in candidates
        )


def _surprisal(
    logprobs: NDArray[np.float64], ids: NDArray[np.int32], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bits and excess (T,) of ids (T,) predicted by logprobs (T, V - 1)."""
    bits = _bits(logprobs, ids, size)
    return bits, bits + (np.exp(logprobs) * logprobs).sum(1) * BITS


def _costs_ahead(
    network: StepNetwork, windows: Sequence[Sequence[int]], ahead: NDArray[np.int32], state: State, last: int
) -> NDArray[np.float64]:
    """Return (n,) the bits of each of `windows` together with `ahead`, after the character `last`."""
    longest = max(map(len, windows)) + len(ahead)
    rows = np.zeros((longest + 1, len(windows)), np.int32)
    for column, window_ids in enumerate(windows):
        row = [last, *window_ids, *ahead]
        rows[: len(row), column] = row
    logits, _ = network.step(rows[:-1], np.repeat(state, len(windows), 0))
    logprobs = log_softmax(logits)
    bits = np.stack([_bits(logprobs[:, i], rows[1:, i], network.V) for i in range(len(windows))], 1)
    return np.array(
        [bits[: len(window_ids) + len(ahead), column].sum() for column, window_ids in enumerate(windows)]
    )


def _bits(logprobs: NDArray[np.float64], ids: NDArray[np.int32], size: int) -> NDArray[np.float64]:
    picked = logprobs[np.arange(len(ids)), np.maximum(ids, 1) - 1]
    return np.where(ids > 0, -picked * BITS, unknown_bits(size))


def _read(network: StepNetwork, ids: NDArray[np.int32], state: State) -> State:
    for at in range(0, len(ids), 256):
        part = ids[at : at + 256, None]
        _, state = network.step(part, state, len(part))
    return state
