"""Context mixing together with a network, compiled when first imported.

A character is predicted by the decisions on its path in a binary tree over the vocabulary. At each node the
network, and what followed each of some contexts in the known text and in what the row has read, say how
probable the right subtree is. These are mixed in the logistic domain, by several sets of weights that are
chosen by small contexts, and their results by one more mixer: gated logistic mixing, as in PAQ (Mahoney 2005;
Mattern 2012). docs/engineering/mixture.md describes the contexts.

Everything is computed row by row, so a row's result is bit-identical in any batch.
"""

from itertools import pairwise

import numpy as np

from nextchar.models.kernels.activations import exp, log, sigmoid
from nextchar.models.kernels.intrinsics import dot, equal_mask, highest_bit, prefetch
from nextchar.models.kernels.jit import compiled, inline_borrowing, inline_jit
from nextchar.models.kernels.mixture_arguments import (
    BACKOFF_CONTEXTS,
    BACKOFF_SHARE,
    BACKOFF_STARTS,
    BACKOFFS,
    BEFORE,
    BLOCKS,
    BRACKET,
    BRACKET_KIND,
    BUCKETS,
    BY_BACKOFF,
    BY_MATCH,
    BY_NETWORK,
    BY_RECENT,
    CERTAIN_STATES,
    CONSTANT,
    CONTEXTS,
    COUNT_COLUMNS,
    COUNT_STEPS,
    CURVATURES,
    DIFFERENT_STEPS,
    FEATURES,
    FIELD_NUMBER,
    GROUPS,
    HISTORY_CHARACTERS,
    HISTORY_IDS,
    HISTORY_KEYS,
    INPUTS,
    KEY_BLOCKS,
    KEY_CHARACTERS,
    KEYS,
    KIND,
    KNOWN_STATES,
    LANES,
    LAST_PRECISION,
    LAST_SETS,
    LAST_STARTS,
    LAST_TOKEN,
    LEARNED_BACKOFF,
    LEARNED_FROM,
    LETTERS,
    LIMIT,
    LINE_COLUMN,
    MATCH_BUCKET,
    MATCH_ID,
    MATCHED,
    MATCHES,
    MAX_RECENT,
    NEWEST,
    ODDS_STEPS,
    ORDERS,
    PAIRS,
    PLACE_STEPS,
    PLACES,
    PRECISION,
    PREDICTED,
    PREDICTION,
    PREDICTIONS,
    RARE_CONTEXTS,
    RECENT,
    RECENT_CONTEXTS,
    RECENT_KEYS,
    RECENT_OF,
    RECENT_WEIGHT,
    RUN_OF,
    RUN_STATES,
    SET_STARTS,
    SETS,
    SHAPE,
    SHIFTS,
    SIDE,
    STATE_COLUMNS,
    TOKENS,
)
from nextchar.models.kernels.mixture_contexts import read_character, write_features
from nextchar.models.kernels.mixture_hashes import entries_of, single_of
from nextchar.models.kernels.mixture_history import first_of_block, pairs_of, read_blocks, same_characters

EXPERTS = (
    "uint16[::1], int32[::1], uint32[::1], uint32[::1], uint32[::1], int32[:,::1], int32[::1],"
    "int32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,::1], float32[:,::1],"
    "float32[::1], float32[:,::1], float32[:,::1], int32[:,::1]"
)
"""Signature of the fields of `Experts`."""

_ALL_STEPS = [
    (n, k, row, i - LEARNED_FROM, PLACES + RECENT_OF[k] if row else BEFORE + k, PLACES + RECENT_OF[k])
    for n, (start, end) in enumerate(pairwise(BACKOFF_STARTS))
    for i, k in enumerate(BACKOFF_CONTEXTS[start:end], start)
    for row in ((0, 2) if n >= LEARNED_BACKOFF and RECENT_OF[k] >= 0 else (0,))
]
STEPS = np.array([step[1:] for step in _ALL_STEPS])
"""(., 5) steps of the interpolated estimates: the context; the row of `followed` that counts it, of the known
text or of the history; the row of `Experts.backoffs`, or less than 0; and the columns of the counts that are
added, of which only those that are not learned have two."""
STEP_STARTS = tuple(np.searchsorted([step[0] for step in _ALL_STEPS], range(BACKOFFS + 1)).tolist())
"""Where those of each estimate begin, and the end."""

_KEYS = len(RECENT_KEYS)
_ORDERS = len(ORDERS)
_FLOOR = 1e-3  # subtrees that are less probable are divided as the network says
_EPSILON = 1e-9
_LEAST = 1e-37
_MAX_LOGIT = 14.0
_MULTIPLIER, _NODE_MULTIPLIER = 0x9E3779B1, 0x85EBCA6B  # of a multiplicative hash


