"""Surprisal (-log2 p) and entropy of each character of a text, in bits, by a network.

Many lines are read side by side, in slices of some characters, so memory does not grow with their number or
length. Common prefixes of lines, which are frequent in logs, are read once. Probabilities are over the known
characters, as in completions. `nextchar.models.anomaly` turns surprisal into scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.decoding import BITS, likeliest, log_softmax
from nextchar.models.runtime.lstm_network import LstmNetwork
from nextchar.models.runtime.requests import CharacterLogprobs
from nextchar.models.runtime.session import Logits, State, StepNetwork
from nextchar.models.text.successors import Break
from nextchar.models.text.templates import ParsedLine
from nextchar.models.text.vocabulary import Vocabulary, unknown_bits
from nextchar.models.text.word_ngram import WordSurprisal

SLICE_LOGITS = 1 << 20
"""The most logits of one slice, T * B * V: 4 MB, and twice that while they are processed."""

MAX_ROWS = 512
"""The most lines read side by side."""

SHARED_STEPS = 16
"""Lines are compared after this many characters each: those with the same characters so far share a row."""

_MAX_STEPS = 256
_MAX_GROUP_IDS = 1 << 22  # of lines read side by side, padded to the longest: 16 MB


@dataclass(frozen=True)
class LineSurprisal:
    """The surprisal of a line of N characters, in bits.

    Attributes:
        bits: (N,) float32, surprisal of each character.
        entropy: (N,) float32, entropy of each prediction, that is the expected surprisal.
        has_end: whether the newline after the line was read too; False if the vocabulary has no newline.
        end_bits: surprisal of that newline.
        end_entropy: entropy of its prediction.
        ngram_bits: (N,) float32, or (N + 1,) with the newline, surprisal under the model's n-grams; None
            without n-grams.
        parsed: the line's template; None without templates.
        words: the surprisal of its words; None without n-grams of words.
        breaks: what it has that hardly any line is expected to have, the most improbable first, if the model
            knows what follows what.
    """

    bits: NDArray[np.float32]
    entropy: NDArray[np.float32]
    has_end: bool = False
    end_bits: float = 0.0
    end_entropy: float = 0.0
    ngram_bits: NDArray[np.float32] | None = None
    parsed: ParsedLine | None = None
    words: WordSurprisal | None = None
    breaks: tuple[Break, ...] = ()


@dataclass(frozen=True)
class TopCharacters:
    """The K likeliest characters at each of N positions, likeliest first.

    Attributes:
        ids: (N, K) int32.
        logprobs: (N, K) float64, natural.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float64]


