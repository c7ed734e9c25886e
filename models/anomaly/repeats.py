"""Repeats of flagged lines: in a flood of them each kind is flagged once.

A log that changed, such as that of a new version of a program, has lines whose template no training line has,
and often hundreds of each. All are anomalous, but only the first of a kind has new information, and another
kind is hard to find among hundreds of flagged lines. So from MIN_FLAGGED flagged lines on, and while more are
flagged than the false-alarm rate explains, a line like one that was flagged before is a *repeat*: it is
counted, not flagged. Lines are alike if, once masked, only numbers differ. Those with a new template are also
alike if they have a template in common, which is found among them as in training
(`nextchar.models.text.templates`), and has enough fixed words: requests of an attack, which have little in
common, are all flagged.
"""

import math
import re
from hashlib import blake2b

from nextchar.models.text.line_tokens import Tokens, is_wildcard, tokenize
from nextchar.models.text.template_tree import TemplateBuilder
from nextchar.models.text.templates import ParsedLine

MIN_FLAGGED = 20
"""Of the lines of one request, so many are flagged before any is a repeat."""

_EXCESS = 3.0  # times the expected false alarms
_NOISE = 3.0  # standard deviations above that
_MIN_FIXED = 0.6  # of the tokens of a template by which lines are alike
_MIN_WORDS = 4  # of at least two letters in it
_WORD = re.compile(r"[^\W\d_]{2}")
_NUMBER = re.compile(r"\d+")
_MAX_KINDS = 10_000  # that are remembered; further ones are flagged each time


class RepeatFilter:
    """Finds the repeats among lines that are scored one after the other.

    Args:
        rate: the false-alarm rate.
        common: words in most training lines (`Templates.common`).
    """

    def __init__(self, rate: float, common: frozenset[str]) -> None:
        self._rate = rate
        self._new = TemplateBuilder(common)
        self._flagged_kinds: set[int | bytes] = set()
        self._lines = self._flagged = 0

    def count(self) -> None:
        """Count a line that is not flagged."""
        self._lines += 1

    def is_repeat(self, text: str, parsed: ParsedLine) -> bool:
        """Count a line that would be flagged, masked, and return whether it is a repeat."""
        self._lines += 1
        kind = self._kind(text, parsed)
        if kind in self._flagged_kinds and self._flagged >= self._allowed():
            return True
        if len(self._flagged_kinds) < _MAX_KINDS:
            self._flagged_kinds.add(kind)
        self._flagged += 1
        return False

    def _kind(self, text: str, parsed: ParsedLine) -> int | bytes:
        index = self._new.add(tokenize(text)) if parsed.template.is_new else None
        if index is not None and _is_specific(self._new.tokens(index)):
            return index
        # A digest, because texts have up to 50,000 characters; they may have unpaired surrogates.
        masked = _NUMBER.sub("0", text).encode("utf-8", "surrogatepass")
        return blake2b(masked, digest_size=16).digest()

    def _allowed(self) -> float:
        """Return how many of the lines so far may be flagged before repeats are not."""
        expected = self._rate * self._lines
        return max(MIN_FLAGGED, _EXCESS * expected + _NOISE * math.sqrt(expected))


def _is_specific(template: Tokens) -> bool:
    fixed = [token for token in template if not is_wildcard(token)]
    words = sum(_WORD.search(token) is not None for token in fixed if token)
    return words >= _MIN_WORDS and len(fixed) >= _MIN_FIXED * len(template)