@inline_jit
def make_workspace(size, nodes):  # type: ignore[no-untyped-def]
    """Return arrays for `read_row` and `mix_row`, for V = size.

    What a prediction was made from stays in them until its row reads a character, so that adapting to that
    character need not compute it again, unless another row came between. `held` has 1 + the row of the
    counts, and 1 + that of the decisions, of which `decided` (nodes,) says which were made; or zeros.
    """
    counts = np.zeros((nodes, COUNT_COLUMNS), np.float32)
    touched, is_touched = np.zeros(nodes + 1, np.int32), np.zeros(nodes, np.uint8)
    features, states = np.zeros(FEATURES, np.int32), np.zeros(3 * LANES, np.int32)
    inputs, chosen, outputs = (
        np.zeros((nodes, INPUTS), np.float32),
        np.zeros(SETS + LAST_SETS, np.int64),
        np.empty((nodes, SETS), np.float32),
    )
    held, decided, decisions = np.zeros(2, np.int64), np.zeros(nodes, np.uint8), np.empty(nodes, np.float32)
    shares, below = np.empty(size, np.float32), np.empty((2, nodes), np.float32)
    masses, starts = np.empty(max(1, nodes), np.float32), np.zeros(max(CONTEXTS, 3 * _ORDERS), np.int64)
    followed, found = np.zeros((4, LANES), np.float32), np.empty((2 * _ORDERS, MAX_RECENT), np.int32)
    states_of, steps = np.zeros((2, CONTEXTS), np.int32), np.empty((3, len(STEPS)), np.float32)
    odds = np.ones(LANES, np.float32)
    return (
        counts, touched, is_touched, features, states, inputs, chosen, outputs, shares, below, masses, starts,
        held, decided, decisions, followed, steps, found, states_of, odds,
    )  # fmt: skip


@inline_borrowing
def parts_of(state, b, at):  # type: ignore[no-untyped-def]
    """Return what the experts keep of row b, from column `at` of the state on: int32, ids and keys, uint16.

    Views, so only functions that do not count references may call this.
    """
    numbers = state[b, at:]
    past = numbers[HISTORY_IDS:HISTORY_KEYS].view(np.uint16)
    keys = numbers[HISTORY_KEYS:STATE_COLUMNS].view(np.uint16).reshape((_KEYS, KEY_CHARACTERS))
    return numbers[:STATE_COLUMNS].view(np.int32), past, keys


# ---- what followed the contexts


@inline_borrowing
def _touch(up, size, touched, is_touched, at):  # type: ignore[no-untyped-def]
    """Note that counts of the node of a place and of those above it change; a node comes after its parent."""
    node, new = at >> 1, 0
    while node >= 0 and is_touched[node] == 0:
        is_touched[node] = 1
        node, new = up[size + node] >> 1, new + 1
    node, touched[0] = at >> 1, touched[0] + new
    for i in range(new):
        touched[touched[0] - i] = node
        node = up[size + node] >> 1


@inline_borrowing
def _add(up, size, counts, touched, is_touched, at, column, count):  # type: ignore[no-untyped-def]
    """Add to a column of the counts at a place, which is none if it is -1; see `_add_up`."""
    if at >= 0:
        if is_touched[at >> 1] == 0:
            _touch(up, size, touched, is_touched, at)
        counts[at >> 1, column + SIDE * (at & 1)] += count


@inline_borrowing
def _add_up(up, size, counts, touched):  # type: ignore[no-untyped-def]
    """Make of counts at places those of all that is below, from the lowest nodes up to the root."""
    for i in range(touched[0], 0, -1):
        own, at = counts[touched[i]], up[size + touched[i]]
        if at >= 0:
            above = counts[at >> 1, SIDE * (at & 1) :]
            for k in range(NEWEST):
                above[k] = own[k] + own[SIDE + k]
            for k in range(NEWEST, SIDE):
                above[k] = max(own[k], own[SIDE + k])


@inline_borrowing
def _write_run(features, k, c, steps, is_known, has_others):  # type: ignore[no-untyped-def]
    """Let the run of context k, if it has one, predict id c; see RUN_CONTEXTS and RUN_STATES."""
    run = RUN_OF[k]
    if run >= 0:
        at, state = 2 * (MATCHES + run), 4 * min(steps, 15) + 2 * is_known + has_others
        features[at], features[at + 1] = c, MATCHES * BUCKETS + RUN_STATES * run + state


