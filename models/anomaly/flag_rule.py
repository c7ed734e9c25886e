"""Which lines are flagged: one rule, for every way of scoring them.

A line is *rare* if its p-value is at most the false-alarm rate. Of lines like the calibration's the rate says
how many are rare. A log that changed has more: a new version of a program brings new kinds of events, a new
week other values, and another log fits nowhere. Most of these lines are like one before, and hide what is
unlike. So a rare line is *flagged*, or it is a *repeat*, which is counted in an alert.

- Lines are of one **kind** if only numbers differ, or if they have a template in common that no training line
  has, with enough fixed words, some of them different from those of every known template.
- The first line of a new template is flagged; those that follow are repeats. Of other kinds lines are flagged
  while the rate explains them.
- Once more lines are flagged than the rate explains, a line of a kind that was not seen is flagged if it is
  rarer than what the log has become: if its score is among the highest, half as many as the rate explains. It
  is a repeat otherwise, and of no alert but that of the change (CHANGED_KEY).

`FlagRule` is what the rule has to know of earlier lines. It depends on these and their order alone, and not
on how they were divided into requests, if it is handed on from one request to the next (`dump` and
`FlagRule.load`). It forgets: after WINDOW_LINES lines all counts are halved, and kinds that were seen once
are dropped.

**Changes.** By the same counts `FlagRule.change` says in one sentence why more is rare than explained.
"""

import json
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple, Self

from nextchar.models.anomaly.alerts import CRITICAL_P, AlertKey
from nextchar.models.text.array_file import inflate
from nextchar.models.text.line_tokens import (
    TemplateBuilder,
    Token,
    Tokens,
    is_wildcard,
    structure_of_line,
    tokenize,
)
from nextchar.models.text.templates import Templates

WINDOW_LINES = 20_000
"""Lines after which what is known of earlier ones counts half."""

MIN_CHANGE_LINES = 100
"""Fewer lines are not judged as a whole."""

CHANGED_KEY = AlertKey("more lines than the false-alarm rate explains", "")
"""That of the alert of lines that are repeats of no kind."""

ChangeKind = Literal["new_kinds", "values", "log"]

_MIN_ALLOWED = 5.0  # flagged lines that are explained whatever the rate is
_NOISE = 2.0  # standard deviations
_CRITICAL = 1.5  # times as many lines that are critical are explained
_MAX_UNUSUAL_FRACTION = 0.3  # of lines with a p-value of at most UNUSUAL
_MAX_KNOWN_FRACTION = 0.5  # of lines that are rare, above which nothing fits
_MIN_FIXED = 0.6  # of the tokens of a template by which lines are alike
_MIN_WORDS = 4  # of at least two letters in it
_WORD = re.compile(r"[^\W\d_]{2}")
_NUMBER = re.compile(r"\d+")
_BINS_PER_BIT = 4  # of the histogram of scores
_MAX_KINDS = 1_000
_MAX_STATE_BYTES = 8 << 20


class Verdict(NamedTuple):
    """What becomes of a rare line: whether it is flagged, else it is a repeat; and the key of its alert."""

    is_flagged: bool
    key: AlertKey


@dataclass(frozen=True)
class Change:
    """Why more lines are rare than the false-alarm rate explains.

    Attributes:
        kind: `new_kinds`: few templates that no training line has, of many lines. `values`: known templates
        with other values. `log`: hardly anything fits. kinds: how many new kinds. lines: of the change.
        of_lines: among so many. alert_ids: of the new kinds, those with most lines first. since: when the
        first line of a new kind was scored, in Unix seconds, if known.
    """

    kind: ChangeKind
    kinds: int
    lines: int
    of_lines: int
    alert_ids: tuple[str, ...] = ()
    since: float | None = None

    @property
    def action(self) -> Literal["examples", "train"]:
        """What to do about it: look at one line of each new kind, or train again with these lines."""
        return "examples" if self.kind == "new_kinds" else "train"

    @property
    def sentence(self) -> str:
        """The change and what to do, in one sentence."""
        share = f"{self.lines:,} of {self.of_lines:,} lines"
        if self.kind == "new_kinds":
            kinds = f"{self.kinds:,} new kind{'s' if self.kinds > 1 else ''} of events"
            return f"{kinds}, {share}: look at one of each; if they are normal, train again with them."
        if self.kind == "values":
            return f"The same events with other values, {share}: if they are normal, train again with them."
        return f"Another log: {share} are like nothing that the model knows; train a model with them."


