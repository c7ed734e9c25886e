"""What the experts of a mixture keep of what a row reads: its contexts, its history and its matches.

Compiled when first imported. Contexts are hashes that are computed from the state before them, so what was
read in one piece or character by character has the same.
"""

import numpy as np

from nextchar.models.kernels.intrinsics import prefetch
from nextchar.models.kernels.jit import compiled, inline_borrowing
from nextchar.models.kernels.mixture_arguments import (
    ABOVE_DISTANCE,
    BRACKET,
    BRACKET_KIND,
    BRACKETS,
    BUCKETS,
    CLOSING,
    COLUMN,
    CONTEXTS,
    DELIMITER,
    DEPTH,
    DIGIT,
    FIELD,
    FIELD_ABOVE,
    FIELD_HASH,
    FIELD_NUMBER,
    FIELDS,
    FIELDS_BEFORE,
    FIELDS_NOW,
    FOLDED,
    GAP_HASH,
    HISTORY_CHARACTERS,
    HISTORY_IDS,
    HISTORY_MATCH_BUCKET,
    HISTORY_MATCH_DISTANCE,
    HISTORY_MATCH_ID,
    HISTORY_MATCH_LENGTH,
    INDIRECT,
    KEY_CHARACTERS,
    KEYS,
    KIND,
    LAST_TOKEN,
    LAYOUT,
    LETTER,
    LETTERS,
    LINE_COLUMN,
    LINE_END,
    LOWER,
    MATCH_AT,
    MATCH_BUCKET,
    MATCH_CHARACTERS,
    MATCH_ID,
    MATCH_LENGTH,
    MAX_DEPTH,
    MAX_MATCH,
    OPENING,
    ORDERS,
    QUOTE,
    QUOTED,
    READ,
    RECENT_KEYS,
    RECORD_END,
    SEPARATOR,
    SHAPE,
    SIGN,
    SPACE,
    STARTS_BEFORE,
    STARTS_NOW,
    TOKENS,
    UPPER,
    WORD,
    WORD_BEFORE,
    WORD_BEFORE_THAT,
    WORD_HASH,
    WORDS,
    WORDS_BEFORE,
)
from nextchar.models.kernels.mixture_hashes import hash_of, mixed, slot_of
from nextchar.models.kernels.mixture_history import common_length, find_history_match, followers_of

_MAX_ID = 65535


@inline_borrowing
def _stored(h):  # type: ignore[no-untyped-def]
    """Return the lowest 32 bits of a hash, as the state keeps them."""
    return np.int32(np.uint32(h))


@inline_borrowing
def _loaded(number):  # type: ignore[no-untyped-def]
    return np.uint64(np.uint32(number))


@inline_borrowing
def _start(context):  # type: ignore[no-untyped-def]
    """Return the hash that the keys of a context begin with, far from those of others."""
    return mixed(np.uint64(context), 0)


# ---- contexts


@inline_borrowing
def _read_word(row, c, kind, folded):  # type: ignore[no-untyped-def]
    """Follow words of letters, and of digits after a letter, and what is between them."""
    is_in_word = row[WORD_HASH] != 0
    if kind in (LOWER, UPPER, LETTER) or (kind == DIGIT and is_in_word):
        word = _loaded(row[WORD_HASH])
        if row[GAP_HASH] != 0 or not is_in_word:
            if is_in_word:
                row[WORD_BEFORE_THAT], row[WORD_BEFORE] = row[WORD_BEFORE], row[WORD_HASH]
            word = np.uint64(1)
            row[GAP_HASH], row[LETTERS] = 0, 0
        row[WORD_HASH] = _stored(mixed(word, folded))
        row[LETTERS] += 1
    else:
        row[GAP_HASH] = _stored(mixed(_loaded(row[GAP_HASH]), c + 1))
        row[LETTERS] = 0


@inline_borrowing
def _read_field(row, c, kind, before):  # type: ignore[no-untyped-def]
    """Follow lines and fields, which end with a space or a sign that is not as id `before`, the last one."""
    row[LINE_COLUMN] += 1
    if kind in (LINE_END, RECORD_END):
        row[ABOVE_DISTANCE], row[LINE_COLUMN] = row[LINE_COLUMN], 0
        for i in range(FIELDS):
            row[FIELDS_BEFORE + i], row[FIELDS_NOW + i] = row[FIELDS_NOW + i], 0
        row[FIELD_NUMBER], row[FIELD_HASH] = 0, 0
    elif kind == SPACE or (kind == SIGN and before != c):
        row[FIELDS_NOW + min(row[FIELD_NUMBER], FIELDS - 1)] = row[FIELD_HASH]
        row[FIELD_NUMBER] += 1
        row[FIELD_HASH] = _stored(mixed(_start(FIELD), c + 1))
    else:
        row[FIELD_HASH] = _stored(mixed(_loaded(row[FIELD_HASH]), c + 1))