@inline_borrowing
def _gather_known(  # type: ignore[no-untyped-def]
    slots, singles, entries, up, size, first, row, starts, features, followed, counts, touched, is_touched
):
    """Count what followed the contexts, and how much and how many different ids in rows of `followed`.

    Write the most frequent ids into `features`.
    """
    followed[:], features[2 * MATCHES :] = 0, 0
    for k in range(CONTEXTS):
        starts[k] = entries_of(slots, entries, np.uint64(np.uint32(row[KEYS + k])))
        prefetch(entries, max(starts[k], np.int64(0)))
    for k in range(CONTEXTS):
        at = starts[k]
        if at < 0 and k in RARE_CONTEXTS:
            continue
        if at < 0:
            c = single_of(singles, np.uint64(np.uint32(row[KEYS + k])))
            if c > 0:
                followed[0, k] = followed[1, k] = 1
                _write_run(features, k, c, 1, 1, 0)
                _add(up, size, counts, touched, is_touched, first[c], BEFORE + k, np.float32(1))
            continue
        is_last, total, different = False, np.float32(0), np.float32(0)
        best, most = np.int64(0), np.float32(0)
        while not is_last:
            entry = entries[at]
            is_last = entry >= np.uint32(1 << 31)
            count = np.float32((entry >> np.uint32(16)) & np.uint32(0x7FFF))
            if count > 0:  # while a text is learned, entries that come later have none
                c = np.int64(entry & np.uint32(0xFFFF))
                total += count
                different += np.float32(1)
                best, most = (c, count) if count > most else (best, most)
                _add(up, size, counts, touched, is_touched, first[c], BEFORE + k, count)
            at += 1
        followed[0, k], followed[1, k] = total, different
        if total > 0:
            steps = np.int64(total) if different == 1 else 16 * np.int64(most) // np.int64(total)
            _write_run(features, k, best, steps, 1, different > 1)


@inline_borrowing
def _note(found, seen, j, c):  # type: ignore[no-untyped-def]
    """Note that id c is at one more place of a context, if these are not too many.

    Rows 2j and 2j + 1 of `found` have the different ids, the newest first, and how often each was found;
    `seen` the numbers of places, of different ids, and of places up to the first with another id.
    """
    if seen[3 * j] < MAX_RECENT:
        different, i = seen[3 * j + 1], 0
        while i < different and found[2 * j, i] != c:
            i += 1
        if i == different:
            found[2 * j, i], found[2 * j + 1, i] = c, 0
            seen[3 * j + 1] += 1
        found[2 * j + 1, i] += 1
        seen[3 * j] += 1
        seen[3 * j + 2] += seen[3 * j + 1] == 1


@inline_borrowing
def _add_noted(  # type: ignore[no-untyped-def]
    up, size, first, j, found, seen, r, features, followed, counts, touched, is_touched
):
    """Add what was noted as `_note` number r to the counts of context j of the history, and forget it."""
    k = RECENT_CONTEXTS[j]
    for i in range(seen[3 * r + 1]):
        at, times = first[found[2 * r, i]], np.float32(found[2 * r + 1, i])
        _add(up, size, counts, touched, is_touched, at, PLACES + j, times)
        if at >= 0:
            newest = counts[at >> 1, NEWEST + SIDE * (at & 1) :]
            newest[j] = max(newest[j], np.float32(MAX_RECENT - i))
    followed[2, k], followed[3, k] = seen[3 * r], seen[3 * r + 1]
    if seen[3 * r] > 0:
        _write_run(features, k, found[2 * r, 0], seen[3 * r + 2], 0, seen[3 * r + 1] > 1)
    seen[3 * r : 3 * r + 3] = 0


@inline_borrowing
def _note_orders(row, past, found, seen):  # type: ignore[no-untyped-def]
    """Note what followed the last characters in the history, for each order."""
    last = past[HISTORY_CHARACTERS - 1]
    for block in range(read_blocks(row, BLOCKS) if last != 0 else 0):
        start, pairs = first_of_block(past, block), pairs_of(past, block)
        mask = equal_mask(past, start, last) if seen[0] < MAX_RECENT else pairs
        while mask != np.uint64(0):
            k = highest_bit(mask)
            mask ^= np.uint64(1) << np.uint64(k)
            c = np.int64(past[start + k + 1])
            is_pair = (pairs >> np.uint64(k)) & np.uint64(1) != 0
            length = same_characters(past, start + k) if is_pair else 1
            for j in range(_ORDERS if c > 0 else 0):
                if length >= ORDERS[j]:
                    _note(found, seen, j, c)


@inline_borrowing
def _gather_recent(  # type: ignore[no-untyped-def]
    up, size, first, row, past, keys, found, seen, features, followed, counts, touched, is_touched
):
    """Count what followed the contexts in the history, and how much in a row of `followed`.

    Write the newest ids into `features`.
    """
    seen[:], newest = 0, past[HISTORY_CHARACTERS - KEY_CHARACTERS :]
    _note_orders(row, past, found, seen)
    for j in range(_ORDERS):
        _add_noted(up, size, first, j, found, seen, j, features, followed, counts, touched, is_touched)
    for j in range(_KEYS):
        key = np.uint16(row[KEYS + RECENT_KEYS[j]] & 0xFFFF)
        for block in range(read_blocks(row, KEY_BLOCKS)):
            start = first_of_block(newest, block) + 1
            mask = equal_mask(keys[j], start, key)
            while mask != np.uint64(0) and seen[0] < MAX_RECENT:
                k = highest_bit(mask)
                mask ^= np.uint64(1) << np.uint64(k)
                c = np.int64(newest[start + k])
                if c > 0:
                    _note(found, seen, 0, c)
            if seen[0] >= MAX_RECENT:
                break
        _add_noted(
            up, size, first, _ORDERS + j, found, seen, 0, features, followed, counts, touched, is_touched
        )