def line_surprisal(
    network: StepNetwork,
    vocabulary: Vocabulary,
    lines: Sequence[str],
    *,
    context: str = "\n",
    with_end: bool = False,
) -> list[LineSurprisal]:
    """Return the surprisal of each NFC line, read by itself after `context`.

    The state is zero before `context`; an empty context means a newline. An unknown character costs
    `unknown_bits` and is read as id 0. With `with_end` the newline after each line is read too. The figures
    of a line do not depend on the other lines or their order.
    """
    logits, state = _read_context(network, vocabulary.encode(context or "\n"))
    end = vocabulary.encode("\n") if with_end and "\n" in vocabulary.characters else vocabulary.encode("")
    surprisals: list[LineSurprisal] = [_EMPTY] * len(lines)
    # In sorted order, lines with a common prefix are adjacent.
    order = sorted(range(len(lines)), key=lines.__getitem__)
    encoded = [np.concatenate([vocabulary.encode(lines[i]), end]) for i in order]
    for part in _groups(
        [len(ids) for ids in encoded], max_rows=max(1, min(MAX_ROWS, SLICE_LOGITS // network.V))
    ):
        group = encoded[part]
        bits, entropy = _read_group(network, group, logits, state)
        for column, (index, ids) in enumerate(zip(order[part], group, strict=True)):
            n = len(ids) - len(end)
            surprisals[index] = _slice_line(n, bits[:, column], entropy[:, column], has_end=len(end) > 0)
    return surprisals


def stream_surprisal(
    network: StepNetwork, vocabulary: Vocabulary, lines: Sequence[str], state: State | None
) -> tuple[list[LineSurprisal], State]:
    """Return the surprisal of NFC lines read one after the other, each with its newline.

    Args:
        network: the network.
        vocabulary: its characters.
        lines: without their newlines.
        state: (1, S) the state that the previous call returned; None (zeros) at the beginning of a stream.

    Returns:
        The surprisal of each line, and the state (1, S) before the last newline.
    """
    state = network.initial_state() if state is None else state
    ids = vocabulary.encode("\n" + "".join(line + "\n" for line in lines))
    bits, entropy = np.empty(len(ids), np.float32), np.empty(len(ids), np.float32)
    steps = _slice_steps(network.V)
    for at in range(0, len(ids) - 1, steps):
        end = min(at + steps, len(ids) - 1)
        logits, state = network.step(ids[at:end, None], state)
        part_bits, part_entropy = _measure(logits, np.zeros(1, np.intp), ids[at + 1 : end + 1, None])
        bits[at + 1 : end + 1], entropy[at + 1 : end + 1] = part_bits[:, 0], part_entropy[:, 0]
    return split_by_line(lines, bits[1:], entropy[1:], has_end="\n" in vocabulary.characters), state


def split_by_line(
    lines: Sequence[str], bits: NDArray[np.float32], entropy: NDArray[np.float32], *, has_end: bool
) -> list[LineSurprisal]:
    """Return the surprisal of each line, from bits and entropy (N,) of the lines with their newlines."""
    surprisals, at = [], 0
    for line in lines:
        surprisals.append(_slice_line(len(line), bits[at:], entropy[at:], has_end=has_end))
        at += len(line) + 1
    return surprisals


def continuation_bits(
    network: StepNetwork,
    continuations: Sequence[NDArray[np.int32]],
    logits: NDArray[np.float32],
    state: State,
) -> list[float]:
    """Return the bits of each continuation (ids, at least one) after logits (V,) and state (1, S).

    They are read as a tree: one row per step for all that have the same characters so far and go on.
    """
    if not continuations:
        return []
    order = sorted(range(len(continuations)), key=lambda i: continuations[i].tolist())
    n, lengths = len(order), np.array([len(continuations[i]) for i in order])
    ids = np.zeros((int(lengths.max()), n), np.int32)  # padded at the end
    for column, i in enumerate(order):
        ids[: lengths[column], column] = continuations[i]
    depths = np.arange(len(ids))[:, None]
    is_open = depths < lengths  # (T, n) whether a continuation has a character there
    leads = _common_lengths(ids, lengths) < depths
    leads[:, 0] = True
    leads[:, 1:] |= ~is_open[:, :-1]  # the one before it has ended
    leads &= is_open
    row_of = leads.cumsum().reshape(leads.shape) - 1  # of the rows of all steps
    steps, columns = leads[1:].nonzero()
    ends = leads[1:].sum(1).cumsum()
    starts = np.concatenate([[0, 1], ends[:-1] + 1])  # of the rows of each step
    parents = row_of[steps, columns] - starts[steps]
    stepped = _read_tree(network, ids[steps, columns], parents, ends, state)
    z, _, total = _softmax(np.concatenate([logits[None], stepped]))
    found = np.empty(n)
    found[order] = np.where(is_open, _bits(z, total, (row_of,), ids), 0.0).sum(0, dtype=np.float64)
    return found.tolist()


def _read_tree(
    network: StepNetwork,
    ids: NDArray[np.int32],
    parents: NDArray[np.int64],
    ends: NDArray[np.int64],
    state: State,
) -> NDArray[np.float32]:
    """Return logits as `LstmNetwork.read_tree`, by any network."""
    if isinstance(network, LstmNetwork):
        return network.read_tree(ids, parents, ends, state)
    logits, start = np.empty((len(ids), network.V), np.float32), 0
    for end in ends.tolist():
        stepped, state = network.step(ids[None, start:end], state[parents[start:end]])
        logits[start:end], start = stepped[0], end
    return logits


def text_logprobs(
    network: StepNetwork, vocabulary: Vocabulary, text: str, *, top: int, context: str = "\n"
) -> list[CharacterLogprobs]:
    """Return each character of NFC `text` with its log-probability and the `top` likeliest at its position.

    The text is read after `context`, as in `line_surprisal`; an unknown character costs `unknown_bits`.
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
    """Return the `top` likeliest characters at each position of NFC `text`, ties by lower id.

    The same characters as from `text_logprobs`, in a hundredth of the memory.
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
    """Yield, for a few characters of the text at a time: position, ids (T,) and (T, V - 1) logprobs."""
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


def _slice_line(
    n: int, bits: NDArray[np.float32], entropy: NDArray[np.float32], *, has_end: bool
) -> LineSurprisal:
    """Return the surprisal of a line: the first n figures, and with `has_end` the next, of its newline."""
    end = (True, float(bits[n]), float(entropy[n])) if has_end else ()
    return LineSurprisal(bits[:n].copy(), entropy[:n].copy(), *end)


def _groups(lengths: Sequence[int], *, max_rows: int) -> Iterator[slice]:
    """Yield slices of consecutive lines that are read together, bounded in number and padded size."""
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        rows = index + 1 - start
        if rows > 1 and (rows > max_rows or rows * longest > _MAX_GROUP_IDS):
            yield slice(start, index)
            start, longest = index, length
    if start < len(lengths):
        yield slice(start, len(lengths))


def _read_group(
    network: StepNetwork, lines: list[NDArray[np.int32]], first: NDArray[np.float32], state: State
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return bits and entropy (longest, n) of n sorted lines of ids, from state (1, S) and logits (V,)."""
    n, lengths = len(lines), np.array([len(line) for line in lines])
    longest = int(lengths.max())
    ids = np.zeros((longest, n), np.int32)  # padded at the end
    for column, line in enumerate(lines):
        ids[: len(line), column] = line
    common = _common_lengths(ids, lengths)
    bits, entropy = np.zeros((longest, n), np.float32), np.zeros((longest, n), np.float32)
    if not longest:
        return bits, entropy
    row_of = np.zeros(n, np.intp)  # the row of `state` that has read each line so far
    bits[:1], entropy[:1] = _measure(first[None, None], row_of, ids[:1])
    at = 0
    while at < longest - 1:
        open_lines = np.flatnonzero(lengths > at + 1)
        shared = bool((common > at).any())
        end = min(longest - 1, at + _steps(len(open_lines), network.V, shared=shared))
        # A line needs a row of its own unless it equals the line before it up to `end`.
        leads = (common < end)[open_lines]
        leads[0] = True
        leads[1:] |= np.diff(open_lines) > 1  # the line before it has ended
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
    """Return (n,) the length of the prefix that each line, a column of ids, shares with the one before."""
    same = np.ones((len(ids) + 1, ids.shape[1]), bool)
    same[:-1, 1:] = ids[:, 1:] == ids[:, :-1]
    same[-1] = False
    common = same.argmin(0)
    common[0] = 0
    shorter = np.minimum(lengths, np.concatenate([[0], lengths[:-1]]))
    result: NDArray[np.intp] = np.minimum(common, shorter)
    return result


def _steps(rows: int, vocabulary_size: int, *, shared: bool) -> int:
    steps = _slice_steps(rows * vocabulary_size)
    return min(SHARED_STEPS, steps) if shared else steps


def _slice_steps(logits_per_step: int) -> int:
    return max(1, min(_MAX_STEPS, SLICE_LOGITS // logits_per_step))


def _measure(
    logits: Logits, row_of: NDArray[np.intp], ids: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return bits and entropy (T, n) of ids (T, n) by logits (T, B, V); column i belongs to row_of[i]."""
    z, p, total = _softmax(logits)
    entropy = (np.log(total) - np.einsum("tbv,tbv->tb", p, z) / total)[:, row_of]
    bits = _bits(z, total, (np.arange(len(z))[:, None], row_of), ids)
    return bits, np.maximum(entropy, 0.0) * np.float32(BITS)


def _softmax(logits: Logits) -> tuple[Logits, Logits, NDArray[np.float32]]:
    """Return the logits (..., V - 1) of ids from 1 on less their maximum, e to that power, and its sums."""
    z = logits[..., 1:]
    z = z - z.max(-1, keepdims=True)
    p = np.exp(z)
    return z, p, p.sum(-1)


def _bits(
    z: Logits, total: NDArray[np.float32], rows: tuple[NDArray[np.intp], ...], ids: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Return the bits (T, n) of ids (T, n) by `rows` of what `_softmax` returns."""
    bits = np.maximum(np.log(total)[rows] - z[(*rows, np.maximum(ids, 1) - 1)], 0.0)
    cost = np.float32(unknown_bits(z.shape[-1] + 1))
    return np.where(ids > 0, bits * np.float32(BITS), cost)


def _read_context(network: StepNetwork, ids: NDArray[np.int32]) -> tuple[NDArray[np.float32], State]:
    """Return the logits (V,) and state (1, S) after reading ids from the zero state."""
    state = network.initial_state()
    for at in range(0, len(ids), 256):
        piece = ids[at : at + 256, None]
        logits, state = network.step(piece, state, len(piece) - 1)
    return logits[-1, 0], state


def higher(first: Sequence[LineSurprisal], second: Sequence[LineSurprisal]) -> list[LineSurprisal]:
    """Return for the same lines the higher surprisal, and the higher excess over entropy, of two precisions.

    Streams are scored in int8 and JSON in float32, by one calibration. After masking, many lines of a log are
    identical, and so are their figures: if int8 makes them slightly higher than float32 did, all these lines
    would exceed the threshold at once. A calibration on the higher figures is valid for both.
    """
    return [_higher(a, b) for a, b in zip(first, second, strict=True)]


def _higher(a: LineSurprisal, b: LineSurprisal) -> LineSurprisal:
    bits = np.maximum(a.bits, b.bits)
    end_bits = max(a.end_bits, b.end_bits)
    return replace(
        a,
        bits=bits,
        entropy=bits - np.maximum(a.bits - a.entropy, b.bits - b.entropy),
        end_bits=end_bits,
        end_entropy=end_bits - max(a.end_bits - a.end_entropy, b.end_bits - b.end_entropy),
    )
