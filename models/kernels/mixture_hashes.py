"""Hashes of contexts, and the hash tables that they are looked up in; parts of other kernels."""

import numpy as np

from nextchar.models.kernels.intrinsics import highest_bit
from nextchar.models.kernels.jit import inline_borrowing
from nextchar.models.kernels.mixture_arguments import MATCH_CHARACTERS, MAX_PART_BITS, PART_SLOT_BITS


@inline_borrowing
def mixed(h, x):  # type: ignore[no-untyped-def]
    """Return a hash (uint64) of a hash and an integer."""
    h = (h ^ np.uint64(x)) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(32))


@inline_borrowing
def hash_of(ids, end):  # type: ignore[no-untyped-def]
    """Return a hash (uint64) of the MATCH_CHARACTERS ids before position `end`."""
    h = np.uint64(0)
    for j in range(MATCH_CHARACTERS):
        h = mixed(h, ids[end - 1 - j])
    return h


@inline_borrowing
def slot_of(slots, key):  # type: ignore[no-untyped-def]
    """Return the place where a search for a key (32 bits in a uint64) in a hash table begins."""
    return np.int64((key * np.uint64(len(slots))) >> np.uint64(32))


@inline_borrowing
def part_of(slots, key):  # type: ignore[no-untyped-def]
    """Return where the part of a hash table that a key belongs to begins, and where it ends."""
    bits = min(max(highest_bit(np.uint64(len(slots))) - PART_SLOT_BITS, 0), MAX_PART_BITS)
    size, part = len(slots) >> bits, np.int64(key >> np.uint64(32 - bits))
    return part * size, (part + 1) * size


@inline_borrowing
def place_bits(entries):  # type: ignore[no-untyped-def]
    """Return how many bits of an element of `Experts.slots` say where entries begin."""
    return np.uint64(1 + highest_bit(np.uint64(len(entries))))


@inline_borrowing
def entries_of(slots, entries, key):  # type: ignore[no-untyped-def]
    """Return where the entries of a context begin, or -1."""
    at, bits = slot_of(slots, key), place_bits(entries)
    begin, end = part_of(slots, key)
    check = (key << bits) & np.uint64(0xFFFFFFFF)
    while slots[at] != 0:
        slot = np.uint64(slots[at])
        if (slot >> bits) << bits == check:
            return np.int64(slot ^ check) - 1
        at = at + 1 if at + 1 < end else begin
    return np.int64(-1)


@inline_borrowing
def single_of(singles, key):  # type: ignore[no-untyped-def]
    """Return the id that followed a context once, or 0."""
    at = slot_of(singles, key)
    begin, end = part_of(singles, key)
    check = np.uint32(key & np.uint64(0xFFFF))
    while singles[at] != 0:
        if singles[at] >> np.uint32(16) == check:
            return np.int64(singles[at] & np.uint32(0xFFFF))
        at = at + 1 if at + 1 < end else begin
    return np.int64(0)
