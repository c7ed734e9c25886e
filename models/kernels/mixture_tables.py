"""Counts what followed the contexts of a text, when a model is loaded. Compiled when first imported."""

import numpy as np

from nextchar.models.kernels.jit import compiled, inline_jit
from nextchar.models.kernels.mixture_arguments import (
    KEY_CHARACTERS,
    KEYS,
    MATCH_CHARACTERS,
    MAX_COUNT,
    STATE_COLUMNS,
)
from nextchar.models.kernels.mixture_contexts import read_context
from nextchar.models.kernels.mixture_hashes import hash_of, part_of, place_bits, slot_of


@compiled("void(int32[::1], int32[:,::1], int64, uint32[:,::1])")
def write_text_keys(text, characters, first, keys):  # type: ignore[no-untyped-def]
    """Write the keys (n, N) of n contexts, from number `first` on, before each character of a text (N,)."""
    row = np.zeros(STATE_COLUMNS, np.int32)
    past = np.zeros(KEY_CHARACTERS, np.uint16)
    unused = np.zeros((0, KEY_CHARACTERS), np.uint16)
    for i in range(len(text)):
        for k in range(len(keys)):
            keys[k, i] = np.uint32(row[KEYS + first + k])
        read_context(characters, row, past, unused, text[i])


@compiled("UniTuple(int64, 3)(uint64[::1], uint32[:,::1], uint32[::1], uint32[::1], int64)")
def write_entries(grams, contexts, entries, once, entries_before):  # type: ignore[no-untyped-def]
    """Write what followed the contexts of a kind; return the numbers of contexts, entries and single ones.

    `grams` (N,), sorted, are keys times 2**16 plus the ids that followed; key 0 and id 0 do not count. Of
    each context that occurs more than once `contexts` gets its key and 1 + where its entries begin, after
    `entries_before` others, and `entries` what followed. `once` gets the keys of the others, each before its
    element of `Experts.singles`.
    """
    n, m, single, i = 0, 0, 0, 0
    while i < len(grams):
        key, start, begin = grams[i] >> np.uint64(16), m, i
        while i < len(grams) and grams[i] >> np.uint64(16) == key:
            gram, count = grams[i], 0
            while i < len(grams) and grams[i] == gram:
                count += 1
                i += 1
            if gram & np.uint64(0xFFFF) != 0:
                entries[m] = np.uint32((min(count, MAX_COUNT) << 16) | np.int64(gram & np.uint64(0xFFFF)))
                m += 1
        if key == 0 or i - begin == 1:
            m = start
            if key != 0 and grams[begin] & np.uint64(0xFFFF) != 0:
                once[2 * single] = np.uint32(key)
                once[2 * single + 1] = np.uint32(
                    ((key & np.uint64(0xFFFF)) << np.uint64(16)) | (grams[begin] & np.uint64(0xFFFF))
                )
                single += 1
        elif m > start:
            entries[m - 1] |= np.uint32(1 << 31)
            contexts[n, 0], contexts[n, 1] = np.uint32(key), np.uint32(entries_before + start + 1)
            n += 1
    return n, m, single


@inline_jit
def _insert(slots, left, key, element):  # type: ignore[no-untyped-def]
    begin, end = part_of(slots, key)
    part = begin // (end - begin)
    if left[part] == 0:  # hardly ever; a search ends at the last free place
        return
    left[part] -= 1
    at = slot_of(slots, key)
    while slots[at] != 0:
        at = at + 1 if at + 1 < end else begin
    slots[at] = element


@compiled("void(uint32[:,::1], uint32[::1], uint32[::1], int64[::1])")
def fill_slots(contexts, entries, slots, left):  # type: ignore[no-untyped-def]
    """Put contexts (n, 2) into a hash table `Experts.slots`; `left` is how many still fit into each part."""
    bits = place_bits(entries)
    for i in range(len(contexts)):
        key = np.uint64(contexts[i, 0])
        _insert(slots, left, key, np.uint32((key << bits) & np.uint64(0xFFFFFFFF)) | contexts[i, 1])


@compiled("void(uint32[::1], uint32[::1], int64[::1])")
def fill_singles(once, singles, left):  # type: ignore[no-untyped-def]
    """Put pairs of a key and an element into a hash table `Experts.singles`; `left` as of `fill_slots`."""
    for i in range(0, len(once), 2):
        _insert(singles, left, np.uint64(once[i]), once[i + 1])


@compiled("void(uint16[::1], int32[::1])")
def index_text(text, positions):  # type: ignore[no-untyped-def]
    """Fill `positions` (a power of two), zeros at first, for a text; see `Experts`."""
    for end in range(MATCH_CHARACTERS, len(text)):
        positions[np.int64(hash_of(text, end) & np.uint64(len(positions) - 1))] = end