@dataclass
class _NewKind:
    """Lines of one new template: their number, the key of their alert, and when the first one was scored."""

    key: AlertKey
    count: int = 0
    since: float | None = None


@dataclass
class FlagRule:
    """Judges lines that are scored one after the other; in one thread at a time.

    Args:
        rate: the false-alarm rate. templates: those of the model; without them lines are only counted.
    """

    rate: float
    templates: Templates | None
    lines: int = 0
    rare: int = 0
    unusual: int = 0
    flagged: int = 0
    _scores: dict[int, int] = field(default_factory=dict)  # of the first lines of kinds, by bin
    _seen: dict[str, bool] = field(default_factory=dict)  # by digest of the text, whether it has an alert
    _new: dict[int, _NewKind] = field(default_factory=dict)  # by index in `_builder`
    _builder: TemplateBuilder = field(init=False)

    def __post_init__(self) -> None:
        self._builder = self._new_builder()

    def count(self, *, is_unusual: bool, is_flagged: bool = False) -> None:
        """Count a line that is judged by itself; `is_unusual` if it is among the most unusual tenth."""
        if self.lines >= WINDOW_LINES:
            self._forget()
        self.lines += 1
        self.unusual += is_unusual
        self.rare += is_flagged
        self.flagged += is_flagged

    def judge(
        self,
        text: str,
        key: AlertKey,
        *,
        is_new: bool,
        score: float,
        estimated_p: float,
        now: float | None = None,
    ) -> Verdict:
        """Count a rare line, masked, and return what becomes of it.

        `key` is that of its alert by itself, `is_new` whether its template is new, `now` the time in Unix
        seconds if that is to be known of a change.
        """
        self.count(is_unusual=True)
        self.rare += 1
        kind = self._kind_of(text, key, is_new=is_new, now=now)
        if kind:
            kind.count += 1
            if kind.count > 1:
                return Verdict(is_flagged=False, key=kind.key)
        digest = _digest(text)
        if not kind and digest in self._seen:
            is_flagged = self.flagged < self._allowed()
            has_alert = is_flagged or self._seen[digest]
        else:
            is_critical = estimated_p <= CRITICAL_P
            is_flagged = has_alert = self._stands_out(
                score, self._allowed() * (_CRITICAL if is_critical else 1.0)
            )
        self.flagged += is_flagged
        key = key if has_alert else CHANGED_KEY
        if kind:
            kind.key = key
        elif digest in self._seen or len(self._seen) < _MAX_KINDS:
            self._seen[digest] = has_alert
        return Verdict(is_flagged, key)

    def change(self, alert_id: Callable[[AlertKey], str]) -> Change | None:
        """Return why more lines are rare or unusual than the rate explains; None if they are not.

        `alert_id` returns the id of an alert.
        """
        if self.lines < MIN_CHANGE_LINES:
            return None
        kinds = sorted((kind for kind in self._new.values() if kind.count > 1), key=lambda kind: -kind.count)
        in_kinds = sum(kind.count for kind in kinds)
        is_rare = self.rare > self._allowed()
        if is_rare and 2 * in_kinds >= self.rare:
            ids = tuple(alert_id(kind.key) for kind in kinds)
            since = min((kind.since for kind in kinds if kind.since), default=None)
            return Change("new_kinds", len(kinds), in_kinds, self.lines, ids, since)
        if is_rare and self.rare > _MAX_KNOWN_FRACTION * self.lines:
            return Change("log", len(kinds), self.rare, self.lines)
        if self.unusual > _MAX_UNUSUAL_FRACTION * self.lines:
            return Change("values", len(kinds), self.unusual, self.lines)
        return Change("values", len(kinds), self.rare, self.lines) if is_rare else None

    def dump(self) -> bytes:
        """Return what `load` takes."""
        templates = self._builder.templates_in_order()
        record = {
            "counts": [self.lines, self.rare, self.unusual, self.flagged],
            "scores": sorted(self._scores.items()),
            "seen": self._seen,
            "templates": templates,
            "new": [
                [i, one.key.template, one.key.span, one.count, one.since] for i, one in self._new.items()
            ],
        }
        return zlib.compress(json.dumps(record).encode())

    @classmethod
    def load(cls, data: bytes | None, rate: float, templates: Templates | None) -> Self:
        """Return the rule after earlier lines; one that knows of none if there is no or damaged data."""
        rule = cls(rate, templates)
        try:
            record = json.loads(inflate(data, max_bytes=_MAX_STATE_BYTES)) if data else None
            if record:
                rule.lines, rule.rare, rule.unusual, rule.flagged = map(int, record["counts"])
                rule._scores = {int(bin_): int(count) for bin_, count in record["scores"]}
                rule._seen = {str(digest): bool(has_alert) for digest, has_alert in record["seen"].items()}
                rule._builder.restore([(tuple(tokens), word) for tokens, word in record["templates"]])
                rule._new = {
                    int(i): _NewKind(AlertKey(template, span), int(count), since)
                    for i, template, span, count, since in record["new"]
                }
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(rate, templates)
        return rule

    def _kind_of(self, text: str, key: AlertKey, *, is_new: bool, now: float | None) -> "_NewKind | None":
        """Return the kind of a line with a new template; None if it has none."""
        if not is_new or len(self._new) >= _MAX_KINDS:
            return None
        tokens = tokenize(text)
        index = self._builder.add(tokens)
        if index is None or not self._is_kind(self._builder.tokens(index), tokens):
            return None
        return self._new.setdefault(index, _NewKind(key, since=now))

    def _new_builder(self) -> TemplateBuilder:
        return TemplateBuilder(self.templates.common if self.templates else frozenset())

    def _allowed(self) -> float:
        """Return how many flagged lines the rate explains."""
        expected = self.rate * self.lines
        return _MIN_ALLOWED + expected + _NOISE * math.sqrt(expected)

    def _stands_out(self, score: float, allowed: float) -> bool:
        """Note the score of a line of a kind that was not seen, and return whether it is flagged."""
        bin_ = math.floor(score * _BINS_PER_BIT)
        self._scores[bin_] = self._scores.get(bin_, 0) + 1
        higher = sum(count for other, count in self._scores.items() if other >= bin_)
        return self.flagged < allowed or higher <= allowed / 2

    def _is_kind(self, template: Tokens, line: list[Token]) -> bool:
        fixed = [token for token in template if not is_wildcard(token)]
        words = sum(_WORD.search(token) is not None for token in fixed if token)
        has_enough = words >= _MIN_WORDS and len(fixed) >= _MIN_FIXED * len(template)
        assert self.templates is not None, "lines without templates are not judged"
        return has_enough and not self.templates.is_variant(template, structure_of_line(line))

    def _forget(self) -> None:
        counts = (self.lines, self.rare, self.unusual, self.flagged)
        self.lines, self.rare, self.unusual, self.flagged = (count // 2 for count in counts)
        self._scores = {bin_: half for bin_, count in self._scores.items() if (half := count // 2)}
        self._seen = {}
        kept = [(i, one) for i, one in self._new.items() if one.count > 1]
        templates = self._builder.templates_in_order()
        self._builder = self._new_builder()
        self._builder.restore([templates[i] for i, _ in kept])
        self._new = {at: _NewKind(one.key, one.count // 2, one.since) for at, (_, one) in enumerate(kept)}


def _digest(text: str) -> str:
    """Return a hash of a text without its numbers; texts have up to 50,000 characters."""
    return blake2b(_NUMBER.sub("0", text).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
