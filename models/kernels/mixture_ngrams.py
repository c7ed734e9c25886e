"""The n-grams of a mixture: those of the training text, and those of what a row has read, with matches there.

Compiled when first imported. Interpolated Witten-Bell smoothing, as `nextchar.models.text.ngram`; an n-gram
of the history counts as often as several of the training text (Kuhn and De Mori 1990 call this a cache).
"""

import numpy as np

from nextchar.models.kernels.activations import log
from nextchar.models.kernels.intrinsics import equal_mask, highest_bit
from nextchar.models.kernels.jit import compiled, inline_borrowing
from nextchar.models.kernels.mixture_arguments import (
    BLOCK,
    BLOCKS,
    COUNT,
    FIRST_CHILD,
    HISTORY_CHARACTERS,
    HISTORY_MATCH_CHARACTERS,
    HISTORY_MATCH_DISTANCE,
    HISTORY_MATCH_LENGTH,
    ID,
    MAX_MATCH,
    MAX_RECENT,
    ORDER,
    RECENT_CHARACTERS,
    TOTAL,
)


@inline_borrowing
def first_of_block(block):  # type: ignore[no-untyped-def]
    """Return the first position of a block of the history."""
    return HISTORY_CHARACTERS - 1 - (block + 1) * BLOCK


@inline_borrowing
def mark_pairs(past, pairs):  # type: ignore[no-untyped-def]
    """Set bit k of pairs[block] if the last two of `past` are also those up to position k of the block.

    Unknown characters are never the same.
    """
    c0, c1 = past[HISTORY_CHARACTERS - 1], past[HISTORY_CHARACTERS - 2]
    if c0 == 0 or c1 == 0:
        pairs[:] = 0
        return
    for block in range(BLOCKS):
        start = first_of_block(block)
        pairs[block] = equal_mask(past, start, c0) & equal_mask(past, start - 1, c1)


@inline_borrowing
def common_length(text, at, past):  # type: ignore[no-untyped-def]
    """Return how many known characters before text[at] are also the last of `past`, up to MAX_MATCH.

    The text may be `past` itself.
    """
    length = 0
    while length < MAX_MATCH and length < at:
        c = text[at - 1 - length]
        if c == 0 or c != past[HISTORY_CHARACTERS - 1 - length]:
            break
        length += 1
    return length


@inline_borrowing
def find_history_match(row, past, pairs):  # type: ignore[no-untyped-def]
    """Set the match in the history to the longest, and of equals the newest; see `mark_pairs`."""
    row[HISTORY_MATCH_DISTANCE] = row[HISTORY_MATCH_LENGTH] = 0
    c2, c3 = past[HISTORY_CHARACTERS - 3], past[HISTORY_CHARACTERS - 4]
    for block in range(BLOCKS):
        start = first_of_block(block)
        mask = pairs[block]
        if mask != np.uint64(0):
            mask &= equal_mask(past, start - 2, c2) & equal_mask(past, start - 3, c3)
        while mask != np.uint64(0):
            k = highest_bit(mask)
            mask ^= np.uint64(1) << np.uint64(k)
            length = common_length(past, start + k + 1, past)
            if length >= HISTORY_MATCH_CHARACTERS and length > row[HISTORY_MATCH_LENGTH]:
                row[HISTORY_MATCH_DISTANCE], row[HISTORY_MATCH_LENGTH] = (
                    HISTORY_CHARACTERS - 1 - start - k,
                    length,
                )
        if row[HISTORY_MATCH_LENGTH] >= MAX_MATCH // 2:
            return


@inline_borrowing
def id_of(nodes, node):  # type: ignore[no-untyped-def]
    """Return the last id of a node, as an unsigned number, which needs no test for being negative."""
    return np.uint64(nodes[np.uint64(node), ID])


@inline_borrowing
def _context_bucket(length, total, distinct):  # type: ignore[no-untyped-def]
    """Return the row of the weights by context, for one that occurs `total` times."""
    few = 0 if distinct == 1 else (1 if distinct <= 3 else 2)
    is_frequent = total > (2 if distinct == 1 else 3 * distinct)
    return 6 * length + 2 * few + (1 if is_frequent else 0)


@inline_borrowing
def _write_logs(nodes, start, end, p, compact, logprobs):  # type: ignore[no-untyped-def]
    """Set logprobs[c] to log p[c] for the ids c of nodes from `start` to `end`."""
    for i in range(end - start):
        compact[i] = p[id_of(nodes, start + i)]
    for i in range(end - start):
        compact[i] = log(compact[i])
    for i in range(end - start):
        logprobs[id_of(nodes, start + i)] = compact[i]


@inline_borrowing
def _same_characters(past, i):  # type: ignore[no-untyped-def]
    """Return how many characters up to position i are the last of `past`, for at least two; up to ORDER - 1.

    Unknown characters are never the same.
    """
    length, is_same = 2, True
    for n in range(2, ORDER - 1):  # without branches, which would often be predicted wrong
        c = past[HISTORY_CHARACTERS - 1 - n]
        is_same &= (c != 0) & (past[i - n] == c)
        length += is_same
    return length


@inline_borrowing
def _slot_of(c, recent, slots, distinct):  # type: ignore[no-untyped-def]
    """Return the column of id c, which is the next, with counts of zero, if it has none."""
    if slots[c] > 0:
        return np.int64(slots[c])
    slot = distinct + 1
    slots[c] = slot
    recent[0, slot] = c
    for n in range(RECENT_CHARACTERS, ORDER):
        recent[n, slot] = 0
    return np.int64(slot)


