"""Which lines are flagged: one rule, for every way of scoring them.

A line is *rare* if its p-value is at most the false-alarm rate. Of lines like the calibration's the rate says
how many are rare. A log that changed has more: a new version of a program brings new kinds of events, a new
week other values, and another log fits nowhere. Most of these lines are like one before, and hide what is
unlike. So a rare line is *flagged*, or it is a *repeat*, which is counted in an alert.

- Rare lines are of one **kind** if they break one context in one way (`successors.Break`) and are not rare
  otherwise; if they have a new template in common; or if they have a known template and the same anomalous
  word. A line of a kind of which enough are flagged is of those of its breaks that no line had before.
- Of a new template the first line is flagged and of other kinds the first two; of each kind a tenth of the
  lines that the rate explains, if that is more. Further ones are repeats.
- **Once more lines are flagged than the rate explains**, a line is flagged if it is rarer than what the log
  has become: if it is among the rarest, a quarter of what the rate explains. It is a repeat otherwise, and
  of no alert but that of the change (CHANGED_KEY) if no line of its kind was flagged. New templates, known
  ones and each of the five kinds of break are counted apart: a flood of one hides nothing of the others.
- **Severity.** Once more lines are rare than the rate explains, how rare a flagged line is depends on those
  before, too: if m of n lines, unlike others, had scores as high, its p-value is at least
  (m - 1.25 sqrt(m)) / n.

`FlagRule` is what the rule has to know of earlier lines. It depends on these and their order alone, and not
on how they were divided into requests, if it is handed on from one request to the next (`dump` and
`FlagRule.load`). It forgets: after WINDOW_LINES lines all counts are halved, and kinds and breaks that were
seen once are dropped.

**Changes.** By the same counts `FlagRule.change` says in one sentence why more is rare than explained.
"""

import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, computed_field

from nextchar.models.anomaly.alerts import AlertKey
from nextchar.models.text.array_file import inflate
from nextchar.models.text.line_tokens import TemplateBuilder, tokenize
from nextchar.models.text.successors import Break
from nextchar.models.text.templates import Templates

WINDOW_LINES = 20_000
"""Lines after which what is known of earlier ones counts half."""

MIN_CHANGE_LINES = 100
"""Fewer lines are not judged as a whole."""

CHANGED_KEY = AlertKey("more lines than the false-alarm rate explains", "")
"""That of the alert of lines that are repeats of no kind."""

_MIN_ALLOWED = 4.0  # flagged lines that are explained whatever the rate is
_NOISE = 2.0  # standard deviations
_DEVIATIONS = 1.25  # standard deviations by which so many lines may be as rare by chance
_MAX_FLAGGED_NEW, _MAX_FLAGGED = 1, 2  # of one kind: of a new template, or another; or
_MAX_SHARE = 0.1  # of the lines that are explained
_RAREST = 0.25  # of the lines that are explained: those that are flagged in any flood
_MIN_FIXED = 0.4  # of the tokens of a template by which lines are alike
_MAX_UNUSUAL_FRACTION = 0.3  # of lines with a p-value of at most UNUSUAL
_MAX_KNOWN_FRACTION = 0.5  # of lines that are rare, above which nothing fits
_BINS_PER_BIT = 4  # of the histogram of scores
_MAX_KINDS = 1_000
_MAX_SEEN = 2_000  # breaks
_MAX_EXAMPLES = 50
_MAX_STATE_BYTES = 8 << 20

MAX_EXAMPLE_CHARACTERS = 300
"""Of a line that is an example of a change."""


