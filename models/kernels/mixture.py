"""A mixture of a network with n-grams and match models, compiled when first imported.

The probability of a character c is proportional to

    exp(w network(c) + v log n-gram(c) + boosts of c),

the logarithmic opinion pool that PAQ calls mixing in the logistic domain (Mahoney 2005). A match model finds
the last occurrence of the characters just read, in the training text or in what the row itself has read, and
boosts the character that followed there. Where the one in the training text is wrong a new one is looked up,
and the old one also continues, as the resumed match, until it is wrong too often: texts repeat with small
changes. The weights w and v depend on the longest context that the n-grams know, a boost on the length of its
match. That they also depend on the network's confidence changes nothing (docs/engineering/mixture.md).

What a row reads changes its predictions in two more ways, unless `Experts.adaptation` is zero: the n-grams of
its history are added to those of the training text, and its weights adapt to which expert is right.

Everything is computed row by row, so a row's result is bit-identical in any batch.
"""

import numpy as np

from nextchar.models.kernels.intrinsics import prefetch
from nextchar.models.kernels.jit import compiled, inline_borrowing, inline_jit
from nextchar.models.kernels.mixture_adaptation import adapt, apply_weights, write_indices, write_weights
from nextchar.models.kernels.mixture_arguments import (
    BLOCKS,
    CONTEXT,
    FEATURES,
    FIRST_CHILD,
    GROUPS,
    HISTORY_CHARACTERS,
    HISTORY_IDS,
    HISTORY_MATCH_BUCKET,
    HISTORY_MATCH_DISTANCE,
    HISTORY_MATCH_ID,
    HISTORY_MATCH_LENGTH,
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
    PREDICTIONS,
    RECENT_WEIGHT,
    RESUMED_AT,
    RESUMED_BUCKET,
    RESUMED_ID,
    RESUMED_QUALITY,
    RESUMED_RUN,
    SET_PRECISION,
    STATE_COLUMNS,
)
from nextchar.models.kernels.mixture_ngrams import common_length, find_history_match, mark_pairs, write_ngrams

_MAX_ID = 65535

EXPERTS = "int32[:,::1], int32[:,::1], float32[:,::1], int32[::1], int32[::1], float32[::1], float32[::1]"
"""Signature of the fields of `Experts`."""


# ---- what has been read


@inline_borrowing
def _child(contexts, nodes, node, c):  # type: ignore[no-untyped-def]
    """Return the child of a node with this id, or 0."""
    start, last = contexts[node, FIRST_CHILD], contexts[node + 1, FIRST_CHILD]
    count = last - start
    while count > 1:  # without branches in the loop, which would often be predicted wrong
        half = count >> 1
        start += half if nodes[np.uint64(start + half), ID] <= c else 0
        count -= half
    return start if start < last and nodes[np.uint64(start), ID] == c else np.int32(0)


@inline_borrowing
def _hash_of(ids, end):  # type: ignore[no-untyped-def]
    """Return a hash (uint64) of the MATCH_CHARACTERS ids before position `end`."""
    h = np.uint64(0)
    for j in range(MATCH_CHARACTERS):
        h = (h ^ np.uint64(ids[end - 1 - j])) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(29)
    return h


@inline_borrowing
def _slot_of_text(positions, past):  # type: ignore[no-untyped-def]
    """Return the index in `positions` for the last of `past`."""
    return np.int64(_hash_of(past, HISTORY_CHARACTERS) & np.uint64(len(positions) - 1))


@inline_borrowing
def _follow_match(text, row, past, is_predicted, at):  # type: ignore[no-untyped-def]
    """Move the match in the training text beyond the last of `past`, if predicted; or to position `at`."""
    if is_predicted:
        row[MATCH_AT] += 1
        row[MATCH_LENGTH] = min(row[MATCH_LENGTH] + 1, MAX_MATCH)
    else:
        length = common_length(text, at, past)
        is_match = length >= MATCH_CHARACTERS
        row[MATCH_AT] = at if is_match else 0
        row[MATCH_LENGTH] = length if is_match else 0
    if row[MATCH_AT] >= len(text):
        row[MATCH_AT] = row[MATCH_LENGTH] = 0


