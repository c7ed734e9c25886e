"""Learns a mixture's maps and weights from a text, and counts its contexts. Compiled when first imported."""

import numpy as np

from nextchar.models.kernels.activations import log, sigmoid
from nextchar.models.kernels.intrinsics import dot, prefetch
from nextchar.models.kernels.jit import compiled, inline_borrowing
from nextchar.models.kernels.mixture import (
    EXPERTS,
    STEP_STARTS,
    STEPS,
    decide,
    forget,
    gather,
    make_workspace,
    odds_of,
    parts_of,
    read_row,
    write_shares,
)
from nextchar.models.kernels.mixture_arguments import (
    BACKOFFS,
    BY_RECENT,
    CONTEXTS,
    HISTORY_CHARACTERS,
    INPUTS,
    KEY_CHARACTERS,
    KEYS,
    LANES,
    LAST_SETS,
    LEARNED_BACKOFF,
    MATCH_CHARACTERS,
    MATCHED,
    MAX_COUNT,
    PREDICTIONS,
    RECENT,
    SETS,
    SIDE,
)
from nextchar.models.kernels.mixture_contexts import read_context
from nextchar.models.kernels.mixture_hashes import entries_of, hash_of, slot_of

_FIRST_RATE, _LAST_RATE, _DECISIONS = (
    0.015,
    0.0007,
    2000.0,
)  # of a set of weights, and when the first is halved
_MAX_SEEN = 1023.0  # of a map's state: it goes on moving
_MOST = 0.9999
_LEAST_SHARE = 0.0005
_HISTORY_PART = 16  # the history is at most this part of a text that is learned


# ---- learning


@inline_borrowing
def _count(slots, entries, row, c, starts):  # type: ignore[no-untyped-def]
    """Count that id c followed the contexts of a row."""
    for k in range(CONTEXTS):
        starts[k] = entries_of(slots, entries, np.uint64(np.uint32(row[KEYS + k])))
        prefetch(entries, max(starts[k], np.int64(0)))
    for k in range(CONTEXTS):
        at = starts[k]
        while at >= 0:
            entry = entries[at]
            if (entry & np.uint32(0xFFFF)) == c:
                if (entry >> np.uint32(16)) & np.uint32(0x7FFF) < MAX_COUNT:
                    entries[at] = entry + np.uint32(1 << 16)
                at = np.int64(-1)
            else:
                at = at + 1 if entry < np.uint32(1 << 31) else np.int64(-1)


@inline_borrowing
def _moved(z, target, seen):  # type: ignore[no-untyped-def]
    """Return the logarithm of odds z, moved so that the probability is nearer to the target."""
    one, most = np.float32(1), np.float32(_MOST)
    p = sigmoid(z)
    p += (target - p) * max(one / (seen + np.float32(1.5)), one / np.float32(_MAX_SEEN))
    p = min(max(p, one - most), most)
    return log(p / (one - p))


@inline_borrowing
def _move_maps(maps, seen, states, inputs, target, moved):  # type: ignore[no-untyped-def]
    """Move maps[k, states[k]], which are inputs[k], towards the target; state 0 stays."""
    for k in range(len(maps)):
        moved[k] = seen[k, states[k]]
    for k in range(len(maps)):
        moved[k] = _moved(inputs[k], target, moved[k])
    for k in range(len(maps)):
        if states[k] > 0:
            maps[k, states[k]] = moved[k]
            seen[k, states[k]] += np.float32(1)


@inline_borrowing
def _rate(seen, square):  # type: ignore[no-untyped-def]
    """Return how far a mixer moves; less for a large square of its inputs, so as not to move too far."""
    first, least = np.float32(_FIRST_RATE), np.float32(_LAST_RATE)
    rate = max(least, first / (np.float32(1) + seen / np.float32(_DECISIONS)))
    return rate / (np.float32(1) + np.float32(0.25) * rate * square)


@inline_borrowing
def _learn(experts, learned, node, z, y, moved, workspace):  # type: ignore[no-untyped-def]
    """Learn from a decision y, 0 or 1, at the node that was just decided, as z."""
    maps, recent_maps, match_maps, weights, last_weights = experts[8:13]
    seen, recent_seen, match_seen, set_seen, last_seen = learned
    counts, states, inputs, chosen, outputs = (
        workspace[0], workspace[4], workspace[5][node], workspace[6], workspace[7][node],
    )  # fmt: skip
    target = np.float32(y)
    error = (target - sigmoid(z)) * _rate(last_seen[0] * np.float32(0.5), dot(outputs, outputs, SETS))
    last_seen[0] += np.float32(1)
    for m in range(LAST_SETS):
        for k in range(SETS):
            last_weights[chosen[SETS + m], k] += error * outputs[k]
    square = dot(inputs, inputs, INPUTS)
    for k in range(SETS):
        own, at = weights[chosen[k]], chosen[k]
        error = (target - sigmoid(outputs[k])) * _rate(set_seen[at], square)
        set_seen[at] += np.float32(1)
        for i in range(INPUTS):
            own[i] += error * inputs[i]
    _move_maps(maps, seen, states, inputs, target, moved)
    _move_maps(recent_maps, recent_seen, states[LANES:], inputs[BY_RECENT:], target, moved)
    for m in range(PREDICTIONS):
        side = np.int32(counts[node, MATCHED + m])
        if side > 0:
            right, at = np.float32(1) if side == 1 + y else np.float32(0), states[2 * LANES + m]
            match_maps[at] = _moved(match_maps[at], right, match_seen[at])
            match_seen[at] += np.float32(1)


