"""How surprised a network is by each character of a text, in bits.

Many lines are read side by side, in slices of some characters, so memory does not grow with their number
or length. Lines that begin alike are read once as far as they do: lines of a log share much. Probabilities
are over the known characters, as when completing. Knows nothing of calibration: what a high figure means
is decided in `models.anomaly`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import BITS, likeliest, log_softmax
from models.runtime.requests import CharacterLogprobs
from models.runtime.session import Logits, State, StepNetwork
from models.text.vocabulary import Vocabulary

SLICE_LOGITS = 1 << 20
"""The most logits of one slice, T * B * V: 4 MB as they come, twice that while in use."""

ROWS = 512
"""The most lines read side by side."""

SHARED_STEPS = 16
"""Lines are compared at every so many characters: those that were alike up to there are one row."""

_LONGEST_STEPS = 256
_GROUP_IDS = 1 << 22  # of lines read side by side, padded to the longest: 16 MB

UNKNOWN_EXTRA_BITS = 2.0


@dataclass(frozen=True)
class LineSurprisal:
    """What a network thought of a line of N characters.

    `bits` is the surprisal of each, (N,) float32; `entropy` (N,) float32 what it expected to be surprised
    by there, in bits. With `has_end`, `end_bits` and `end_entropy` are those of the newline behind the line;
    otherwise that was not asked for, or the network knows no newline. `ngram_bits`, (N,) float32 or with the
    newline (N + 1,), is what the model's n-grams were surprised by, where it has them.
    """

    bits: NDArray[np.float32]
    entropy: NDArray[np.float32]
    has_end: bool = False
    end_bits: float = 0.0
    end_entropy: float = 0.0
    ngram_bits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TopCharacters:
    """The K likeliest characters at each of N places, likeliest first.

    `ids` (N, K) int32, and `logprobs` (N, K) float64, natural logarithms.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float64]


def unknown_bits(vocabulary_size: int) -> float:
    """Return what a character costs that the model has never seen: 2 bits more than guessing blindly.

    Guessing blindly among the V - 1 known characters costs log2(V - 1). The network cannot tell the cost
    itself, for it was never trained to expect id 0.
    """
    return math.log2(max(2, vocabulary_size - 1)) + UNKNOWN_EXTRA_BITS


def score_text(
    network: StepNetwork, vocabulary: Vocabulary, text: str, *, context: str = "\n"
) -> NDArray[np.float64]:
    """Return the surprisal in bits of each character of NFC `text`, (len(text),), after `context`.

    The state is zero before `context`; an empty context stands for a newline. An unknown character costs
    `unknown_bits`, and is read as id 0.
    """
    return score_lines(network, vocabulary, [text], context=context)[0]


def score_lines(
    network: StepNetwork, vocabulary: Vocabulary, lines: Sequence[str], *, context: str = "\n"
) -> list[NDArray[np.float64]]:
    """Return `score_text` of each line, each after the same `context`."""
    return [r.bits.astype(np.float64) for r in read_lines(network, vocabulary, lines, context=context)]


