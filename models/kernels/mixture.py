"""A mixture of a network with n-grams and two match models, compiled when first imported.

The probability of a character c is proportional to

    exp(w network(c) + v log n-gram(c) + boosts of c),

the logarithmic opinion pool that PAQ calls mixing in the logistic domain (Mahoney 2005). A match model finds
the last occurrence of the characters just read, in the training text or in what the row itself has read, and
boosts the character that followed there. The weights w and v depend on the longest context that the n-grams
know, a boost on the length of its match. That they also depend on the network's confidence changes nothing
(docs/engineering/mixture.md).

What a row reads changes its predictions in two more ways, unless `Experts.adaptation` is zero: the n-grams of
its history are added to those of the training text, and its weights adapt to which expert is right.

Everything is computed row by row, so a row's result is bit-identical in any batch.
"""

import numpy as np

from models.kernels.jit import compiled, inline_jit
from models.kernels.mixture_adaptation import adapt, mix_row, write_indices, write_weights
from models.kernels.mixture_arguments import (
    BLOCK,
    CONTEXT,
    FEATURES,
    FIRST_CHILD,
    GROUPS,
    HISTORY,
    ID,
    LENGTHS,
    MATCH_AT,
    MATCH_BUCKET,
    MATCH_CHARACTERS,
    MATCH_ID,
    MATCH_LENGTH,
    MAX_MATCH,
    MAX_RECENT,
    NODES,
    ORDER,
    PAST,
    PREDICTIONS,
    RECENT_WEIGHT,
    REPEAT_BUCKET,
    REPEAT_CHARACTERS,
    REPEAT_DISTANCE,
    REPEAT_ID,
    REPEAT_LENGTH,
    SET_PRECISION,
)
from models.kernels.mixture_ngrams import write_ngrams

_MAX_ID = 65535

EXPERTS = "int32[:,::1], int32[:,::1], float32[:,::1], int32[::1], int32[::1], float32[::1], float32[::1]"
"""Signature of the fields of `Experts`."""


# ---- what has been read


@inline_jit
def _child(contexts, nodes, node, c):  # type: ignore[no-untyped-def]
    """Return the child of a node with this id, or 0."""
    start, end = contexts[node, FIRST_CHILD], contexts[node + 1, FIRST_CHILD]
    last = end
    while start < end:
        middle = (start + end) >> 1
        if nodes[middle, ID] < c:
            start = middle + 1
        else:
            end = middle
    return start if start < last and nodes[start, ID] == c else np.int32(0)


@inline_jit
def _hash_of(ids, end):  # type: ignore[no-untyped-def]
    """Return a hash (uint64) of the MATCH_CHARACTERS ids before position `end`."""
    h = np.uint64(0)
    for j in range(MATCH_CHARACTERS):
        h = (h ^ np.uint64(ids[end - 1 - j])) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(29)
    return h


@inline_jit
def _common_length(text, at, past):  # type: ignore[no-untyped-def]
    """Return how many known characters before text[at] are also the last of `past`, up to MAX_MATCH.

    The text may be `past` itself.
    """
    length = 0
    while length < MAX_MATCH and length < at:
        c = text[at - 1 - length]
        if c == 0 or c != past[HISTORY - 1 - length]:
            break
        length += 1
    return length


@inline_jit
def _follow_match(text, positions, row, past, c):  # type: ignore[no-untyped-def]
    """Move the match in the training text beyond c, the last of `past`; or find one."""
    at = row[MATCH_AT]
    if at > 0 and text[at] == c:
        row[MATCH_AT] = at + 1
        row[MATCH_LENGTH] = min(row[MATCH_LENGTH] + 1, MAX_MATCH)
    else:
        at = positions[np.int64(_hash_of(past, HISTORY) & np.uint64(len(positions) - 1))]
        length = _common_length(text, at, past)
        is_match = length >= MATCH_CHARACTERS
        row[MATCH_AT] = at if is_match else 0
        row[MATCH_LENGTH] = length if is_match else 0
    if row[MATCH_AT] >= len(text):
        row[MATCH_AT] = row[MATCH_LENGTH] = 0


@inline_jit
def _has_repeat(past, start):  # type: ignore[no-untyped-def]
    """Return whether the last four of `past` are also those up to one of BLOCK positions from `start` on.

    Without branches, and with unsigned indices, which need no test for being negative: so the compiler
    vectorizes the loop.
    """
    c0, c1, c2, c3 = past[HISTORY - 1], past[HISTORY - 2], past[HISTORY - 3], past[HISTORY - 4]
    found = False
    for k in range(BLOCK):
        i = np.uint64(start + k)
        newest = np.uint16(past[i] ^ c0) | np.uint16(past[i - np.uint64(1)] ^ c1)
        older = np.uint16(past[i - np.uint64(2)] ^ c2) | np.uint16(past[i - np.uint64(3)] ^ c3)
        found |= (newest | older) == 0
    return found


