"""Search in sorted lines: ranges of a prefix, with typing errors, and the entries of largest count in them.

Compiled when first imported. `folded` has the numbers of the characters of all lines, each of which ends with
0 (`nextchar.models.text.line_file`); `places` are places in it, sorted by what follows: where lines begin, or
words. A query is numbers of characters, -1 for one that no line has.
"""

import numpy as np

from nextchar.models.kernels.jit import compiled, inline_borrowing

BLOCK = 64
"""Entries of which the largest count is stored."""

MAX_RANGES = 1 << 14
"""The most ranges that a search with typing errors may find; more are dropped."""

_STACK = 4096

LO, HI, ERRORS, MATCHED = range(4)
"""Columns of a range: its first entry, the one after its last, its typing errors, and the characters of its
lines that the query stands for."""

_FOLDED = ("Array(uint8, 1, 'C', readonly=True)", "Array(uint16, 1, 'C', readonly=True)")
_PLACES = "Array(uint32, 1, 'C', readonly=True)"


@inline_borrowing
def _at(folded, place, depth):  # type: ignore[no-untyped-def]
    """Return the index of a character; in a file that is not sorted it could be behind the last one."""
    return min(np.int64(place) + depth, len(folded) - 1)


@inline_borrowing
def _order(folded, at, query, first, last):  # type: ignore[no-untyped-def]
    """Return the sign of the difference of folded[at:] and query[first:last]; 0 if it begins with it."""
    for i in range(first, last):
        c, q = np.int32(folded[at + i - first]), query[i]
        if c != q:
            return -1 if c < q else 1
    return 0


@inline_borrowing
def _bound(folded, places, lo, hi, depth, query, first, last, after):  # type: ignore[no-untyped-def]
    """Return the first entry of a range that is not before query[first:last], or with `after` is behind it.

    Compared is what follows the first `depth` characters, in which the entries of the range are the same.
    """
    while lo < hi:
        middle = (lo + hi) >> 1
        if _order(folded, _at(folded, places[middle], depth), query, first, last) < after:
            lo = middle + 1
        else:
            hi = middle
    return lo


@inline_borrowing
def _next_child(folded, places, lo, hi, depth):  # type: ignore[no-untyped-def]
    """Return the end of the entries that have the character of the first one at this depth."""
    c = folded[_at(folded, places[lo], depth)]
    step = 1
    while lo + step < hi and folded[_at(folded, places[lo + step], depth)] == c:
        step <<= 1
    low, high = lo + (step >> 1) + 1, min(lo + step, hi)
    while low < high:
        middle = (low + high) >> 1
        if folded[_at(folded, places[middle], depth)] == c:
            low = middle + 1
        else:
            high = middle
    return low


@inline_borrowing
def _push(stack, size, lo, hi, depth, done, left):  # type: ignore[no-untyped-def]
    """Push a state; return the new size of the stack. A full stack stays as it is."""
    if size == len(stack):
        return size
    state = stack[size]
    state[0], state[1], state[2], state[3], state[4] = lo, hi, depth, done, left
    return size + 1


@inline_borrowing
def _push_swapped(folded, places, query, stack, size, state):  # type: ignore[no-untyped-def]
    """Push what follows if the next two characters of the query are exchanged; return the stack's size."""
    lo, hi, depth, done, left = state
    if done + 1 >= len(query) or query[done] == query[done + 1]:
        return size
    for first in range(2):  # the second character, then the first
        lo = _bound(folded, places, lo, hi, depth + first, query, done + 1 - first, done + 2 - first, 0)
        hi = _bound(folded, places, lo, hi, depth + first, query, done + 1 - first, done + 2 - first, 1)
    return _push(stack, size, lo, hi, depth + 2, done + 2, left - 1)


