"""Where the characters just read occurred before in what a row has read; parts of other kernels."""

import numpy as np

from nextchar.models.kernels.intrinsics import equal_mask, highest_bit
from nextchar.models.kernels.jit import inline_borrowing
from nextchar.models.kernels.mixture_arguments import (
    BLOCK,
    BLOCKS,
    HISTORY_CHARACTERS,
    HISTORY_MATCH_CHARACTERS,
    HISTORY_MATCH_DISTANCE,
    HISTORY_MATCH_LENGTH,
    KEY_BLOCKS,
    MAX_MATCH,
    ORDERS,
    READ,
)
from nextchar.models.kernels.mixture_hashes import mixed


@inline_borrowing
def first_of_block(past, block):  # type: ignore[no-untyped-def]
    """Return the first position of a block of the history, or of its newest part."""
    return len(past) - 1 - (block + 1) * BLOCK


@inline_borrowing
def read_blocks(row, blocks):  # type: ignore[no-untyped-def]
    """Return in how many of some blocks something was read."""
    return min((row[READ] + BLOCK - 1) // BLOCK, blocks)


@inline_borrowing
def pairs_of(past, block):  # type: ignore[no-untyped-def]
    """Return a mask whose bit k says that the last two of `past` are also those up to position k of a block.

    Unknown characters are never the same.
    """
    c0, c1 = past[len(past) - 1], past[len(past) - 2]
    if c0 == 0 or c1 == 0:
        return np.uint64(0)
    start = first_of_block(past, block)
    return equal_mask(past, start, c0) & equal_mask(past, start - 1, c1)


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
def find_history_match(row, past):  # type: ignore[no-untyped-def]
    """Set the match in the history to the longest, and of equals the newest."""
    row[HISTORY_MATCH_DISTANCE] = row[HISTORY_MATCH_LENGTH] = 0
    c2, c3 = past[HISTORY_CHARACTERS - 3], past[HISTORY_CHARACTERS - 4]
    for block in range(read_blocks(row, BLOCKS)):
        start = first_of_block(past, block)
        mask = pairs_of(past, block)
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
def followers_of(row, past):  # type: ignore[no-untyped-def]
    """Return a hash (uint64) of what followed the last two characters the last two times."""
    h, times = np.uint64(0), 0
    for block in range(read_blocks(row, KEY_BLOCKS)):
        mask = pairs_of(past, block)
        while mask != np.uint64(0) and times < 2:
            k = highest_bit(mask)
            mask ^= np.uint64(1) << np.uint64(k)
            h = mixed(h, past[first_of_block(past, block) + k + 1] + 1)
            times += 1
        if times == 2:
            break
    return h


@inline_borrowing
def same_characters(past, i):  # type: ignore[no-untyped-def]
    """Return how many characters up to position i are the last of `past`, for at least two; up to six.

    Unknown characters are never the same.
    """
    length, is_same = 2, True
    for n in range(2, ORDERS[-1]):  # without branches, which would often be predicted wrong
        c = past[HISTORY_CHARACTERS - 1 - n]
        is_same &= (c != 0) & (past[i - n] == c)
        length += is_same
    return length
