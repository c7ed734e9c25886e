"""What a packed model (`nextchar.models.pack`) has to read lines: masks.

The constants in capitals are also the C header's.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.saved_model import SavedModel
from nextchar.models.text import mask_program, mask_values
from nextchar.models.text.mask_program import MaskProgram
from nextchar.models.text.mask_values import FieldValues, MaskValues
from nextchar.models.text.masks import CUSTOM_PLACEHOLDER, NAMED

Array = NDArray[Any]

(
    PACK_MASKS, PACK_MASK_PROGRAM, PACK_MASK_SETS, PACK_MASK_STARTS, PACK_MASK_RULES, PACK_MASK_TEXTS,
) = range(34, 40)  # fmt: skip
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