@inline_borrowing
def _count_recent(past, pairs, recent, slots):  # type: ignore[no-untyped-def]
    """Count what followed in the history where the last characters were read before; return how many ids.

    The newest MAX_RECENT places count; `pairs` are those of `mark_pairs`. Of each id there is a column of
    `recent`, j = slots[id], from 1 on: recent[0, j] is the id, recent[n, j] how often it followed where at
    least n characters are the same, for n from RECENT_CHARACTERS to ORDER - 1. Column 0 stays zero.
    """
    distinct, places = 0, 0
    for block in range(BLOCKS):
        mask = pairs[block]
        while mask != np.uint64(0) and places < MAX_RECENT:
            k = highest_bit(mask)
            mask ^= np.uint64(1) << np.uint64(k)
            i = first_of_block(block) + k
            c = past[i + 1]
            if c != 0:
                j = _slot_of(c, recent, slots, distinct)
                distinct, places = max(distinct, j), places + 1
                recent[_same_characters(past, i), j] += 1
    for n in range(ORDER - 2, RECENT_CHARACTERS - 1, -1):
        for j in range(1, distinct + 1):
            recent[n, j] += recent[n + 1, j]
    return distinct


@inline_borrowing
def _sum_recent(nodes, first, last, counts, distinct, slots):  # type: ignore[no-untyped-def]
    """Return the sum of counts[1:], and how many of their ids nodes from `first` to `last` do not have."""
    places, others = 0, 0
    for j in range(1, distinct + 1):
        places += counts[j]
        others += counts[j] > 0
    if places > 0:
        for i in range(first, last):
            others -= counts[np.uint64(slots[id_of(nodes, i)])] > 0  # 0 for an id without a column
    return np.float32(places), np.float32(others)


@inline_borrowing
def _level_of(contexts, nodes, node):  # type: ignore[no-untyped-def]
    """Return the children of a node, from the first to before the last, their sum and how many are known."""
    if node == 0 or contexts[node, TOTAL] == 0:
        return np.int32(0), np.int32(0), np.float32(0), np.float32(0)
    first, last = contexts[node, FIRST_CHILD], contexts[node + 1, FIRST_CHILD]
    distinct = np.float32(last - first)
    if nodes[first, ID] == 0:
        distinct -= np.float32(1)
    return first, last, np.float32(contexts[node, TOTAL]), distinct


@inline_borrowing
def _add_counts(  # type: ignore[no-untyped-def]
    nodes, first, last, counts, distinct, recent, factor, recent_factor, p
):
    """Add to p the counts of nodes from `first` to `last`, and `counts` of the ids in recent[0]."""
    for i in range(first, last):
        p[id_of(nodes, i)] += np.float32(nodes[np.uint64(i), COUNT]) * factor
    for j in range(1, distinct + 1):
        p[recent[0, j]] += np.float32(counts[j]) * recent_factor


@compiled(
    "int64(int32[:,::1], int32[:,::1], float32[:,::1], int32[::1], uint16[::1], uint64[::1], float32,"
    "float32[::1], float32[:,::1], int32[:,::1], int32[::1])",
    is_internal=True,
    is_borrowing=True,
)
def write_ngrams(  # type: ignore[no-untyped-def]
    contexts, nodes, unigrams, features, past, pairs, recent_weight, logprobs, scratch, recent, slots
):
    """Write log p(c) by the n-grams, up to a constant, into logprobs (V,); return the context's bucket.

    Each n-gram of more than RECENT_CHARACTERS counts `recent_weight` times for each of the newest MAX_RECENT
    times that it is in the history `past`, of which `pairs` is what `mark_pairs` wrote. Only characters that
    follow the last one somewhere differ from the unigrams; `scratch` (2, V) holds their probabilities.
    `recent` (ORDER, MAX_RECENT + 1), zero at first, and `slots` (V,), zero before and after, are workspace.
    """
    for c in range(len(logprobs)):
        logprobs[c] = unigrams[1, c]
    if features[0] == 0:
        return 0
    start, end = contexts[features[0], FIRST_CHILD], contexts[features[0] + 1, FIRST_CHILD]
    p = scratch[0]
    for i in range(start, end):
        p[id_of(nodes, i)] = unigrams[0, id_of(nodes, i)]
    distinct_recent = _count_recent(past, pairs, recent, slots) if recent_weight > 0 else 0
    for j in range(1, distinct_recent + 1):
        p[recent[0, j]] = unigrams[0, recent[0, j]]
    scale, bucket = np.float32(1), 0  # the probability is scale * p
    for n in range(ORDER - 1):
        length, columns = n + 1, 0
        first, last, total, distinct = _level_of(contexts, nodes, features[n])
        if length >= RECENT_CHARACTERS:
            places, others = _sum_recent(nodes, first, last, recent[length], distinct_recent, slots)
            total += recent_weight * places
            distinct += others
            columns = distinct_recent if places > 0 else 0
        if total == 0:
            break
        scale *= distinct / (total + distinct)
        factor = np.float32(1) / ((total + distinct) * scale)
        recent_factor = recent_weight * factor
        _add_counts(nodes, first, last, recent[length], columns, recent, factor, recent_factor, p)
        bucket = _context_bucket(length, total, distinct)
    _write_logs(nodes, start, end, p, scratch[1], logprobs)
    for j in range(1, distinct_recent + 1):
        logprobs[recent[0, j]] = log(p[recent[0, j]])
        slots[recent[0, j]] = 0
    return bucket
