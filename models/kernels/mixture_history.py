"""Where the characters just read were read before, in the history of a row. Compiled when first imported."""

import numpy as np

from nextchar.models.kernels.jit import inline_borrowing
from nextchar.models.kernels.mixture_arguments import (
    BLOCK,
    BLOCKS,
    HISTORY_CHARACTERS,
    HISTORY_MATCH_CHARACTERS,
    HISTORY_MATCH_DISTANCE,
    HISTORY_MATCH_LENGTH,
    MAX_MATCH,
)
from nextchar.models.kernels.vector_operations import equal_mask, highest_bit


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