class Evidence(NamedTuple):
    """What the rule needs of a rare line; it does not depend on other lines.

    Attributes:
        text: the fingerprint of the line, masked. key: that of its alert by itself. is_new: whether its
        template is. score: in bits. estimated_p: its p-value, estimated also below the lowest one. breaks:
        those that are rare. is_rare: whether the line is without them. line: as it was written, for a change.
    """

    text: str
    key: AlertKey
    is_new: bool
    score: float
    estimated_p: float
    breaks: Sequence[Break] = ()
    is_rare: bool = True
    line: str = ""

    def dump(self) -> dict[str, Any]:
        """Return what `load` takes, for JSON."""
        return self._asdict() | {"key": astuple(self.key), "breaks": [astuple(one) for one in self.breaks]}

    @classmethod
    def load(cls, record: dict[str, Any]) -> Self:
        """Return what was dumped."""
        breaks = [Break(*one) for one in record["breaks"]]
        return cls(**record | {"key": AlertKey(*record["key"]), "breaks": breaks})


class Verdict(NamedTuple):
    """What becomes of a rare line.

    Attributes:
        is_flagged: otherwise it is a repeat. key: that of its alert. estimated_p: if it is flagged, its
        estimated p-value by the calibration and by the lines before it.
    """

    is_flagged: bool
    key: AlertKey
    estimated_p: float = 1.0

    def changes(self, model: str) -> dict[str, Any]:
        """Return what it changes of the score of a rare line."""
        found: dict[str, Any] = {"alert_id": self.key.alert_id(model)}
        return found if self.is_flagged else found | {"anomalous": False, "repeated": True}


class NewKind(BaseModel):
    """Rare lines of one template that no training line has."""

    alert_id: str
    lines: int
    line: str = Field(description="The first of them, its first 300 characters.")


class Change(BaseModel):
    """Why more lines are rare than the false-alarm rate explains."""

    model_config = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True, use_attribute_docstrings=True
    )

    kind: Literal["new_kinds", "values", "log"]
    """`new_kinds`: templates that no training line has; if most lines are rare, of several lines each.
    `values`: known templates with other values. `log`: hardly anything fits."""
    lines: int = Field(description="Lines of the change.")
    of_lines: int = Field(description="The lines of the stream, or of the request, that are remembered.")
    kinds: int = Field(description="How many new kinds of lines there are.")
    examples: tuple[NewKind, ...] = ()
    """One of each new kind, those with most lines first; at most 50."""
    since: float | None = Field(None, description="When the first line of them was scored, in Unix seconds.")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def action(self) -> Literal["examples", "train"]:
        """What to do: look at an example of each new kind, or train again with these lines."""
        return "examples" if self.kind == "new_kinds" else "train"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sentence(self) -> str:
        """The change and what to do."""
        share = f"{self.lines:,} of {self.of_lines:,} lines"
        if self.kind == "new_kinds":
            kinds = f"{self.kinds:,} new kind{'s' if self.kinds > 1 else ''} of events"
            return f"{kinds}, {share}: look at one of each; if they are normal, train again with them."
        if self.kind == "values":
            return f"The same events with other values, {share}: if they are normal, train again with them."
        return f"Another log: {share} are like nothing that the model knows; train a model with them."