def read_lines(
    network: StepNetwork,
    vocabulary: Vocabulary,
    lines: Sequence[str],
    *,
    context: str = "\n",
    with_end: bool = False,
) -> list[LineSurprisal]:
    """Read each NFC line by itself after `context`; `with_end` asks for the newline behind it too.

    A line's figures do not depend on the others or on their order.
    """
    logits, state = _read_context(network, vocabulary.encode(context or "\n"))
    end = vocabulary.encode("\n") if with_end and "\n" in vocabulary.characters else vocabulary.encode("")
    readings: list[LineSurprisal] = [_EMPTY] * len(lines)
    # Sorted, lines that begin alike are neighbours.
    order = sorted(range(len(lines)), key=lines.__getitem__)
    encoded = [np.concatenate([vocabulary.encode(lines[i]), end]) for i in order]
    for part in _groups(
        [len(ids) for ids in encoded], most_rows=max(1, min(ROWS, SLICE_LOGITS // network.V))
    ):
        group = encoded[part]
        bits, entropy = _read_group(network, group, logits, state)
        for column, (place, ids) in enumerate(zip(order[part], group, strict=True)):
            n = len(ids) - len(end)
            readings[place] = _reading(bits[:, column], entropy[:, column], n, has_end=len(end) > 0)
    return readings


def read_on(
    network: StepNetwork, vocabulary: Vocabulary, lines: Sequence[str], state: State | None
) -> tuple[list[LineSurprisal], State]:
    """Read NFC lines one behind the other, each with its newline, from the state a call before this left.

    `state` (1, S) is that before the newline in front of the first line; None stands for the zero state.
    Returns the readings and the state before the last newline.
    """
    state = network.initial_state() if state is None else state
    ids = vocabulary.encode("\n" + "".join(line + "\n" for line in lines))
    bits, entropy = np.empty(len(ids), np.float32), np.empty(len(ids), np.float32)
    steps = _slice_steps(network.V)
    for at in range(0, len(ids) - 1, steps):
        end = min(at + steps, len(ids) - 1)
        logits, state = network.step(ids[at:end, None], state)
        found = _measure(logits, np.zeros(1, np.intp), ids[at + 1 : end + 1, None])
        bits[at + 1 : end + 1], entropy[at + 1 : end + 1] = found[0][:, 0], found[1][:, 0]
    has_end = "\n" in vocabulary.characters
    readings, at = [], 1
    for line in lines:
        readings.append(_reading(bits[at:], entropy[at:], len(line), has_end=has_end))
        at += len(line) + 1
    return readings, state


def describe_text(
    network: StepNetwork, vocabulary: Vocabulary, text: str, *, top: int, context: str = "\n"
) -> list[CharacterLogprobs]:
    """Return each character of NFC `text` with its log-probability and the `top` likeliest at its place.

    After `context`, as in `score_text`; an unknown character gets what it costs there.
    """
    described: list[CharacterLogprobs] = []
    for at, ids, logprobs in _predictions(network, vocabulary, text, context):
        for character, an_id, row in zip(text[at : at + len(ids)], ids, logprobs, strict=True):
            logprob = float(row[an_id - 1]) if an_id else -unknown_bits(network.V) / BITS
            best = tuple((vocabulary.characters[i - 1], p) for i, p in (likeliest(row, top) if top else ()))
            described.append(CharacterLogprobs(character, logprob, best))
    return described


def top_characters(
    network: StepNetwork, vocabulary: Vocabulary, text: str, *, top: int, context: str = "\n"
) -> TopCharacters:
    """Return the `top` likeliest characters at each place of NFC `text`, after `context`; ties by lower id.

    The same as `describe_text` tells, in a hundredth of its memory.
    """
    count = min(top, network.V - 1)
    ids, logprobs = np.empty((len(text), count), np.int32), np.empty((len(text), count))
    for at, piece, predicted in _predictions(network, vocabulary, text, context):
        order = np.argsort(-predicted, axis=1, kind="stable")[:, :count]
        ids[at : at + len(piece)] = order + 1
        logprobs[at : at + len(piece)] = np.take_along_axis(predicted, order, 1)
    return TopCharacters(ids, logprobs)


def _predictions(
    network: StepNetwork, vocabulary: Vocabulary, text: str, context: str
) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.float64]]]:
    """Yield, for a few characters of the text at a time: their place, ids (T,), and (T, V - 1) logprobs."""
    ids = vocabulary.encode(text)
    logits, state = _read_context(network, vocabulary.encode(context or "\n"))
    rows = logits[None]  # (T, V) predictions for the characters from `at` on
    steps = _slice_steps(network.V)
    for at in range(0, len(ids), steps):
        piece = ids[at : at + steps]
        logits, state = network.step(piece[:, None], state)
        yield at, piece, log_softmax(np.concatenate([rows, logits[:-1, 0]]))
        rows = logits[-1:, 0]


_EMPTY = LineSurprisal(np.empty(0, np.float32), np.empty(0, np.float32))


def _reading(
    bits: NDArray[np.float32], entropy: NDArray[np.float32], n: int, *, has_end: bool
) -> LineSurprisal:
    """Return the reading of a line of n characters whose figures stand at the front of these arrays."""
    if not has_end:
        return LineSurprisal(bits[:n].copy(), entropy[:n].copy())
    return LineSurprisal(
        bits[:n].copy(),
        entropy[:n].copy(),
        has_end=True,
        end_bits=float(bits[n]),
        end_entropy=float(entropy[n]),
    )