@inline_borrowing
def _step_of(n, steps):  # type: ignore[no-untyped-def]
    """Return the step, 0 to 7, of a number: see DIFFERENT_STEPS."""
    return np.int32(n) if n <= 3 else np.int32(4 + (n > steps[0]) + (n > steps[1]) + (n > steps[2]))


@inline_borrowing
def _write_states(followed, states_of):  # type: ignore[no-untyped-def]
    """Write the states of learned shares, of each context in the known text and in the history."""
    for k in range(CONTEXTS):
        total, different, others = followed[0, k], followed[1, k], followed[3, k]
        states_of[0, k] = 8 * _step_of(different, DIFFERENT_STEPS) + _step_of(total, COUNT_STEPS)
        at_places = 4 * _step_of(followed[2, k], PLACE_STEPS) + (others > 1) + (others > 2) + (others > 4)
        known = 0 if total == 0 else 1 if different == 1 else 2 if total <= 16 else 3
        states_of[1, k] = KNOWN_STATES + 4 * at_places + known


@inline_borrowing
def _write_steps(backoffs, followed, states_of, steps):  # type: ignore[no-untyped-def]
    """Write what steps of the interpolated estimates weigh into `steps`; see `STEPS`.

    Rows 0 and 1 get the shares of one count of each column, and row 2 that of the estimate before: 0, 0 and 1
    where nothing followed.
    """
    one = np.float32(1)
    for i in range(len(STEPS)):
        k, row, m = STEPS[i, 0], STEPS[i, 1], STEPS[i, 2]
        steps[0, i], steps[1, i], steps[2, i] = 0, 0, one
        total = followed[row, k]
        if m < 0:
            total += np.float32(RECENT_WEIGHT) * followed[2, k]
            rest = np.float32(BACKOFF_SHARE) * max(followed[1, k], one)
            if total > 0:
                steps[0, i] = one / (total + rest)
                steps[1, i] = np.float32(RECENT_WEIGHT) / (total + rest)
                steps[2, i] = rest / (total + rest)
        elif total > 0:
            steps[2, i] = backoffs[m, states_of[row >> 1, k]]
            steps[0, i] = (one - steps[2, i]) / total


@inline_borrowing
def _gather_predicted(up, size, first, features, counts, touched, is_touched):  # type: ignore[no-untyped-def]
    """Note in which subtrees that is what the matches and runs predict."""
    for m in range(PREDICTIONS):
        c = features[MATCH_ID + 2 * m]
        at = first[c]  # of id 0: -1
        _touch(up, size, touched, is_touched, at)
        while at >= 0:
            node = at >> 1
            counts[node, MATCHED + m] = np.float32(1 + (at & 1))
            at = up[size + node]


@compiled(
    "void(uint32[::1], uint32[::1], uint32[::1], int32[::1], int64, int32[::1], int32[::1], uint16[::1],"
    "uint16[:,::1],"
    "int32[::1], int64[::1], int32[:,::1], float32[:,::1], float32[:,::1], int32[::1], uint8[::1],"
    "float32[:,::1], int32[:,::1], float32[:,::1])",
    is_internal=True,
    is_borrowing=True,
)
def _gather(  # type: ignore[no-untyped-def]
    slots, singles, entries, up, size, first, row, past, keys, features, starts, found, followed, counts,
    touched, is_touched, backoffs, states_of, steps,
):  # fmt: skip
    _gather_known(
        slots, singles, entries, up, size, first, row, starts, features, followed, counts, touched, is_touched
    )
    _gather_recent(
        up, size, first, row, past, keys, found, starts, features, followed, counts, touched, is_touched
    )
    _add_up(up, size, counts, touched)
    _gather_predicted(up, size, first, features, counts, touched, is_touched)
    _write_states(followed, states_of)
    _write_steps(backoffs, followed, states_of, steps)


