"""What the values that a model masks look like, so that malformed ones are not masked.

A mask hides a value, so a model cannot find `2026-13-45` or `999.1.2.3` anomalous. Therefore a line to be
scored is masked only where its values look like those of the corpus. A malformed value stays as it is: its
characters, in a place where the network, the n-grams and the templates expect a placeholder, are surprising.

A value is malformed if it breaks a rule that the corpus's values keep:

- a time exists in the calendar, and the parts of an IPv4 address are at most 255;
- a port is at most 65535, a percentage at most 100;
- a time has a format that occurs, and a hexadecimal number letters, a prefix and a length that occur;
- a decimal number has at most one digit more than the longest, since counters grow; as many digits as all
  others if these are padded with zeros, and at least as many if these have the same number, nine or more.

Values are compared with those of their field, which is the mask, the characters before the value, and `%` if
it follows; the masks of numbers are one. If the corpus has few values of a field, they are compared with all
of the mask, and may have a format of their own. Rules are derived only from MIN_VALUES or more values.

>>> masks = Masks(["ip"])
>>> known = MaskValues.fit(masks, (f"from 10.0.0.{i % 250}" for i in range(500)))
>>> [masks.apply(line, is_masked=known.is_well_formed).text for line in ("from 10.0.0.9", "from 999.1.2.3")]
['from ⓘ', 'from 999.1.2.3']
"""

import json
import re
from calendar import monthrange
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from nextchar.models.text.json_file import json_record
from nextchar.models.text.masks import NAMED, Masks, Value

FILE = "mask_values.json"
"""The name of the file in a saved model. Older models have none, and mask all values."""

FORMAT_VERSION = 2
"""Version 1 does not count short numbers, and has other formats of times, which are not compared."""

MAX_CHARACTERS = 5_000_000
"""Maximum number of characters, at the end of the corpus, from which values are learned."""

MIN_VALUES = 100
"""Minimum number of values of a field, or of a mask, to learn rules from."""

MAX_FIELDS = 1_000
"""Maximum number of fields, those with the most values. Values of others are compared with those of their
mask."""

MAX_FORMATS = 32
"""Maximum formats per field; with more, formats are not checked."""

_MAX_INVALID = 0.001  # fraction of the corpus's values that may break a rule
_MIN_FIXED_DIGITS = 9  # of numbers that have equally many digits because of what they are
_MAX_DIGITS = 18  # of numbers that are compared by size
MAX_PERCENT, MAX_PORT = 100, 65535
_MAX_SHORT = 0.05  # short numbers per long one in a field whose short numbers are masked, too
TIMES = ("timestamp", "date", "loose_time", "calendar_date")
"""Masks of times."""

ANY_LENGTH = ("ip", "hostname", "local_date", "compact_time", "uptime")
"""Masks whose values may have any length and format."""

_NUMBER = "number"
_GROUPS = dict.fromkeys(("hex", "numbers", "long_numbers", "digits"), _NUMBER)  # one field may match any
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMED_DATE = re.compile(
    rf"(?P<day>\d{{1,2}})[-/ ](?P<month>{'|'.join(_MONTHS)})[-/ ](?P<year>\d{{4}})"
    rf"|(?P<month_first>{'|'.join(_MONTHS)}) +(?P<day_second>\d{{1,2}})",
    re.IGNORECASE,
)
_YEAR_FIRST = re.compile(r"^(\d{4})[-./]?(\d\d)[-./]?(\d\d)(?!\d)")
_YEAR_LAST = re.compile(r"^(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?!\d)")
_CLOCK = re.compile(r"(?<!\d)(\d{1,2})[:.](\d{1,2})[:.](\d{1,2})(?!\d)")
_FRACTION = re.compile(r"(?<=\d[:.]\d\d[:.]\d\d)[.,:]\d+")
_ZONE = re.compile(r"(?:Z| ?[+-]\d\d:?\d\d)$")
_DIGITS = re.compile(r"\d+")
_LETTERS = re.compile(r"[^\W\d_]+")
_IPV4 = re.compile(r"\d+(?:\.\d+){3}")
_PORT = re.compile(r"port[ =:]$", re.IGNORECASE)


