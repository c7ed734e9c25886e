"""How surprised a network is by each character of a text, in bits.

Read in slices, so memory does not grow with the text; many lines are read side by side, the short ones
padded. Probabilities are over the known characters, as when completing. Knows nothing of calibration:
what a high figure means is decided elsewhere.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import BITS, likeliest, log_softmax
from models.runtime.requests import CharacterLogprobs
from models.runtime.session import Network, State
from models.vocabulary import Vocabulary

SLICE_LOGITS = 1 << 20
"""The most logits of one slice, T * B * V: 4 MB as they come, three times 8 MB while in use."""

ROWS = 64
"""The most lines read side by side."""

UNKNOWN_EXTRA_BITS = 2.0


def unknown_bits(vocabulary_size: int) -> float:
    """Return what a character costs that the model has never seen: 2 bits more than guessing blindly.

    Guessing blindly among the V - 1 known characters costs log2(V - 1). The network cannot tell the cost
    itself, for it was never trained to expect id 0.
    """
    return math.log2(max(2, vocabulary_size - 1)) + UNKNOWN_EXTRA_BITS


def score_text(
    network: Network, vocabulary: Vocabulary, text: str, *, context: str = "\n"
) -> NDArray[np.float64]:
    """Return the surprisal in bits of each character of NFC `text`, (len(text),), after `context`.

    The state is zero before `context`; an empty context stands for a newline. An unknown character costs
    `unknown_bits`, and is read as id 0.
    """
    return score_lines(network, vocabulary, [text], context=context)[0]


def describe_text(
    network: Network, vocabulary: Vocabulary, text: str, *, top: int, context: str = "\n"
) -> list[CharacterLogprobs]:
    """Return each character of NFC `text` with its log-probability and the `top` likeliest at its place.

    After `context`, as in `score_text`; an unknown character gets what it costs there.
    """
    ids = vocabulary.encode(text)
    logits, state = _read_context(network, vocabulary.encode(context or "\n"))
    rows = logits[None]  # (T, V) predictions for the characters from `at` on
    steps = _slice_steps(network.V)
    described: list[CharacterLogprobs] = []
    for at in range(0, len(ids), steps):
        piece = ids[at : at + steps]
        logits, state = network.step(piece[:, None], state)
        logprobs = log_softmax(np.concatenate([rows, logits[:-1, 0]]))
        rows = logits[-1:, 0]
        for character, an_id, row in zip(text[at : at + steps], piece, logprobs, strict=True):
            logprob = float(row[an_id - 1]) if an_id else -unknown_bits(network.V) / BITS
            best = tuple((vocabulary.characters[i - 1], p) for i, p in (likeliest(row, top) if top else ()))
            described.append(CharacterLogprobs(character, logprob, best))
    return described


def score_lines(
    network: Network, vocabulary: Vocabulary, lines: Sequence[str], *, context: str = "\n"
) -> list[NDArray[np.float64]]:
    """Return `score_text` of each line, each after the same `context`, read ROWS at a time."""
    logits, state = _read_context(network, vocabulary.encode(context or "\n"))
    first = log_softmax(logits)  # (V - 1,)
    results: list[NDArray[np.float64]] = [np.empty(0)] * len(lines)
    # Lines of like length side by side: less padding.
    by_length = sorted(range(len(lines)), key=lambda i: len(lines[i]))
    for start in range(0, len(lines), ROWS):
        group = by_length[start : start + ROWS]
        ids = [vocabulary.encode(lines[i]) for i in group]
        for i, bits in zip(group, _score_group(network, ids, first, state), strict=True):
            results[i] = bits
    return results


def _score_group(
    network: Network, lines: list[NDArray[np.int32]], first: NDArray[np.float64], state: State
) -> list[NDArray[np.float64]]:
    """Score lines of ids, the longest last, from one state (1, S) with `first` (V - 1,) predicted."""
    b, longest = len(lines), len(lines[-1])
    ids = np.zeros((longest, b), np.int32)  # padded at the end, where it cannot change what came before
    for column, line in enumerate(lines):
        ids[: len(line), column] = line
    bits = np.empty((longest, b))
    if longest:
        bits[0] = _bits_of(np.broadcast_to(first, (1, b, len(first))), ids[:1], network.V)[0]
    state = np.repeat(state, b, axis=0)
    steps = _slice_steps(b * network.V)
    for at in range(0, longest - 1, steps):
        end = min(at + steps, longest - 1)
        logits, state = network.step(ids[at:end], state)
        bits[at + 1 : end + 1] = _bits_of(log_softmax(logits), ids[at + 1 : end + 1], network.V)
    return [bits[: len(line), column].copy() for column, line in enumerate(lines)]


def _slice_steps(logits_a_step: int) -> int:
    return max(1, min(256, SLICE_LOGITS // logits_a_step))


def _bits_of(
    logprobs: NDArray[np.float64], ids: NDArray[np.int32], vocabulary_size: int
) -> NDArray[np.float64]:
    """Pick from logprobs (T, B, V - 1) those of ids (T, B), in bits."""
    known = np.maximum(ids, 1)[..., None] - 1
    bits = -BITS * np.take_along_axis(logprobs, known, -1)[..., 0]
    return np.where(ids == 0, unknown_bits(vocabulary_size), np.maximum(bits, 0.0))


def _read_context(network: Network, ids: NDArray[np.int32]) -> tuple[NDArray[np.float32], State]:
    """Return the logits (V,) and state (1, S) after reading ids from the zero state."""
    state = network.initial_state()
    for at in range(0, len(ids), 256):
        piece = ids[at : at + 256, None]
        logits, state = network.step(piece, state, len(piece) - 1)
    return logits[-1, 0], state