@inline_borrowing
def _move_share(own, seen, state, counted, rest):  # type: ignore[no-untyped-def]
    """Move a share own[state] of `rest` in a probability that is the sum of both; return the sum."""
    p, rate = counted + rest, np.float32(1) / (seen[state] + np.float32(1.5))
    own[state] += (rest / p - own[state]) * max(rate, np.float32(1 / _MAX_SEEN))
    own[state] = max(own[state], np.float32(_LEAST_SHARE))
    seen[state] += np.float32(1)
    return p


@inline_borrowing
def _learn_backoffs(experts, seen, c, workspace):  # type: ignore[no-untyped-def]
    """Learn the shares of the estimates from id c, each by itself, by expectation maximization."""
    backoffs, place, steps, states_of = experts[14], experts[6][c], workspace[16], workspace[18]
    node, side = place >> 1, place & 1
    own = workspace[0][node, SIDE * side :]
    for n in range(LEARNED_BACKOFF, BACKOFFS):
        p = experts[15][node, side]
        for i in range(STEP_STARTS[n], STEP_STARTS[n + 1]):
            k, row, m, column = STEPS[i, 0], STEPS[i, 1], STEPS[i, 2], STEPS[i, 3]
            if steps[0, i] > 0:
                counted, rest, state = own[column] * steps[0, i], steps[2, i] * p, states_of[row >> 1, k]
                p = _move_share(backoffs[m], seen[m], state, counted, rest)


@inline_borrowing
def _shorten(state, history):  # type: ignore[no-untyped-def]
    """Let the only row of `state` know its last `history` characters alone."""
    _, past, _ = parts_of(state, 0, 0)
    past[HISTORY_CHARACTERS - 1 - history] = 0


@inline_borrowing
def count_row(experts, behind, c, workspace):  # type: ignore[no-untyped-def]
    """Count that id c followed the contexts of the only row of `behind`, which reads it."""
    row, past, keys = parts_of(behind, 0, 0)
    slots = experts[2]
    _count(slots, experts[4], row, c, workspace[11])
    read_context(experts[5], row, past[HISTORY_CHARACTERS - KEY_CHARACTERS :], keys[:0], c)
    for k in range(CONTEXTS):
        prefetch(slots, slot_of(slots, np.uint64(np.uint32(row[KEYS + k]))))


@compiled(
    f"float64({EXPERTS}, float32[:,::1], float32[:,::1], float32[::1], float32[::1], float32[::1],"
    "float32[:,::1], int32[::1], float32[:,::1], float32[:,::1], float32[:,::1], int64)"
)
def learn(  # type: ignore[no-untyped-def]
    text, positions, slots, singles, entries, characters, up, children, maps, recent_maps, match_maps,
    weights, last_weights, adaptation, backoffs, shares, meetings, seen, recent_seen, match_seen, set_seen,
    last_seen, backoffs_seen, ids, behind, state, logits, start,
):  # fmt: skip
    """Read ids (N,) in `state` (1, STATE_COLUMNS), learning to predict each; return the sum of their bits.

    `text` to `meetings` are the fields of `Experts`, of which `maps` to `last_weights` and `backoffs` learn;
    nothing adapts. `seen` to `backoffs_seen` say how often each has learned. `logits` (N, V) of the
    network are before each id, or empty. If `behind` has a row of zeros, the ids are the text, whose counts
    and `positions` are still zero: its characters are counted as they become older than the history, of which
    a short text has less. There is something to learn from `start` on, before which ids only count.
    """
    experts = (
        text, positions, slots, singles, entries, characters, up, children, maps, recent_maps, match_maps,
        weights, last_weights, adaptation, backoffs, shares, meetings,
    )  # fmt: skip
    learned = (seen, recent_seen, match_seen, set_seen, last_seen)
    workspace = make_workspace(len(characters), len(children))
    shares, below, moved = workspace[8], workspace[9], np.empty(CONTEXTS + RECENT, np.float32)
    decided, decisions = workspace[13], workspace[14]
    workspace[10][:] = 1  # every node has a mass
    bits, one = 0.0, np.float32(1)
    history = min(HISTORY_CHARACTERS, max(KEY_CHARACTERS, len(ids) // _HISTORY_PART))
    for i in range(len(ids)):
        c = ids[i]
        if c > 0 and i >= start:
            gather(experts, state, 0, 0, c, workspace)
            if len(logits) > 0:
                write_shares(children, logits[i], shares, below)
            at = up[c]
            while at >= 0:
                node, y = at >> 1, at & 1
                decided[node] = 0
                decisions[node] = odds_of(below, node) if len(logits) > 0 else np.float32(0)
                decide(experts, state, 0, 0, node, node + 1, workspace, is_tree=False)
                z = decisions[node]
                p = sigmoid(z)
                bits -= np.log2(p if y == 1 else one - p)
                _learn(experts, learned, node, z, y, moved, workspace)
                at = up[len(characters) + node]
            _learn_backoffs(experts, backoffs_seen, c, workspace)
            forget(workspace)
        old = i - history
        if i >= start - history:
            read_row(experts, state, 0, 0, c, workspace)
            if len(behind) > 0 and history < HISTORY_CHARACTERS:
                _shorten(state, history)
        if len(behind) > 0 and old >= 0:
            count_row(experts, behind, ids[old], workspace)
            if old >= MATCH_CHARACTERS:
                positions[np.int64(hash_of(text, old) & np.uint64(len(positions) - 1))] = old
    return bits