@dataclass
class FieldValues:
    """What the values of one field of a corpus look like.

    Attributes:
        count: how many there were.
        invalid: those that do not exist: times that no calendar has, addresses with a part above 255.
        formats: prefixes of numbers, formats of times; None if there are more than MAX_FORMATS.
        letters: of hexadecimal numbers, `a` if they have lowercase letters, `A` if uppercase.
        shortest, longest: their lengths. highest: the largest decimal number of at most _MAX_DIGITS digits.
        is_padded: whether a number begins with a zero.
        short: how many numbers have too few digits for the mask `long_numbers`. They do not count above.
    """

    count: int = 0
    invalid: int = 0
    formats: list[str] | None = field(default_factory=list)
    letters: str = ""
    shortest: int = 1 << 30
    longest: int = 0
    highest: int = 0
    is_padded: bool = False
    short: int = 0

    def add(self, value: Value) -> None:
        """Add a value of the corpus."""
        if value.is_short:
            self.short += 1
            return
        text = value.text
        self.count += 1
        self.invalid += not _exists(value)
        own = _format(value)
        if self.formats is not None and own not in self.formats:
            self.formats = [*self.formats, own] if len(self.formats) < MAX_FORMATS else None
        self.letters += "".join(case for case in _cases(text) if case not in self.letters)
        self.shortest, self.longest = min(self.shortest, len(text)), max(self.longest, len(text))
        if _is_number(text):
            self.is_padded = self.is_padded or (len(text) > 1 and text[0] == "0")
            if len(text) <= _MAX_DIGITS:
                self.highest = max(self.highest, int(text))

    @property
    def checks_existence(self) -> bool:
        """Whether values must exist: times in the calendar, parts of addresses up to 255."""
        return self.invalid <= _MAX_INVALID * self.count

    @property
    def masks_short(self) -> bool:
        """Whether short numbers are masked, too, since the field has long ones."""
        return self.short <= _MAX_SHORT * self.count

    def has_like(self, value: Value, *, is_field: bool = True) -> bool:
        """Return whether a value keeps the rules that these values keep, those of its field or its mask."""
        if self.checks_existence and not _exists(value):
            return False
        if value.mask in ANY_LENGTH:
            return True
        if is_field and self.formats is not None and _format(value) not in self.formats:
            return False
        if value.mask in TIMES:
            return True
        if not set(_cases(value.text)) <= set(self.letters):
            return False
        return self._has_length(len(value.text)) and self._is_in_range(value)

    def _has_length(self, length: int) -> bool:
        is_fixed = self.shortest == self.longest
        if self.letters:
            spare = 0 if is_fixed else 1
            return self.shortest - spare <= length <= self.longest + spare
        if is_fixed and self.is_padded:
            return length == self.longest
        is_too_short = is_fixed and self.longest >= _MIN_FIXED_DIGITS and length < self.longest
        return length <= self.longest + 1 and not is_too_short

    def _is_in_range(self, value: Value) -> bool:
        if not _is_number(value.text):
            return True
        limits = [(value.after == "%", MAX_PERCENT), (_PORT.search(value.before) is not None, MAX_PORT)]
        return all(
            len(value.text) <= _MAX_DIGITS and int(value.text) <= limit
            for is_limited, limit in limits
            if is_limited and self.highest <= limit
        )