@inline_borrowing
def _read_cell(row, c, kind, mark):  # type: ignore[no-untyped-def]
    """Follow lines and cells of a table, as `_read_field` does lines and fields."""
    is_line_end = kind in (LINE_END, RECORD_END)
    row[QUOTED] = 0 if is_line_end else row[QUOTED] ^ (mark == QUOTE)
    if not is_line_end and (mark != DELIMITER or row[QUOTED] != 0):
        row[LINE_COLUMN] += 1
        row[FIELD_HASH] = _stored(mixed(_loaded(row[FIELD_HASH]), c + 1))
        return
    row[FIELDS_NOW + min(row[FIELD_NUMBER], FIELDS - 1)] = row[FIELD_HASH]
    row[FIELD_NUMBER] += 1
    if is_line_end:
        for i in range(FIELDS):
            row[FIELDS_BEFORE + i], row[FIELDS_NOW + i] = row[FIELDS_NOW + i], 0
            row[STARTS_BEFORE + i], row[STARTS_NOW + i] = row[STARTS_NOW + i], 0
        row[FIELD_NUMBER] = 0
    at = min(row[FIELD_NUMBER], FIELDS - 1)
    above = row[STARTS_BEFORE + at]
    row[STARTS_NOW + at] = row[READ]
    row[ABOVE_DISTANCE] = row[READ] - above if above > 0 else 0
    row[LINE_COLUMN], row[FIELD_HASH] = 0, _stored(mixed(_start(FIELD), c + 1))


@inline_borrowing
def _read_token(row, c, kind):  # type: ignore[no-untyped-def]
    """Follow the kinds of tokens: words alike, numbers alike, most signs apart. Spaces are none."""
    last, now = row[LAST_TOKEN], np.int32(0)
    if kind == SIGN:
        now = np.int32(4 + (c & 15))
    elif kind != SPACE:
        is_number = kind == DIGIT and last != 2
        now = np.int32(1 if kind in (LINE_END, RECORD_END) else 3 if is_number else 2)
    if now > 3 or (now > 0 and now != last):
        row[TOKENS] = np.int32(((row[TOKENS] << 5) | now) & 0x3FFFFFFF)
    row[LAST_TOKEN] = now


@inline_borrowing
def _read_bracket(row, c, kind):  # type: ignore[no-untyped-def]
    """Follow the brackets that are open."""
    depth = row[DEPTH]
    if kind == OPENING:
        if depth == MAX_DEPTH:
            depth -= 1
            for i in range(MAX_DEPTH - 1):
                row[BRACKETS + i] = row[BRACKETS + i + 1]
        row[BRACKETS + depth] = _stored(mixed(_loaded(row[WORD_HASH]), c + 1))
        row[DEPTH] = depth + 1
    elif depth > 0 and kind == CLOSING:
        row[DEPTH] = depth - 1
    elif depth > 0 and kind == SEPARATOR:
        row[BRACKETS + depth - 1] = _stored(mixed(_loaded(row[BRACKETS + depth - 1]), c + 1))


@inline_borrowing
def _write_keys(row, past, is_table):  # type: ignore[no-untyped-def]
    """Write the keys of the contexts of the next character, after `past` (KEY_CHARACTERS,)."""
    last = KEY_CHARACTERS - 1
    h, n = _start(CONTEXTS), 0
    for k in range(len(ORDERS)):
        while n < ORDERS[k]:
            h = mixed(h, past[last - n] + 1)
            n += 1
        row[KEYS + k] = _stored(h)
    word = mixed(mixed(_start(WORD), row[WORD_HASH]), row[GAP_HASH])
    row[KEYS + WORD] = _stored(word)
    words = mixed(word, row[WORD_BEFORE])
    row[KEYS + WORDS] = _stored(words)
    row[KEYS + WORDS_BEFORE] = _stored(mixed(mixed(words, row[WORD_BEFORE_THAT]), 1))
    column, distance = row[LINE_COLUMN], row[ABOVE_DISTANCE]
    above = past[last + 1 - distance] if column < distance <= last + 1 else np.uint16(0)
    after = past[last + 2 - distance] if column + 1 < distance <= last else np.uint16(0)
    row[KEYS + COLUMN] = _stored(mixed(mixed(mixed(_start(COLUMN), above), after), min(column, 255)))
    length = row[FIELD_NUMBER] if is_table else min(row[LETTERS], 15)
    layout = mixed(mixed(_start(LAYOUT), min(column, 255)), length)
    row[KEYS + LAYOUT] = _stored(mixed(layout, row[LAST_TOKEN]))
    row[KEYS + FIELD] = _stored(mixed(mixed(_start(FIELD), row[FIELD_NUMBER]), row[FIELD_HASH]))
    field = row[FIELDS_BEFORE + min(row[FIELD_NUMBER], FIELDS - 1)]
    row[KEYS + FIELD_ABOVE] = _stored(mixed(mixed(_start(FIELD_ABOVE), field), row[FIELD_HASH]))
    token = _loaded(row[WORD_HASH]) if row[GAP_HASH] == 0 else mixed(_loaded(row[GAP_HASH]), 1)
    bracket = row[BRACKETS + row[DEPTH] - 1] if row[DEPTH] > 0 else np.int32(0)
    row[KEYS + BRACKET] = _stored(mixed(mixed(_start(BRACKET), bracket), token))
    tokens = mixed(mixed(_start(SHAPE), row[TOKENS]), row[LAST_TOKEN])
    row[KEYS + SHAPE] = _stored(mixed(tokens, token))
    row[KEYS + INDIRECT] = _stored(mixed(mixed(_start(INDIRECT), followers_of(row, past)), past[last] + 1))