@inline_borrowing
def gather(experts, state, b, at, c, workspace):  # type: ignore[no-untyped-def]
    """Count for the nodes above id c what followed the contexts of row b, unless the counts are its own.

    Of id 0 for all nodes of the tree.
    """
    held = workspace[12]
    if held[0] == b + 1:
        return
    forget(workspace)
    held[0] = b + 1
    slots, singles, entries, up, size = experts[2], experts[3], experts[4], experts[6], len(experts[5])
    counts, touched, is_touched, features = workspace[0], workspace[1], workspace[2], workspace[3]
    meetings = experts[16]
    first = meetings[c] if c > 0 and len(meetings) > 0 else up
    row, past, keys = parts_of(state, b, at)
    write_features(experts[0], row, past, features)
    _gather(
        slots,
        singles,
        entries,
        up,
        size,
        first,
        row,
        past,
        keys,
        features,
        workspace[11],
        workspace[17],
        workspace[15],
        counts,
        touched,
        is_touched,
        experts[14],
        workspace[18],
        workspace[16],
    )


@inline_borrowing
def forget(workspace):  # type: ignore[no-untyped-def]
    """Set the counts to zero, and hold no row's."""
    counts, touched, is_touched = workspace[0], workspace[1], workspace[2]
    workspace[12][:] = 0
    for i in range(1, touched[0] + 1):
        node = touched[i]
        is_touched[node] = 0
        for j in range(COUNT_COLUMNS):
            counts[node, j] = 0
    touched[0] = 0


# ---- decisions


@inline_borrowing
def _write_known(own, followed, maps, states, inputs):  # type: ignore[no-untyped-def]
    """Write the inputs from the counts of a node, `own` (COUNT_COLUMNS,), in the known text."""
    for k in range(LANES):
        n0, n1 = own[BEFORE + k], own[SIDE + BEFORE + k]
        total = n0 + n1
        z = log((n1 + np.float32(0.4)) / (n0 + np.float32(0.4)))
        middle = min(max(np.int32(np.float32(8) + z * np.float32(1.3)), np.int32(1)), np.int32(14))
        ratio = np.int32(0) if n1 == 0 else np.int32(15) if n0 == 0 else middle
        large = min(
            np.int32(np.float32(0.8) + np.float32(2.3083) * log(total + np.float32(1e-3))), np.int32(15)
        )
        size_ = np.int32(total) if total <= 4 else large
        is_certain = (followed[1, k] == 1) & (total > 0)
        states[k] = CERTAIN_STATES + 2 * size_ + (ratio & 1) if is_certain else size_ * 16 + ratio
    for k in range(CONTEXTS):
        inputs[k] = maps[k, states[k]]


@inline_borrowing
def _write_recent(own, recent_maps, states, inputs):  # type: ignore[no-untyped-def]
    """Write the inputs from the counts of a node in the history."""
    for j in range(LANES):
        n0 = min(np.int32(own[PLACES + j]), np.int32(6))
        n1 = min(np.int32(own[SIDE + PLACES + j]), np.int32(6))
        is_right = own[SIDE + NEWEST + j] > own[NEWEST + j]
        states[LANES + j] = 2 * (7 * n0 + n1) + np.int32(is_right)
    for j in range(RECENT):
        inputs[BY_RECENT + j] = recent_maps[j, states[LANES + j]]


@inline_borrowing
def _write_predicted(own, features, match_maps, states, inputs):  # type: ignore[no-untyped-def]
    """Write the inputs from the matches and runs; return the weights' row for the matches."""
    sides, best = np.int32(0), 0
    for m in range(PREDICTIONS):
        side, bucket = np.int32(own[MATCHED + m]), features[MATCH_BUCKET + 2 * m]
        states[2 * LANES + m] = bucket
        z = match_maps[bucket]
        inputs[BY_MATCH + m] = np.float32(0) if side == 0 else z if side == 2 else -z
        if side > 0 and m < MATCHES:
            sides |= side
            best = max(best, 1 + ((bucket & (BUCKETS - 1)) >> 1))
    return 4 * best + sides


@inline_borrowing
def _estimate(own, share, steps, begin, end):  # type: ignore[no-untyped-def]
    """Return the odds of an interpolated estimate, which begins with `share` (2,)."""
    left, right = share[0], share[1]
    for i in range(begin, end):
        a, b = STEPS[i, 3], STEPS[i, 4]
        more_left, more_right = own[a] * steps[0, i], own[SIDE + a] * steps[0, i]
        if STEPS[i, 2] < 0 and b >= PLACES:
            more_left, more_right = more_left + own[b] * steps[1, i], more_right + own[SIDE + b] * steps[1, i]
        left, right = more_left + steps[2, i] * left, more_right + steps[2, i] * right
    least = np.float32(1e-7) * (left + right) + np.float32(_LEAST)
    return (right + least) / (left + least)