@inline_jit
def _find_repeat(row, past):  # type: ignore[no-untyped-def]
    """Set the match in the history to the longest, and of equals the newest."""
    row[REPEAT_DISTANCE] = row[REPEAT_LENGTH] = 0
    for block in range(1, HISTORY // BLOCK):
        start = HISTORY - 1 - block * BLOCK
        if not _has_repeat(past, start):
            continue
        for k in range(BLOCK):
            i = start + BLOCK - 1 - k
            length = _common_length(past, i + 1, past)
            if length >= REPEAT_CHARACTERS and length > row[REPEAT_LENGTH]:
                row[REPEAT_DISTANCE], row[REPEAT_LENGTH] = HISTORY - 1 - i, length
        if row[REPEAT_LENGTH] >= MAX_MATCH // 2:
            return


@compiled(
    "void(int32[:,::1], int32[:,::1], int32[::1], int32[::1], int32[::1], uint16[::1], int64)",
    is_internal=True,
)
def read_character(contexts, nodes, text, positions, row, past, c):  # type: ignore[no-untyped-def]
    """Read id c: change the state of a row, as int32, and its history `past`, as uint16."""
    for n in range(ORDER - 2, 0, -1):
        before = row[NODES + n - 1]
        row[NODES + n] = _child(contexts, nodes, before, c) if before > 0 else 0
    row[NODES] = _child(contexts, nodes, 0, c)
    # Nodes of the last level have no children, so none of them is in the state.
    short = np.uint16(c if c <= _MAX_ID else 0)
    distance = row[REPEAT_DISTANCE]
    was_predicted = distance > 0 and short != 0 and past[HISTORY - distance] == short
    for i in range(HISTORY - 1):
        past[i] = past[i + 1]
    past[HISTORY - 1] = short
    if len(text) > 0:
        _follow_match(text, positions, row, past, c)
    if was_predicted:
        row[REPEAT_LENGTH] = min(row[REPEAT_LENGTH] + 1, MAX_MATCH)
    else:
        _find_repeat(row, past)


@inline_jit
def _length_bucket(length):  # type: ignore[no-untyped-def]
    """Return 0 without a match, else 1 to LENGTHS - 1."""
    if length < 16:
        return (length + 1) >> 1
    if length < 32:
        return 5 + length // 4
    return min(LENGTHS - 1, 12 + length // 32)


@compiled("void(int32[::1], int32[::1], uint16[::1], int32[::1])", is_internal=True)
def write_features(text, row, past, features):  # type: ignore[no-untyped-def]
    """Write what the experts know after the characters read into features (FEATURES,)."""
    for n in range(ORDER - 1):
        features[n] = row[NODES + n]
    at, distance = row[MATCH_AT], row[REPEAT_DISTANCE]
    features[MATCH_ID] = text[at] if 0 < at < len(text) else 0
    features[MATCH_BUCKET] = _length_bucket(row[MATCH_LENGTH])
    features[REPEAT_ID] = past[HISTORY - distance] if distance > 0 else 0
    features[REPEAT_BUCKET] = _length_bucket(row[REPEAT_LENGTH])


# ---- what comes next


@compiled(
    f"void({EXPERTS}, int32[:,::1], int32[:,::1], uint16[:,::1], float32[:,::1], int64, float32[:,:,::1])"
)
def mix(  # type: ignore[no-untyped-def]
    contexts,
    nodes,
    unigrams,
    text,
    positions,
    weights,
    adaptation,
    ids,
    state,
    history,
    numbers,
    first,
    logits,
):
    """Read ids (T, B); turn logits (T - first, B, V) of the network after them into the mixture's, in place.

    `contexts` to `adaptation` are the fields of `Experts`. `state` (B, `Experts.state_columns`) is what the
    experts keep, changed in place; `history` and `numbers` are the same memory. Steps before `first` have no
    logits, so the weights do not adapt to what follows these.
    """
    size = logits.shape[2]
    features, indices = np.empty(FEATURES, np.int32), np.empty(GROUPS, np.int32)
    now = np.empty(GROUPS, np.float32)
    scratch = np.empty((3, size), np.float32)
    recent, slots = np.empty((ORDER, MAX_RECENT), np.int32), np.zeros(size, np.int32)
    ngrams = scratch[2]
    adapts = adaptation[SET_PRECISION] > 0
    for b in range(ids.shape[1]):
        row, past = state[b], history[b, 2 * PAST : 2 * PAST + HISTORY]
        for t in range(len(ids)):
            c = ids[t, b]
            if adapts and row[CONTEXT] > 0:
                if c > 0:
                    write_features(text, row, past, features)
                    write_indices(row[CONTEXT] - 1, features, indices)
                    adapt(weights, adaptation, indices, size, features, numbers[b], scratch, now, c)
                row[CONTEXT] = 0
            read_character(contexts, nodes, text, positions, row, past, c)
            if t < first:
                continue
            z = logits[t - first, b]
            write_features(text, row, past, features)
            context = write_ngrams(
                contexts, nodes, unigrams, features, past, adaptation[RECENT_WEIGHT], ngrams, scratch, recent,
                slots,
            )  # fmt: skip
            write_indices(context, features, indices)
            if adapts:
                row[CONTEXT] = context + 1
                for i in range(size):
                    numbers[b, PREDICTIONS + i] = z[i]
                    numbers[b, PREDICTIONS + size + i] = ngrams[i]
            write_weights(weights, numbers[b], adapts, indices, now)
            mix_row(now, features, ngrams, z)


@compiled("void(int32[::1], int32[::1])")
def index_text(text, positions):  # type: ignore[no-untyped-def]
    """Fill `positions` (a power of two), zeros at first, for a text; see `Experts`."""
    for end in range(MATCH_CHARACTERS, len(text)):
        positions[np.int64(_hash_of(text, end) & np.uint64(len(positions) - 1))] = end