@dataclass
class _Kind:
    """Rare lines of one kind.

    Attributes:
        key: that of their alert. count: how many there were. flagged: of these. since: when the first one was
        scored, in Unix seconds, if known. line: the first one, if they have a new template.
    """

    key: AlertKey
    count: int = 0
    flagged: int = 0
    since: float | None = None
    line: str = ""


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
    _scores: dict[str, dict[int, int]] = field(
        default_factory=dict
    )  # of lines unlike others, by class and bin
    _flagged: dict[str, int] = field(default_factory=dict)  # lines, by class
    _kinds: dict[str, _Kind] = field(default_factory=dict)  # by class and name
    _seen: Counter[str] = field(default_factory=Counter)  # lines, by the breaks that they had
    _builder: TemplateBuilder = field(init=False)  # of new templates, the names of which are their indices

    def __post_init__(self) -> None:
        self._builder = self._new_builder()

    def count(self, *, is_unusual: bool, is_flagged: bool = False) -> None:
        """Count a line that is judged by itself; `is_unusual` if it is among the most unusual tenth."""
        if self.lines >= WINDOW_LINES:
            self._forget()
        self.lines += 1
        self.unusual += is_unusual
        self.rare += is_flagged

    def judge(self, found: Evidence, *, now: float | None = None) -> Verdict:
        """Count a rare line, and return what becomes of it; `now`, in Unix seconds, is for a change."""
        self.count(is_unusual=True, is_flagged=True)
        breaks = found.breaks
        unseen = [one for one in breaks if not self._was_seen(one)]
        score = found.score - (math.log2(unseen[0].estimated_p) if unseen else 0.0)
        name = self._kind_of(found) if found.is_rare or not breaks else _break_name(breaks[0])
        names = dict.fromkeys([name, *map(_break_name, unseen)])
        verdicts = (self._judge(name, found, score, now) for name in names)
        first = next(verdicts)
        return first if first.is_flagged else next((one for one in verdicts if one.is_flagged), first)

    def _judge(self, name: str, found: Evidence, score: float, now: float | None) -> Verdict:
        """Return what becomes of a line of the kind with this name."""
        kind, key, p = self._kinds.get(name), found.key, found.estimated_p
        if kind is None:
            kind = _Kind(key, since=now, line=found.line if name.startswith("new ") else "")
            if len(self._kinds) < _MAX_KINDS:
                self._kinds[name] = kind
        kind.count += 1
        of, allowed = name.partition(" ")[0], self._allowed()
        if kind.flagged >= max(_MAX_FLAGGED_NEW if of == "new" else _MAX_FLAGGED, _MAX_SHARE * allowed):
            return Verdict(is_flagged=False, key=kind.key)
        bin_, scores = math.floor(score * _BINS_PER_BIT), self._scores.setdefault(of, {})
        scores[bin_] = scores.get(bin_, 0) + 1
        as_rare = _at_least(scores, bin_)
        if self._flagged.get(of, 0) >= allowed and as_rare > _RAREST * allowed:
            return Verdict(is_flagged=False, key=kind.key if kind.flagged else CHANGED_KEY)
        self._flagged[of] = self._flagged.get(of, 0) + 1
        kind.flagged += 1
        if of != "new":  # all lines of a new template are of one alert
            kind.key = key
        if self.rare > allowed:
            as_rare = sum(_at_least(counts, bin_) for counts in self._scores.values())
            p = max(p, (as_rare - _DEVIATIONS * math.sqrt(as_rare)) / self.lines)
        return Verdict(is_flagged=True, key=kind.key, estimated_p=p)

    def _was_seen(self, found: Break) -> bool:
        """Return whether an earlier line had this break, and note it."""
        name = _hash(f"{found.place} {found.text}")
        is_known = name in self._seen
        if is_known or len(self._seen) < _MAX_SEEN:
            self._seen[name] += 1
        return is_known

    def change(self, alert_id: Callable[[AlertKey], str]) -> Change | None:
        """Return why more lines are rare or unusual than the rate explains; None if they are not.

        `alert_id` returns the id of an alert.
        """
        if self.lines < MIN_CHANGE_LINES:
            return None
        is_rare, fits = self.rare > self._allowed(), self.rare <= _MAX_KNOWN_FRACTION * self.lines
        new = (kind for name, kind in self._kinds.items() if name.startswith("new "))
        kinds = sorted((kind for kind in new if fits or kind.count > 1), key=lambda kind: -kind.count)
        in_kinds = sum(kind.count for kind in kinds)
        made = partial(Change, kinds=len(kinds), of_lines=self.lines)
        if is_rare and 2 * in_kinds >= self.rare:
            examples = tuple(
                NewKind(alert_id=alert_id(kind.key), lines=kind.count, line=kind.line)
                for kind in kinds[:_MAX_EXAMPLES]
            )
            since = min((kind.since for kind in kinds if kind.since), default=None)
            return made(kind="new_kinds", lines=in_kinds, examples=examples, since=since)
        if is_rare and not fits:
            return made(kind="log", lines=self.rare)
        if self.unusual > _MAX_UNUSUAL_FRACTION * self.lines:
            return made(kind="values", lines=self.unusual)
        return made(kind="values", lines=self.rare) if is_rare else None

    def dump(self) -> bytes:
        """Return what `load` takes."""
        record = {
            "counts": [self.lines, self.rare, self.unusual],
            "scores": {of: sorted(counts.items()) for of, counts in self._scores.items()},
            "seen": self._seen,
            "flagged": self._flagged,
            "templates": self._builder.templates_in_order(),
            "kinds": {
                name: [one.key.template, one.key.span, one.count, one.flagged, one.since, one.line]
                for name, one in self._kinds.items()
            },
        }
        return zlib.compress(json.dumps(record).encode())

    @classmethod
    def load(cls, data: bytes | None, rate: float, templates: Templates | None) -> Self:
        """Return the rule after earlier lines; one that knows of none if there is no or damaged data."""
        rule = cls(rate, templates)
        try:
            record = json.loads(inflate(data, max_bytes=_MAX_STATE_BYTES)) if data else None
            if record:
                rule.lines, rule.rare, rule.unusual = map(int, record["counts"])
                rule._scores = {str(of): dict(counts) for of, counts in record["scores"].items()}
                rule._seen = Counter({str(of): int(n) for of, n in Counter(record.get("seen", ())).items()})
                rule._flagged = {str(of): int(count) for of, count in record["flagged"].items()}
                rule._builder.restore([(tuple(tokens), word) for tokens, word in record["templates"]])
                rule._kinds = {
                    str(name): _Kind(AlertKey(template, span), int(count), int(flagged), since, str(line))
                    for name, (template, span, count, flagged, since, line) in record["kinds"].items()
                }
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(rate, templates)
        return rule

    def _kind_of(self, found: Evidence) -> str:
        """Return the class of a line's kind, new or known, and its name."""
        if found.is_new:
            index = self._builder.add(tokenize(found.text))
            if index is not None and self._builder.fixed_fraction(index) >= _MIN_FIXED:
                return f"new {index}"
        return f"known {_hash(f'{found.key.template} {found.key.span}')}"

    def _new_builder(self) -> TemplateBuilder:
        return TemplateBuilder(self.templates.common if self.templates else frozenset())

    def _allowed(self) -> float:
        """Return how many flagged lines of one class the rate explains."""
        expected = self.rate * self.lines
        return _MIN_ALLOWED + expected + _NOISE * math.sqrt(expected)

    def _forget(self) -> None:
        self.lines, self.rare, self.unusual = self.lines // 2, self.rare // 2, self.unusual // 2
        self._flagged = {of: count // 2 for of, count in self._flagged.items()}
        self._scores = {
            of: {bin_: half for bin_, count in counts.items() if (half := count // 2)}
            for of, counts in self._scores.items()
        }
        self._seen = Counter({name: half for name, count in self._seen.items() if (half := count // 2)})
        templates, self._builder = self._builder.templates_in_order(), self._new_builder()
        kinds = {name: replace(kind, count=kind.count // 2) for name, kind in self._kinds.items()}
        new = [name for name, kind in kinds.items() if name.startswith("new ") and kind.count]
        self._kinds = {name: kind for name, kind in kinds.items() if kind.count and name not in new}
        self._kinds |= {f"new {at}": kinds[name] for at, name in enumerate(new)}
        self._builder.restore([templates[int(name.removeprefix("new "))] for name in new])


def _at_least(counts: Mapping[int, int], bin_: int) -> int:
    return sum(count for other, count in counts.items() if other >= bin_)


def _break_name(found: Break) -> str:
    return f"{found.kind} {_hash(found.place)}"


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