class MaskValues:
    """What the values of the masks of a model look like. Immutable once made, and thread-safe.

    Args:
        fields: by mask, by field, where "" has all values of the mask. The masks of numbers are one.
        has_short: whether short numbers were counted; then `is_masked` expects them, too.
    """

    def __init__(self, fields: dict[str, dict[str, FieldValues]], *, has_short: bool = True) -> None:
        self.fields, self.has_short = fields, has_short

    @classmethod
    def fit(cls, masks: Masks, lines: Iterable[str]) -> Self:
        """Return the rules of the values in the lines of a corpus. Values of custom masks have no rules."""
        fields: dict[str, dict[str, FieldValues]] = {}
        for line in lines:
            for _, value in masks.values(line, short_numbers=True):
                if value.mask in NAMED:
                    of_mask = fields.setdefault(group_of(value.mask), {"": FieldValues()})
                    for name in ("", _field(value)):
                        of_mask.setdefault(name, FieldValues()).add(value)
        known = Counter(
            {
                (mask, name): one.count
                for mask, of_mask in fields.items()
                for name, one in of_mask.items()
                if name and one.count >= MIN_VALUES
            }
        )
        kept = dict(known.most_common(MAX_FIELDS))
        return cls(
            {
                mask: {name: one for name, one in of_mask.items() if not name or (mask, name) in kept}
                for mask, of_mask in fields.items()
            }
        )

    def is_well_formed(self, value: Value) -> bool:
        """Return whether a value looks like those of the corpus: a short one, if its field has long ones."""
        of_mask = self.fields.get(group_of(value.mask))
        if not of_mask:
            return not value.is_short
        field_values = of_mask.get(_field(value))
        if value.is_short:
            return field_values is not None and field_values.masks_short
        known = field_values or of_mask[""]
        return known.count < MIN_VALUES or known.has_like(value, is_field=field_values is not None)

    def dump(self) -> bytes:
        """Return the contents of FILE."""
        masks = {
            mask: {name: asdict(one) for name, one in of_mask.items()}
            for mask, of_mask in self.fields.items()
        }
        return json.dumps({"format_version": FORMAT_VERSION, "masks": masks}).encode()

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Return the values in the contents of FILE.

        Raises:
            Unavailable: it is damaged (code `model_damaged`), or of a format that this program does not know
                (`model_format_unknown`).
        """
        with json_record(data, FILE, FORMAT_VERSION, older=(1,)) as record:
            fields = {mask: _loaded(of_mask) for mask, of_mask in record["masks"].items()}
            if record["format_version"] == 1:
                for values in (one for mask in TIMES for one in fields.get(mask, {}).values()):
                    values.formats = None
            return cls(fields, has_short=record["format_version"] > 1)


def group_of(mask: str) -> str:
    """Return the name under which the fields of a mask are: those of numbers have one."""
    return _GROUPS.get(mask, mask)


def _field(value: Value) -> str:
    return f" {value.before}{'%' * (value.after == '%')}"


def _format(value: Value) -> str:
    """Return what all values of a field have in common: of a time its format, of a number its prefix."""
    if value.mask == "loose_time":
        return ""  # a part has one digit or two
    if value.mask in TIMES:
        text = _ZONE.sub("", _FRACTION.sub("", value.text))
        text = _DIGITS.sub(lambda run: "0" if len(run[0]) < 3 else "0" * len(run[0]), text)
        return " ".join(_LETTERS.sub("a", text).split())
    return value.text[:2].lower() if value.text[:2] in ("0x", "0X") else ""


def _cases(text: str) -> str:
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    return "a" * (digits != digits.upper()) + "A" * (digits != digits.lower())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _exists(value: Value) -> bool:
    """Return whether there is such a time, or such an IPv4 address."""
    if value.mask in TIMES:
        return _is_time(value.text)
    if value.mask == "ip" and _IPV4.fullmatch(value.text):
        return all(int(part) <= 255 for part in value.text.split("."))
    return True


def _is_time(text: str) -> bool:
    if (named := _NAMED_DATE.search(text)) and not _is_day(
        int(named["year"] or 2000),  # a leap year
        1 + _MONTHS.index((named["month"] or named["month_first"]).lower()),
        int(named["day"] or named["day_second"]),
    ):
        return False
    rest = text
    if found := _YEAR_FIRST.match(text):
        year, month, day = map(int, found.groups())
        if not _is_day(year, month, day):
            return False
        rest = text[found.end() :]
    elif found := _YEAR_LAST.match(text):
        first, second, year = map(int, found.groups())
        orders = [(second, first), (first, second)] + [(second, year)] * (len(found[3]) == 2)
        if not any(_is_day(2000, month, day) for month, day in orders):
            return False
        rest = text[found.end() :]
    clock = _CLOCK.search(rest)
    return not clock or (int(clock[1]) <= 24 and int(clock[2]) <= 59 and int(clock[3]) <= 60)


def _is_day(year: int, month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= monthrange(max(1, year), month)[1]


def _loaded(of_mask: dict[str, Any]) -> dict[str, FieldValues]:
    if "" not in of_mask:
        raise ValueError("a mask has no values")
    return {name: _field_values(one) for name, one in of_mask.items()}


def _field_values(record: dict[str, Any]) -> FieldValues:
    one = FieldValues(**record)
    numbers = (one.count, one.invalid, one.shortest, one.longest, one.highest, one.short)
    formats = one.formats or []
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError("a figure is not a number")
    if not all(isinstance(text, str) for text in [one.letters, *formats]):
        raise TypeError("a format is not a text")
    return one