@inline_borrowing
def _write_odds(own, share, steps, odds):  # type: ignore[no-untyped-def]
    """Write the odds of interpolated estimates, one by one so that each is compiled without a loop."""
    odds[0] = _estimate(own, share, steps, STEP_STARTS[0], STEP_STARTS[1])
    odds[1] = _estimate(own, share, steps, STEP_STARTS[1], STEP_STARTS[2])
    odds[2] = _estimate(own, share, steps, STEP_STARTS[2], STEP_STARTS[3])
    odds[3] = _estimate(own, share, steps, STEP_STARTS[3], STEP_STARTS[4])
    odds[4] = _estimate(own, share, steps, STEP_STARTS[4], STEP_STARTS[5])
    odds[5] = _estimate(own, share, steps, STEP_STARTS[5], STEP_STARTS[6])


@inline_borrowing
def _pair(a, node):  # type: ignore[no-untyped-def]
    """Return the row of PAIRS for a number of at most 30 bits and a node: a multiplicative hash."""
    return ((np.int64(a) * _MULTIPLIER + node * _NODE_MULTIPLIER) >> 21) & (PAIRS - 1)


@inline_borrowing
def _choose_sets(characters, row, past, features, node, by_match, by_backoff, chosen):  # type: ignore[no-untyped-def]
    """Choose the rows of the weights."""
    c1, c2 = np.int64(past[HISTORY_CHARACTERS - 1]), np.int64(past[HISTORY_CHARACTERS - 2])
    kinds, last, letters = np.int64(row[TOKENS]), np.int64(row[LAST_TOKEN]), min(row[LETTERS], 15)
    by_kinds = _pair((kinds & 0x3FF) | last << 10 | min(letters, 3) << 15, node)
    chosen[0] = SET_STARTS[0] + _pair(c1, node)
    chosen[1] = SET_STARTS[1] + _pair(c2, node)
    chosen[2] = SET_STARTS[2] + by_kinds
    chosen[3] = SET_STARTS[3] + _pair((kinds & 0x7FFF) | last << 15, node)
    chosen[4] = SET_STARTS[4] + _pair(features[2 * (MATCHES + RUN_OF[BRACKET])], node)
    chosen[5] = SET_STARTS[5] + _pair(features[2 * (MATCHES + RUN_OF[SHAPE])], node)
    chosen[6] = SET_STARTS[6] + by_match
    chosen[7] = SET_STARTS[7] + 8 * letters + characters[c1, KIND]
    column = row[LINE_COLUMN] if characters[0, BRACKET_KIND] != 0 else row[LINE_COLUMN] >> 3
    chosen[8] = SET_STARTS[8] + 8 * min(row[FIELD_NUMBER], 31) + min(column, 7)
    odds = min(max(by_backoff, np.float32(-8)), np.float32(8)) * np.float32(ODDS_STEPS / 16)
    chosen[SETS] = LAST_STARTS[0] + min(node, GROUPS - 1)
    chosen[SETS + 1] = LAST_STARTS[1] + by_kinds
    chosen[SETS + 2] = LAST_STARTS[2] + _pair(c1 ^ c2 << 10, node)
    chosen[SETS + 3] = LAST_STARTS[3] + by_match
    chosen[SETS + 4] = LAST_STARTS[4] + min(
        np.int32(odds + np.float32(ODDS_STEPS / 2 + 0.5)), np.int32(ODDS_STEPS - 1)
    )


@inline_borrowing
def _decide(  # type: ignore[no-untyped-def]
    characters, maps, recent_maps, match_maps, weights, last_weights, share, shifts, row, past, own,
    followed, steps, odds, features, node, by_network, adaptation, states, inputs, chosen, outputs,
):  # fmt: skip
    _write_odds(own, share, steps, odds)  # first, because numbers just written one by one are slow to read
    _write_known(own, followed, maps, states, inputs)
    _write_recent(own, recent_maps, states, inputs)
    by_match = _write_predicted(own, features, match_maps, states, inputs)
    for n in range(8):  # as a processor computes at once; the last two are written next
        inputs[BY_BACKOFF + n] = log(odds[n])
    inputs[CONSTANT] = np.float32(0.4)
    inputs[BY_NETWORK] = by_network
    _choose_sets(characters, row, past, features, node, by_match, inputs[BY_BACKOFF + BACKOFFS - 1], chosen)
    limit, shift, last_shift = np.float32(_MAX_LOGIT), np.float32(0), np.float32(0)
    adapts = adaptation[PRECISION] > 0
    if adapts:
        shift = dot(shifts, inputs, INPUTS)
    for k in range(SETS):
        outputs[k] = min(max(dot(weights[chosen[k]], inputs, INPUTS) + shift, -limit), limit)
    if adapts:
        last_shift = dot(shifts[INPUTS:], outputs, SETS)
    last = np.float32(0)
    for k in range(LAST_SETS):
        last += dot(last_weights[chosen[SETS + k]], outputs, SETS)
    return min(max(last * np.float32(1 / LAST_SETS) + last_shift, -limit), limit)