@inline_borrowing
def read_context(characters, row, past, keys, c):  # type: ignore[no-untyped-def]
    """Add id c to the history `past`, and its keys to `keys`; write the keys of the next character.

    `past` may be the newest KEY_CHARACTERS alone.
    """
    kind, mark, is_table = characters[c, KIND], characters[c, BRACKET_KIND], characters[0, BRACKET_KIND] != 0
    if kind == RECORD_END:  # all that was read is forgotten
        row[:HISTORY_IDS] = 0
        past[:] = 0
        keys[:] = 0
    before = past[len(past) - 1]
    _push(past, row[READ], np.uint16(c if c <= _MAX_ID else 0))
    for j in range(len(keys)):
        _push(keys[j], row[READ], np.uint16(row[KEYS + RECENT_KEYS[j]] & 0xFFFF))
    row[READ] += 1
    _read_word(row, c, kind, characters[c, FOLDED])
    if is_table:
        _read_cell(row, c, kind, mark)
    else:
        _read_field(row, c, kind, before)
    _read_token(row, c, kind)
    _read_bracket(row, c, mark)
    _write_keys(row, past[len(past) - KEY_CHARACTERS :], is_table)


@inline_borrowing
def _push(past, read, number):  # type: ignore[no-untyped-def]
    """Add a number after the others, of which `read` are not from before the row began."""
    last = len(past) - 1
    if read < last:
        moved = past[last - read :]
        for i in range(read):
            moved[i] = moved[i + 1]
    else:  # the same, compiled to one call
        for i in range(last):
            past[i] = past[i + 1]
    past[last] = number


# ---- matches


@inline_borrowing
def _follow_match(text, row, past, is_predicted, at):  # type: ignore[no-untyped-def]
    """Move the match in the known text beyond the last of `past`, if predicted; or to position `at`."""
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


@compiled(
    "void(uint16[::1], int32[::1], uint32[::1], uint32[::1], int32[:,::1], int32[::1], uint16[::1],"
    "uint16[:,::1], int64)",
    is_internal=True,
    is_borrowing=True,
)
def read_character(text, positions, slots, singles, characters, row, past, keys, c):  # type: ignore[no-untyped-def]
    """Read id c: change the state of a row, int32, and its history, `past` and `keys`.

    What is far away in memory is prefetched, and something else is done until it is needed.
    """
    distance, at, goes_on = row[HISTORY_MATCH_DISTANCE], row[MATCH_AT], characters[c, KIND] != RECORD_END
    was_predicted = goes_on and distance > 0 and c != 0 and past[HISTORY_CHARACTERS - distance] == c
    is_match_over = not goes_on or at == 0 or text[at] != c
    read_context(characters, row, past, keys, c)
    for k in range(CONTEXTS):
        prefetch(slots, slot_of(slots, _loaded(row[KEYS + k])))
        prefetch(singles, slot_of(singles, _loaded(row[KEYS + k])))
    if is_match_over:
        at = positions[np.int64(hash_of(past, HISTORY_CHARACTERS) & np.uint64(len(positions) - 1))]
        prefetch(text, max(at - 1, 0))
    if was_predicted:
        row[HISTORY_MATCH_LENGTH] = min(row[HISTORY_MATCH_LENGTH] + 1, MAX_MATCH)
    else:
        find_history_match(row, past)
    _follow_match(text, row, past, not is_match_over, at)


@inline_borrowing
def _length_bucket(length):  # type: ignore[no-untyped-def]
    """Return 0 without a match, else 1 to BUCKETS - 1."""
    if length < 16:
        return (length + 1) >> 1
    if length < 32:
        return 5 + length // 4
    return min(BUCKETS - 1, 12 + length // 32)


@inline_borrowing
def write_features(text, row, past, features):  # type: ignore[no-untyped-def]
    """Write what the matches predict after the characters read into features (FEATURES,)."""
    at, distance = row[MATCH_AT], row[HISTORY_MATCH_DISTANCE]
    features[MATCH_ID] = text[at] if 0 < at < len(text) else 0
    features[MATCH_BUCKET] = _length_bucket(row[MATCH_LENGTH])
    features[HISTORY_MATCH_ID] = past[HISTORY_CHARACTERS - distance] if distance > 0 else 0
    features[HISTORY_MATCH_BUCKET] = BUCKETS + _length_bucket(row[HISTORY_MATCH_LENGTH])