def _groups(lengths: Sequence[int], *, most_rows: int) -> Iterator[slice]:
    """Yield the lines to be read together: consecutive ones, bounded in number and in padded size."""
    start, longest = 0, 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        rows = place + 1 - start
        if rows > 1 and (rows > most_rows or rows * longest > _GROUP_IDS):
            yield slice(start, place)
            start, longest = place, length
    if start < len(lengths):
        yield slice(start, len(lengths))


def _read_group(
    network: StepNetwork, lines: list[NDArray[np.int32]], first: NDArray[np.float32], state: State
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return bits and entropy (longest, n) of n sorted lines of ids, from state (1, S) and logits (V,)."""
    n, lengths = len(lines), np.array([len(line) for line in lines])
    longest = int(lengths.max())
    ids = np.zeros((longest, n), np.int32)  # padded at the end, where it cannot change what came before
    for column, line in enumerate(lines):
        ids[: len(line), column] = line
    alike = _common_lengths(ids, lengths)
    bits, entropy = np.zeros((longest, n), np.float32), np.zeros((longest, n), np.float32)
    if not longest:
        return bits, entropy
    row_of = np.zeros(n, np.intp)  # which row of `state` read a line so far
    bits[:1], entropy[:1] = _measure(first[None, None], row_of, ids[:1])
    at = 0
    while at < longest - 1:
        open_lines = np.flatnonzero(lengths > at + 1)
        shared = bool((alike > at).any())
        end = min(longest - 1, at + _steps(len(open_lines), network.V, shared=shared))
        # A line is a row of its own unless the line before it has the same characters up to `end`.
        leads = (alike < end)[open_lines]
        leads[0] = True
        leads[1:] |= np.diff(open_lines) > 1  # the one that it was compared with has ended
        rows = open_lines[leads]
        logits, state = network.step(ids[at:end, rows], state[row_of[rows]])
        row_of[open_lines] = np.cumsum(leads) - 1
        targets = ids[at + 1 : end + 1, open_lines]
        bits[at + 1 : end + 1, open_lines], entropy[at + 1 : end + 1, open_lines] = _measure(
            logits, row_of[open_lines], targets
        )
        at = end
    return bits, entropy


def _common_lengths(ids: NDArray[np.int32], lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return (n,) how many first characters each line, a column of ids, shares with the one before it."""
    same = np.ones((len(ids) + 1, ids.shape[1]), bool)
    same[:-1, 1:] = ids[:, 1:] == ids[:, :-1]
    same[-1] = False
    common = same.argmin(0)
    common[0] = 0
    shorter = np.minimum(lengths, np.concatenate([[0], lengths[:-1]]))
    result: NDArray[np.intp] = np.minimum(common, shorter)
    return result


def _steps(rows: int, vocabulary_size: int, *, shared: bool) -> int:
    fitting = _slice_steps(rows * vocabulary_size)
    return min(SHARED_STEPS, fitting) if shared else fitting


def _slice_steps(logits_a_step: int) -> int:
    return max(1, min(_LONGEST_STEPS, SLICE_LOGITS // logits_a_step))


def _measure(
    logits: Logits, row_of: NDArray[np.intp], ids: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the bits of ids (T, n), and the entropy there, by logits (T, B, V); line i is row_of[i]."""
    z = logits[..., 1:]
    z = z - z.max(-1, keepdims=True)
    p = np.exp(z)
    total = p.sum(-1)
    log_total = np.log(total)
    entropy = (log_total - np.einsum("tbv,tbv->tb", p, z) / total)[:, row_of]
    picked = z[np.arange(len(z))[:, None], row_of, np.maximum(ids, 1) - 1]
    bits = np.maximum(log_total[:, row_of] - picked, 0.0)
    known = ids > 0
    cost = np.float32(unknown_bits(logits.shape[-1]))
    return np.where(known, bits * np.float32(BITS), cost), np.maximum(entropy, 0.0) * np.float32(BITS)


def _read_context(network: StepNetwork, ids: NDArray[np.int32]) -> tuple[NDArray[np.float32], State]:
    """Return the logits (V,) and state (1, S) after reading ids from the zero state."""
    state = network.initial_state()
    for at in range(0, len(ids), 256):
        piece = ids[at : at + 256, None]
        logits, state = network.step(piece, state, len(piece) - 1)
    return logits[-1, 0], state
