"""What a packed model (`nextchar.models.pack`) has to mask and to score lines.

The constants in capitals are also the C header's.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.aggregate import (
    NEW_TEMPLATE_BITS,
    NGRAM_STATISTICS,
    STATISTICS,
    TEMPLATE_STATISTICS,
    WORD_STATISTICS,
)
from nextchar.models.anomaly.calibration import Calibration
from nextchar.models.anomaly.tail import BITS_TOLERANCE
from nextchar.models.saved_model import SavedModel
from nextchar.models.text import mask_program, mask_values
from nextchar.models.text import ngram as ngram_file
from nextchar.models.text import templates as templates_file
from nextchar.models.text import word_ngram as word_ngram_file
from nextchar.models.text.line_tokens import MAX_TEMPLATES, is_wildcard, structure_of_template
from nextchar.models.text.mask_program import MaskProgram
from nextchar.models.text.mask_values import FieldValues, MaskValues
from nextchar.models.text.masks import CUSTOM_PLACEHOLDER, NAMED
from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.templates import Templates
from nextchar.models.text.vocabulary import UNKNOWN_EXTRA_BITS

Array = NDArray[Any]

(
    PACK_MASKS, PACK_MASK_PROGRAM, PACK_MASK_SETS, PACK_MASK_STARTS, PACK_MASK_RULES, PACK_MASK_TEXTS,
    PACK_NGRAM_STARTS, PACK_NGRAM_IDS, PACK_NGRAM_COUNTS, PACK_WORD_TEXTS, PACK_WORD_ENDS, PACK_WORD_IDS,
    PACK_CLASSES, PACK_TEMPLATES, PACK_STRINGS, PACK_STRING_ENDS, PACK_TOKENS, PACK_TEMPLATE_SLOTS,
    PACK_VALUES, PACK_COMMON, PACK_TEMPLATE_BITS, PACK_SLOT_MISSING, PACK_VALUE_BITS,
    PACK_BUCKETS, PACK_RANK_VALUES, PACK_RANK_COUNTS,
) = range(34, 60)  # fmt: skip
"""Types of sections, after those of `nextchar.models.pack`."""

PACK_BYTES, PACK_SPLIT, PACK_MATCH = mask_program.BYTES, mask_program.SPLIT, mask_program.MATCH
PACK_BEGINNING, PACK_END, PACK_BOUNDARY = mask_program.BEGINNING, mask_program.END, mask_program.BOUNDARY
PACK_MAX_INSTRUCTIONS = mask_program.MAX_INSTRUCTIONS

PACK_PLACEHOLDER, PACK_MASK_GROUP, PACK_MASK_KIND, PACK_MASK_NUMBERS = range(4)
PACK_IS_TIME, PACK_IS_LOOSE, PACK_IS_ADDRESS, PACK_HAS_ANY_LENGTH, PACK_IS_CUSTOM, PACK_IS_SHORT = (
    1 << i for i in range(6)
)
"""Kinds of masks."""

(
    PACK_RULE_GROUP, PACK_NAME_AT, PACK_NAME_BYTES, PACK_RULE_FLAGS, PACK_SHORTEST, PACK_LONGEST,
    PACK_FORMATS_AT, PACK_FORMATS_BYTES, PACK_RULE_NUMBERS,
) = range(9)  # fmt: skip
(
    PACK_IS_KNOWN, PACK_CHECKS_EXISTENCE, PACK_HAS_FORMATS, PACK_HAS_LOWER, PACK_HAS_UPPER, PACK_IS_PADDED,
    PACK_HAS_SHORT, PACK_IS_PERCENT, PACK_IS_PORT,
) = (1 << i for i in range(9))  # fmt: skip
"""Flags of the values of a field."""

PACK_NGRAM_ORDER = ngram_file.ORDER
PACK_UNKNOWN_EXTRA_BITS = UNKNOWN_EXTRA_BITS
PACK_MAX_TEMPLATES = MAX_TEMPLATES
PACK_IS_ALPHANUMERIC, PACK_IS_DECIMAL, PACK_IS_SPACE = 1, 2, 4
"""Classes of characters."""

(
    PACK_STRUCTURE, PACK_FIRST_WORD, PACK_TOKENS_AT, PACK_TOKENS_COUNT, PACK_SLOTS_AT, PACK_TEMPLATE_NUMBERS,
) = range(6)  # fmt: skip
PACK_VALUES_AT, PACK_VALUES_COUNT, PACK_SHAPES_AT, PACK_SHAPES_COUNT, PACK_SLOT_NUMBERS = range(5)
PACK_FIRST_STRING = 2
"""A token is 0 for a wildcard, 1 for one after a space, or the number of a string, from this on."""

PACK_MAX_BUCKETS = 32
PACK_FIRST_OF_TEMPLATES = len(STATISTICS + NGRAM_STATISTICS)
PACK_MAX_STATISTICS = PACK_FIRST_OF_TEMPLATES + len(TEMPLATE_STATISTICS + WORD_STATISTICS)
(
    PACK_LONGEST_LINE, PACK_KEPT, PACK_STATISTICS, PACK_HAS_TAIL, PACK_START_OF_TAIL, PACK_SHARE_OF_TAIL,
    PACK_SHAPE_OF_TAIL, PACK_SCALE_OF_TAIL, PACK_SPREADS,
) = range(9)  # fmt: skip
"""Numbers of a bucket of the calibration; after these spreads, weights and tolerances of the statistics."""
PACK_WEIGHTS_OF_SCORE = PACK_SPREADS + PACK_MAX_STATISTICS
PACK_TOLERANCES_OF_SCORE = PACK_WEIGHTS_OF_SCORE + PACK_MAX_STATISTICS
PACK_BUCKET_NUMBERS = PACK_TOLERANCES_OF_SCORE + PACK_MAX_STATISTICS

_WORDS_INDEX = 8  # of the sections of n-grams of words, after those of characters
_NO_LIMIT = 1 << 30
_RANK_ERROR = 0.005


def mask_sections(saved: SavedModel) -> Iterator[tuple[int, Array]]:
    """Yield the type and the contents of each section of a model's masks.

    Raises:
        InvalidInput: an expression cannot be packed (code `mask_not_packed`).
        Unavailable: a file of the model is damaged.
    """
    masks = saved.card.masks
    if not masks:
        return
    values = None
    if mask_values.FILE in saved.card.files:
        values = MaskValues.load(saved.file(mask_values.FILE))
    groups = {name: i for i, name in enumerate(values.fields, 1)} if values else {}
    rows = [_mask_row(mask, groups) for mask in masks]
    long_numbers = "long_numbers"
    has_short = values is not None and values.has_short and long_numbers in masks
    if has_short:
        placeholder, group, kind = _mask_row(long_numbers, groups)
        rows.append((placeholder, group, kind | PACK_IS_SHORT))
    program = MaskProgram.of(masks, extra=r"\d+" if has_short else None)
    yield PACK_MASKS, np.array(rows, np.uint32)
    yield PACK_MASK_PROGRAM, program.instructions
    yield PACK_MASK_SETS, program.sets
    yield PACK_MASK_STARTS, program.starts
    texts = bytearray()
    if values:
        rules = [
            _rule_row(groups[group], name, one, texts)
            for group, of_mask in values.fields.items()
            for name, one in of_mask.items()
        ]
        yield PACK_MASK_RULES, np.array(rules, np.uint32)
    yield PACK_MASK_TEXTS, np.frombuffer(bytes(texts), np.uint8)


def _mask_row(mask: str, groups: dict[str, int]) -> tuple[int, int, int]:
    kind = (
        PACK_IS_TIME * (mask in mask_values.TIMES)
        | PACK_IS_LOOSE * (mask == "loose_time")
        | PACK_IS_ADDRESS * (mask == "ip")
        | PACK_HAS_ANY_LENGTH * (mask in mask_values.ANY_LENGTH)
        | PACK_IS_CUSTOM * (mask not in NAMED)
    )
    placeholder = NAMED[mask][0] if mask in NAMED else CUSTOM_PLACEHOLDER
    return ord(placeholder), groups.get(mask_values.group_of(mask), 0), kind


def _rule_row(group: int, name: str, one: FieldValues, texts: bytearray) -> tuple[int, ...]:
    """Return the rules of the values of a field, and add its name and the formats to the texts."""
    formats = b"".join(text.encode() + b"\0" for text in one.formats or ())
    field, at = name.encode("utf-8", "replace"), len(texts)
    texts += field + formats
    flags = (
        PACK_IS_KNOWN * (one.count >= mask_values.MIN_VALUES)
        | PACK_CHECKS_EXISTENCE * one.checks_existence
        | PACK_HAS_FORMATS * (one.formats is not None)
        | PACK_HAS_LOWER * ("a" in one.letters)
        | PACK_HAS_UPPER * ("A" in one.letters)
        | PACK_IS_PADDED * one.is_padded
        | PACK_HAS_SHORT * one.masks_short
        | PACK_IS_PERCENT * (one.highest <= mask_values.MAX_PERCENT)
        | PACK_IS_PORT * (one.highest <= mask_values.MAX_PORT)
    )
    shortest, longest = min(one.shortest, 1 << 30), min(one.longest, 1 << 30)
    return group, at, len(field), flags, shortest, longest, at + len(field), len(formats)


def score_sections(saved: SavedModel, calibration: Calibration) -> Iterator[tuple[int, int, Array]]:
    """Yield the type, the index and the contents of each section that scores lines by a calibration.

    Raises Unavailable: a file of the model is damaged.
    """
    files = saved.card.files
    if ngram_file.FILE in files:
        yield from _ngram_sections(ngram_file.load(saved.file(ngram_file.FILE), saved.vocabulary), first=0)
    if templates_file.FILE in files:
        yield from _template_sections(templates_file.load(saved.file(templates_file.FILE)))
    if word_ngram_file.FILE in files:
        words = word_ngram_file.load(saved.file(word_ngram_file.FILE))
        yield from _ngram_sections(words.counts, first=_WORDS_INDEX)
        encoded = sorted((word.encode("utf-8", "surrogatepass"), i) for i, word in enumerate(words.words, 2))
        yield PACK_WORD_TEXTS, 0, np.frombuffer(b"".join(word for word, _ in encoded), np.uint8)
        yield PACK_WORD_ENDS, 0, np.cumsum([len(word) for word, _ in encoded]).astype(np.uint32)
        yield PACK_WORD_IDS, 0, np.array([i for _, i in encoded], np.uint32)
    yield PACK_CLASSES, 0, _character_classes()
    buckets = np.zeros((len(calibration.buckets), PACK_BUCKET_NUMBERS))
    for b, (row, bucket) in enumerate(zip(buckets, calibration.buckets, strict=True)):
        count = len(bucket.weights)
        row[[PACK_LONGEST_LINE, PACK_KEPT]] = bucket.longest or _NO_LIMIT, bucket.kept
        row[[PACK_STATISTICS, PACK_SCALE_OF_TAIL]] = count, 1
        if bucket.tail:
            row[PACK_HAS_TAIL], row[PACK_START_OF_TAIL] = 1, bucket.tail.start
            row[PACK_SHARE_OF_TAIL], row[PACK_SHAPE_OF_TAIL] = bucket.tail.share, bucket.tail.shape
            row[PACK_SCALE_OF_TAIL] = bucket.tail.scale
        row[PACK_SPREADS : PACK_SPREADS + count] = bucket.spread
        row[PACK_WEIGHTS_OF_SCORE : PACK_WEIGHTS_OF_SCORE + count] = bucket.weights
        row[PACK_TOLERANCES_OF_SCORE : PACK_TOLERANCES_OF_SCORE + count] = BITS_TOLERANCE[:count]
        first = b * (PACK_MAX_STATISTICS + 1)
        for index, values in [
            *enumerate(bucket.statistics, first),
            (first + PACK_MAX_STATISTICS, bucket.scores),
        ]:
            kept, counts = ranks(values)
            yield PACK_RANK_VALUES, index, kept
            yield PACK_RANK_COUNTS, index, counts
    yield PACK_BUCKETS, 0, buckets


def _ngram_sections(model: NgramModel, *, first: int) -> Iterator[tuple[int, int, Array]]:
    """Yield the n-grams of each length: where those with the same ids before begin, last ids, and counts."""
    contexts = 1
    for n, (grams, counts) in enumerate(model.counted(), first):
        bounds = np.searchsorted(grams, np.arange(contexts + 1, dtype=np.int64) * model.V)
        yield PACK_NGRAM_STARTS, n, bounds.astype(np.uint32)
        yield PACK_NGRAM_IDS, n, (grams % model.V).astype(np.uint16)
        yield PACK_NGRAM_COUNTS, n, np.minimum(counts, 0xFFFFFFFF).astype(np.uint32)
        contexts = len(grams)


def _template_sections(templates: Templates) -> Iterator[tuple[int, int, Array]]:
    strings: dict[str, int] = {}

    def number(text: str) -> int:
        return strings.setdefault(text, len(strings))

    rows, tokens, slots, values = list[Sequence[int]](), list[int](), list[Sequence[int]](), list[int]()
    value_bits, missing = list[float](), []
    for known in templates.known:
        structure = number(structure_of_template(known.tokens))
        word = number(templates.word_of(len(rows)))
        rows.append((structure, word, len(tokens), len(known.tokens), len(slots)))
        for own in known.tokens:
            tokens.append(int(own is not None) if is_wildcard(own) else PACK_FIRST_STRING + number(str(own)))
        for slot in known.slots:
            places = []
            for frequencies in (slot.values, slot.shapes):
                places += [len(values), len(frequencies.kept)]
                values += map(number, frequencies.kept)
                value_bits += map(frequencies.rarity, frequencies.kept)
            slots.append(places)
            missing.append([one.rarity_of_count(0) for one in (slot.values, slot.shapes)])
    new = templates.rarity_of_count(0) + NEW_TEMPLATE_BITS
    bits = [templates.rarity_of_count(known.count) for known in templates.known]
    common = [number(word) for word in sorted(templates.common)]
    encoded = [text.encode("utf-8", "surrogatepass") for text in strings]
    numbers = {
        PACK_TEMPLATES: rows, PACK_TOKENS: tokens, PACK_TEMPLATE_SLOTS: slots, PACK_VALUES: values,
        PACK_COMMON: common,
        PACK_STRING_ENDS: np.cumsum([len(text) for text in encoded]),
    }  # fmt: skip
    for kind, array in numbers.items():
        yield kind, 0, np.array(array, np.uint32)
    floats = {
        PACK_TEMPLATE_BITS: [*bits, new], PACK_SLOT_MISSING: missing,  PACK_VALUE_BITS: value_bits,
    }  # fmt: skip
    for kind, array in floats.items():
        yield kind, 0, np.array(array, np.float64)
    yield PACK_STRINGS, 0, np.frombuffer(b"".join(encoded), np.uint8)


@cache
def _character_classes() -> Array:
    """Return the first code point of each run of one class, and the class above 24 bits."""
    runs, last = [], -1
    for point in range(0x110000):
        character = chr(point)
        own = (
            PACK_IS_ALPHANUMERIC * character.isalnum()
            | PACK_IS_DECIMAL * character.isdecimal()
            | PACK_IS_SPACE * character.isspace()
        )
        if own != last:
            runs.append(point | own << 24)
            last = own
    return np.array(runs, np.uint32)


def ranks(ascending: Array) -> tuple[Array, Array]:
    """Return values (K,) float32 and how many of all are at least each; of many, those that tell ranks apart.

    A rank may be wrong by _RANK_ERROR of itself.
    """
    values, firsts = np.unique(ascending.astype(np.float32), return_index=True)
    counts = len(ascending) - firsts
    places = (np.log(counts) / math.log1p(_RANK_ERROR)).astype(np.int64)
    # Of equal places the largest value, which has the smallest count, but each of the smallest counts.
    is_kept = np.append(np.diff(places) != 0, True) | (counts < 1 / _RANK_ERROR)
    return values[is_kept], counts[is_kept].astype(np.uint32)