@inline_borrowing
def _after_error(quality):  # type: ignore[no-untyped-def]
    """Return the quality of a match after an error; at 0 it is given up."""
    return max(0, quality * 3 // 4 - 2)


@inline_borrowing
def _follow_resumed(text, row, c):  # type: ignore[no-untyped-def]
    """Move the resumed match beyond id c, and begin one where the match in the training text was wrong.

    The better of the two continues.
    """
    at, quality = row[RESUMED_AT], row[RESUMED_QUALITY]
    if at > 0:
        is_right = c > 0 and text[at] == c
        row[RESUMED_QUALITY] = quality = min(quality + 1, MAX_MATCH) if is_right else _after_error(quality)
        row[RESUMED_RUN] = min(row[RESUMED_RUN] + 1, MAX_MATCH) if is_right else 0
        row[RESUMED_AT] = at + 1 if quality > 0 else 0
    interrupted = row[MATCH_AT]
    if interrupted > 0 and text[interrupted] != c and _after_error(row[MATCH_LENGTH]) > quality:
        row[RESUMED_AT], row[RESUMED_QUALITY] = interrupted + 1, _after_error(row[MATCH_LENGTH])
        row[RESUMED_RUN] = 0
    if row[RESUMED_AT] == 0 or row[RESUMED_AT] >= len(text):
        row[RESUMED_AT] = row[RESUMED_QUALITY] = 0


@compiled(
    "void(int32[:,::1], int32[:,::1], int32[::1], int32[::1], int32[::1], uint16[::1], uint64[::1],int64)",
    is_internal=True,
    is_borrowing=True,
)
def read_character(contexts, nodes, text, positions, row, past, pairs, c):  # type: ignore[no-untyped-def]
    """Read id c: change the state of a row, as int32, and its history `past`, as uint16.

    `pairs` (BLOCKS,) becomes what `mark_pairs` writes. What is far away in memory is prefetched, and
    something else is done until it is needed.
    """
    # Nodes of the last level have no children, so none of them is in the state.
    short = np.uint16(c if c <= _MAX_ID else 0)
    distance = row[HISTORY_MATCH_DISTANCE]
    was_predicted = distance > 0 and short != 0 and past[HISTORY_CHARACTERS - distance] == short
    for i in range(HISTORY_CHARACTERS - 1):
        past[i] = past[i + 1]
    past[HISTORY_CHARACTERS - 1] = short
    at = row[MATCH_AT]
    is_match_over = at == 0 or text[at] != c
    _follow_resumed(text, row, c)
    slot = _slot_of_text(positions, past)
    prefetch(positions, slot)
    for n in range(ORDER - 2, 0, -1):
        before = row[NODES + n - 1]
        row[NODES + n] = _child(contexts, nodes, before, c) if before > 0 else 0
    row[NODES] = _child(contexts, nodes, 0, c)
    for n in range(ORDER - 1):
        prefetch(contexts, row[NODES + n])
    mark_pairs(past, pairs)
    if is_match_over:
        at = positions[slot]
        prefetch(text, max(at - 1, 0))
    for n in range(ORDER - 1):
        prefetch(nodes, contexts[row[NODES + n], FIRST_CHILD])
    if was_predicted:
        row[HISTORY_MATCH_LENGTH] = min(row[HISTORY_MATCH_LENGTH] + 1, MAX_MATCH)
    else:
        find_history_match(row, past, pairs)
    _follow_match(text, row, past, not is_match_over, at)


@inline_borrowing
def _length_bucket(length):  # type: ignore[no-untyped-def]
    """Return 0 without a match, else 1 to LENGTHS - 1."""
    if length < 16:
        return (length + 1) >> 1
    if length < 32:
        return 5 + length // 4
    return min(LENGTHS - 1, 12 + length // 32)


@inline_borrowing
def _resumed_bucket(quality, run):  # type: ignore[no-untyped-def]
    """Return 0 to 15, four for each of four steps of quality."""
    by_quality = (quality >= 8) + (quality >= 16) + (quality >= 32)
    return 4 * by_quality + (run > 0) + (run > 2) + (run > 7)


@compiled("void(int32[::1], int32[::1], uint16[::1], int32[::1])", is_internal=True, is_borrowing=True)
def write_features(text, row, past, features):  # type: ignore[no-untyped-def]
    """Write what the experts know after the characters read into features (FEATURES,)."""
    for n in range(ORDER - 1):
        features[n] = row[NODES + n]
    at, distance = row[MATCH_AT], row[HISTORY_MATCH_DISTANCE]
    features[MATCH_ID] = text[at] if 0 < at < len(text) else 0
    features[MATCH_BUCKET] = _length_bucket(row[MATCH_LENGTH])
    features[HISTORY_MATCH_ID] = past[HISTORY_CHARACTERS - distance] if distance > 0 else 0
    features[HISTORY_MATCH_BUCKET] = _length_bucket(row[HISTORY_MATCH_LENGTH])
    resumed = row[RESUMED_AT]
    features[RESUMED_ID] = text[resumed] if resumed > 0 and resumed != at else 0
    features[RESUMED_BUCKET] = _resumed_bucket(row[RESUMED_QUALITY], row[RESUMED_RUN])


# ---- what comes next


@inline_jit
def make_workspace(rows, size):  # type: ignore[no-untyped-def]
    """Return arrays for `read_row` and `mix_row`, for B = rows and V = size."""
    features, indices, now = (
        np.empty(FEATURES, np.int32),
        np.empty(GROUPS, np.int32),
        np.empty(GROUPS, np.float32),
    )
    pairs = np.empty((rows, BLOCKS), np.uint64)
    scratch = np.empty((3, size), np.float32)
    recent, slots = np.zeros((ORDER, MAX_RECENT + 1), np.int32), np.zeros(size, np.int32)
    return features, indices, now, pairs, scratch, recent, slots


@inline_borrowing
def _parts_of(state, b, at):  # type: ignore[no-untyped-def]
    """Return what the experts keep of row b, from column `at` of the state on: int32, ids and float32.

    Views, so only functions that do not count references may call this.
    """
    numbers = state[b, at:]
    return numbers.view(np.int32), numbers[HISTORY_IDS:STATE_COLUMNS].view(np.uint16), numbers


@inline_borrowing
def read_row(experts, state, b, at, c, workspace):  # type: ignore[no-untyped-def]
    """Read id c in row b of the state, whose columns from `at` on are what the experts keep."""
    contexts, nodes, _, text, positions, weights, adaptation = experts
    features, indices, now, pairs, scratch, _, _ = workspace
    row, past, numbers = _parts_of(state, b, at)
    if adaptation[SET_PRECISION] > 0:
        if c > 0 and row[CONTEXT] > 0:
            write_features(text, row, past, features)
            write_indices(row[CONTEXT] - 1, features, indices)
            adapt(weights, adaptation, indices, scratch.shape[1], features, numbers, scratch, now, c)
        row[CONTEXT] = 0
    read_character(contexts, nodes, text, positions, row, past, pairs[b], c)


@inline_borrowing
def mix_row(experts, state, b, at, logits, workspace):  # type: ignore[no-untyped-def]
    """Turn the network's logits (V,) after the last character of row b into the mixture's; see `read_row`."""
    contexts, nodes, unigrams, text, _, weights, adaptation = experts
    features, indices, now, pairs, scratch, recent, slots = workspace
    row, past, numbers = _parts_of(state, b, at)
    size = len(logits)
    write_features(text, row, past, features)
    adapts = adaptation[SET_PRECISION] > 0
    ngrams = numbers[PREDICTIONS + size : PREDICTIONS + 2 * size] if adapts else scratch[2]
    context = write_ngrams(
        contexts, nodes, unigrams, features, past, pairs[b], adaptation[RECENT_WEIGHT], ngrams, scratch,
        recent, slots,
    )  # fmt: skip
    write_indices(context, features, indices)
    if adapts:
        row[CONTEXT] = context + 1
        kept = numbers[PREDICTIONS : PREDICTIONS + size]
        for i in range(size):
            kept[i] = logits[i]
    write_weights(weights, numbers, adapts, indices, now)
    apply_weights(now, features, ngrams, logits)


@compiled(f"void({EXPERTS}, int32[:,::1], float32[:,::1], int64, int64, float32[:,:,::1])")
def mix(  # type: ignore[no-untyped-def]
    contexts, nodes, unigrams, text, positions, weights, adaptation, ids, state, at, first, logits
):  # fmt: skip
    """Read ids (T, B); turn logits (T - first, B, V) of the network after them into the mixture's, in place.

    `contexts` to `adaptation` are the fields of `Experts`. The columns of `state` (B, .) from `at` on,
    `Experts.state_columns`, are what the experts keep, changed in place. Steps before `first` have no logits,
    so the weights do not adapt to what follows these.
    """
    experts = (contexts, nodes, unigrams, text, positions, weights, adaptation)
    workspace = make_workspace(ids.shape[1], logits.shape[2])
    for b in range(ids.shape[1]):
        for t in range(len(ids)):
            read_row(experts, state, b, at, ids[t, b], workspace)
            if t >= first:
                mix_row(experts, state, b, at, logits[t - first, b], workspace)


@compiled("void(int32[::1], int32[::1])")
def index_text(text, positions):  # type: ignore[no-untyped-def]
    """Fill `positions` (a power of two), zeros at first, for a text; see `Experts`."""
    for end in range(MATCH_CHARACTERS, len(text)):
        positions[np.int64(_hash_of(text, end) & np.uint64(len(positions) - 1))] = end