@compiled(
    "void(int32[:,::1], int32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,::1],"
    "float32[:,::1], float32[::1], float32[:,::1], float32[::1], int32[::1], uint16[::1], float32[:,::1],"
    "float32[:,::1], float32[:,::1], float32[::1], int32[::1], int32[::1], float32[:,::1], int64[::1],"
    "float32[:,::1], float32[::1], float32[::1], uint8[::1], float32[::1], int64, int64, boolean)",
    is_internal=True,
    is_borrowing=True,
)
def _decide_nodes(  # type: ignore[no-untyped-def]
    children, characters, maps, recent_maps, match_maps, weights, last_weights, adaptation, shares, shifts,
    row, past, counts, followed, steps, odds, features, states, inputs, chosen, outputs,
    reached, masses, decided, decisions, first, end, is_tree,
):  # fmt: skip
    one = np.float32(1)
    for node in range(first, end):
        mass = masses[node]
        if mass >= np.float32(_FLOOR) and decided[node] == 0:
            decided[node] = 1
            decisions[node] = _decide(
                characters, maps, recent_maps, match_maps, weights, last_weights, shares[node], shifts, row,
                past, counts[node], followed, steps, odds, features, node, decisions[node], adaptation,
                states, inputs[node], chosen, outputs[node],
            )  # fmt: skip
        if is_tree:
            right = sigmoid(decisions[node])
            for side in range(2):
                child, part = children[node, side], mass * (right if side == 1 else one - right)
                if child > 0:
                    masses[child] = part
                else:
                    reached[-child] = part


@inline_borrowing
def decide(experts, state, b, at, first, end, workspace, is_tree):  # type: ignore[no-untyped-def]
    """Decide nodes from `first` to before `end`, after `gather`: those that are not and have a mass.

    `decisions` in the workspace have what the network says, and get the logarithm of the odds of the right
    subtree. Each node's inputs and outputs of the sets, and the last one's states and chosen weights, stay in
    the workspace. With `is_tree` the root's mass is divided, and `shares` get what reaches the ids.
    """
    row, past, _ = parts_of(state, b, at)
    adaptation = experts[13]
    shifts = state[b, at + SHIFTS :] if adaptation[PRECISION] > 0 else state[b, at:]
    _decide_nodes(
        experts[7], experts[5], experts[8], experts[9], experts[10], experts[11], experts[12], adaptation,
        experts[15], shifts, row, past, workspace[0], workspace[15], workspace[16], workspace[19],
        workspace[3], workspace[4], workspace[5], workspace[6], workspace[7], workspace[8], workspace[10],
        workspace[13], workspace[14], first, end, is_tree,
    )  # fmt: skip


@inline_borrowing
def write_shares(children, logits, shares, below):  # type: ignore[no-untyped-def]
    """Write the network's probabilities into shares (V,), and of each node's children into below (2, nodes).

    Both up to the same factor. From logits (V,).
    """
    best = logits[1]
    for c in range(2, len(logits)):
        best = max(best, logits[c])
    for c in range(1, len(logits)):
        shares[c] = exp(logits[c] - best)
    for node in range(len(children) - 1, -1, -1):
        for side in range(2):
            child = children[node, side]
            below[side, node] = below[0, child] + below[1, child] if child > 0 else shares[-child]


@inline_borrowing
def prepare(experts, state, b, at, c, logits, workspace):  # type: ignore[no-untyped-def]
    """Make counts and the network's shares for decisions of row b, by its logits (V,); see `gather`."""
    held, below, decided, decisions = workspace[12], workspace[9], workspace[13], workspace[14]
    if held[1] == b + 1:
        return
    gather(experts, state, b, at, c, workspace)
    write_shares(experts[7], logits, workspace[8], below)
    for node in range(len(decisions)):
        decided[node], decisions[node] = 0, odds_of(below, node)
    held[1] = b + 1


@inline_borrowing
def odds_of(below, node):  # type: ignore[no-untyped-def]
    """Return the logarithm of the odds of the right subtree of a node by the network; see `write_shares`."""
    least = np.float32(_EPSILON) * (below[0, node] + below[1, node]) + np.float32(_LEAST)
    return log((below[1, node] + least) / (below[0, node] + least))


# ---- reading and predicting


@inline_borrowing
def _move(state, b, at, inputs, error, curvature, precision, limit):  # type: ignore[no-untyped-def]
    """Move what adapting has added to weights, from column `at` on, by the inverse curvature so far."""
    shifts, curvatures, gain = state[b, at:], state[b, at + CURVATURES - SHIFTS :], np.float32(0)
    for i in range(len(inputs)):
        square = inputs[i] * inputs[i]
        curvatures[i] = min(curvatures[i] + curvature * square, limit)
        gain += square / (precision + curvatures[i])
    step = error / (np.float32(1) + np.float32(0.25) * gain)  # of all together: not too far
    for i in range(len(inputs)):
        shifts[i] += step * inputs[i] / (precision + curvatures[i])