@inline_borrowing
def _push_next(folded, places, query, stack, size):  # type: ignore[no-untyped-def]
    """Push all that may follow the state at stack[size], which has errors left; return the stack's size.

    A state is a range of entries whose first `depth` characters stand for the first `done` of the query.
    """
    lo, hi, depth, done, left = stack[size]
    size = _push_swapped(folded, places, query, stack, size, (lo, hi, depth, done, left))
    size = _push(stack, size, lo, hi, depth, done + 1, left - 1)  # one too many
    while lo < hi:
        c = np.int32(folded[_at(folded, places[lo], depth)])
        end = _next_child(folded, places, lo, hi, depth)
        if c == query[done]:
            size = _push(stack, size, lo, end, depth + 1, done + 1, left)
        elif c != 0:
            size = _push(stack, size, lo, end, depth + 1, done, left - 1)  # left out
            size = _push(stack, size, lo, end, depth + 1, done + 1, left - 1)  # substituted
        lo = end
    return size


@compiled(*(f"int64({folded}, {_PLACES}, int32[::1], int64, int64, int32[:,::1])" for folded in _FOLDED))
def find_ranges(folded, places, query, exact, errors, ranges):  # type: ignore[no-untyped-def]
    """Write the ranges of entries that begin with the query but for `errors` errors; return how many.

    An error is a character that is substituted, inserted, left out, or exchanged with its neighbor (Damerau);
    the first `exact` characters have none. With 0 errors there is at most one range; else a range may be part
    of another with more errors.
    """
    n = len(query)
    stack = np.empty((_STACK, 5), np.int64)
    size, found = 0, 0
    lo = _bound(folded, places, 0, len(places), 0, query, 0, exact, 0)
    hi = _bound(folded, places, lo, len(places), 0, query, 0, exact, 1)
    size = _push(stack, size, lo, hi, exact, exact, errors)
    while size > 0:
        size -= 1
        lo, hi, depth, done, left = stack[size]
        if left == 0:
            lo = _bound(folded, places, lo, hi, depth, query, done, n, 0)
            hi = _bound(folded, places, lo, hi, depth, query, done, n, 1)
            depth, done = depth + n - done, n
        if lo < hi and done < n:
            size = _push_next(folded, places, query, stack, size)
        elif lo < hi and found < len(ranges):
            ranges[found, LO], ranges[found, HI] = lo, hi
            ranges[found, ERRORS], ranges[found, MATCHED] = errors - left, depth
            found += 1
    return found


@inline_borrowing
def _line_of(starts, place):  # type: ignore[no-untyped-def]
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) >> 1
        if starts[middle] <= place:
            low = middle + 1
        else:
            high = middle
    return low - 1


@inline_borrowing
def _score(count, penalty):  # type: ignore[no-untyped-def]
    """Return what lines are ranked by, as it is stored: rounded, so that equal counts have equal scores."""
    return np.float32(np.log2(np.float32(1) + count) - penalty)


@compiled(
    f"int64(int32[:,::1], {_PLACES}, {_PLACES}, {_PLACES}, {_PLACES}, float32, float32[::1], int32[:,::1])"
)
def largest(ranges, places, starts, counts, maxima, bits, scores, best):  # type: ignore[no-untyped-def]
    """Write the lines of highest log2(1 + count) - bits * errors in the ranges, best first; return how many.

    `best` (K, 2) gets each line and the index of its range, `scores` (K,) what they are ranked by. Of ranges
    with the same line the first counts, and of lines with the same score. `maxima` are the largest counts of
    each BLOCK places.
    """
    k, found = len(best), 0
    for r in range(len(ranges)):
        penalty = bits * ranges[r, ERRORS]
        i, hi = np.int64(ranges[r, LO]), np.int64(ranges[r, HI])
        while i < hi:
            threshold = scores[k - 1] if found == k else np.float32(-np.inf)
            if i % BLOCK == 0 and found == k:  # noqa: SIM102 -- the block after the last has no maximum
                if _score(maxima[i // BLOCK], penalty) <= threshold:
                    i += BLOCK
                    continue
            line = _line_of(starts, places[i])
            score = _score(counts[line], penalty)
            i += 1
            if score <= threshold:
                continue
            is_known = False
            for j in range(found):
                is_known |= best[j, 0] == line
            if is_known:
                continue
            j = min(found, k - 1)
            while j > 0 and scores[j - 1] < score:
                scores[j], best[j, 0], best[j, 1] = scores[j - 1], best[j - 1, 0], best[j - 1, 1]
                j -= 1
            scores[j], best[j, 0], best[j, 1] = score, line, r
            found = min(found + 1, k)
    return found