@inline_borrowing
def _adapt(experts, state, b, at, c, workspace):  # type: ignore[no-untyped-def]
    """Adapt the weights of row b to id c, which was read after its last prediction.

    At each node of the character's path a step of Newton's method for each weight by itself, where the
    second derivative is the sum over all that was read, beginning with a precision: that of a prior around
    the learned weight, as in an extended Kalman filter whose covariance is diagonal.
    """
    up, adaptation, size = experts[6], experts[13], len(experts[5])
    kept = state[b, at + PREDICTION : at + PREDICTION + size]
    prepare(experts, state, b, at, c, kept, workspace)
    masses, step = workspace[10], up[c]
    masses[:] = 0
    while step >= 0:
        masses[step >> 1] = 1
        step = up[size + (step >> 1)]
    # All before the first weight moves, as in a prediction.
    decide(experts, state, b, at, 0, len(experts[7]), workspace, is_tree=False)
    step = up[c]
    while step >= 0:
        node, one = step >> 1, np.float32(1)
        inputs, outputs, p = workspace[5][node], workspace[7][node], sigmoid(workspace[14][node])
        error, curvature = np.float32(step & 1) - p, p * (one - p)
        precision, last, limit = adaptation[PRECISION], adaptation[LAST_PRECISION], adaptation[LIMIT]
        _move(state, b, at + SHIFTS, inputs, error, curvature, precision, limit * precision)
        _move(state, b, at + SHIFTS + INPUTS, outputs, error, curvature, last, limit * last)
        step = up[size + node]


@inline_borrowing
def keep(experts, state, b, at, logits):  # type: ignore[no-untyped-def]
    """Keep the network's logits (V,) in row b, to adapt to what is read next."""
    if experts[13][PRECISION] > 0:
        state[b, at + PREDICTED] = np.float32(1)
        kept = state[b, at + PREDICTION :]
        for c in range(len(logits)):
            kept[c] = logits[c]


@inline_borrowing
def read_row(experts, state, b, at, c, workspace):  # type: ignore[no-untyped-def]
    """Read id c in row b of the state, whose columns from `at` on are what the experts keep."""
    text, positions, slots, singles, characters = experts[0], experts[1], experts[2], experts[3], experts[5]
    if experts[13][PRECISION] > 0:
        if c > 0 and state[b, at + PREDICTED] > 0:
            _adapt(experts, state, b, at, c, workspace)
        state[b, at + PREDICTED] = np.float32(0)
    if workspace[12][0] == b + 1:
        forget(workspace)
    row, past, keys = parts_of(state, b, at)
    read_character(text, positions, slots, singles, characters, row, past, keys, c)


@inline_borrowing
def mix_row(experts, state, b, at, logits, workspace):  # type: ignore[no-untyped-def]
    """Turn the network's logits (V,) after the last character of row b into the mixture's; see `read_row`."""
    keep(experts, state, b, at, logits)
    prepare(experts, state, b, at, 0, logits, workspace)
    reached, nodes = workspace[8], len(experts[7])
    workspace[10][0] = 1
    decide(experts, state, b, at, 0, nodes, workspace, is_tree=True)
    for c in range(1, len(logits) if nodes > 0 else 1):
        logits[c] = log(max(reached[c], np.float32(_LEAST)))


@compiled(f"void({EXPERTS}, int32[:,::1], float32[:,::1], int64, int64, float32[:,:,::1], int64)")
def mix(  # type: ignore[no-untyped-def]
    text, positions, slots, singles, entries, characters, up, children, maps, recent_maps, match_maps,
    weights, last_weights, adaptation, backoffs, shares, meetings, ids, state, at, first, logits, wanted,
):  # fmt: skip
    """Read ids (T, B); turn logits (T - first, B, V) of the network after them into the mixture's, in place.

    `text` to `meetings` are the fields of `Experts`. The columns of `state` (B, .) from `at` on,
    `Experts.state_columns`, are what the experts keep, changed in place. Steps before `first` have no logits,
    so the weights do not adapt to what follows these. Logits before `wanted` stay those of the network.
    """
    experts = (
        text, positions, slots, singles, entries, characters, up, children, maps, recent_maps, match_maps,
        weights, last_weights, adaptation, backoffs, shares, meetings,
    )  # fmt: skip
    workspace = make_workspace(logits.shape[2], len(children))
    for b in range(ids.shape[1]):
        for t in range(len(ids)):
            read_row(experts, state, b, at, ids[t, b], workspace)
            if first <= t < wanted:
                keep(experts, state, b, at, logits[t - first, b])
            elif t >= first:
                mix_row(experts, state, b, at, logits[t - first, b], workspace)
