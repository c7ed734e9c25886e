"""Scores of lines by a model and one of its calibrations.

Blocking, in the calling thread. Positions in a line are in characters after NFC, or in bytes for a model of
bytes, before masking; the model reads lines masked like the text it was trained on.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from nextchar.models.anomaly.aggregate import peak_bits
from nextchar.models.anomaly.alerts import AlertKey, AlertLabel, Occurrence, alert_key_of
from nextchar.models.anomaly.calibration import UNUSUAL
from nextchar.models.anomaly.flag_rule import MAX_EXAMPLE_CHARACTERS, Change, Evidence, FlagRule
from nextchar.models.anomaly.line_scores import LineScore, ScoreOptions, Span, StoredCalibration
from nextchar.models.anomaly.scorer import LineReading, ReadPrecision
from nextchar.models.anomaly.spans import Span as MaskedSpan
from nextchar.models.anomaly.spans import highest_window, threshold_spans
from nextchar.models.errors import InvalidInput
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.runtime.session import Check, State, no_check
from nextchar.models.text.events import fingerprint
from nextchar.models.text.line_time import line_time
from nextchar.models.text.vocabulary import UNKNOWN_ID

DECIMALS = 4
"""Decimal places of bits in a score; float32 logits are not more precise."""

_CHARACTER_RATE = 3
"""Index into CHARACTER_RATES of the threshold for single characters: 3 in 10,000 normal ones exceed it."""

MAX_EXPLAIN_READ = 50_000
"""The most characters that the network reads to explain the flagged lines of one response or batch, most
anomalous first: about a second. A line takes some hundred to some thousand characters. See
`nextchar.models.anomaly.noisy_channel.explain`."""

_MAX_EXPLAINED_CHARACTERS = 20_000  # of a line that is explained
_CHECK_INTERVAL = 100  # lines
_POSITIONS_PER_PIECE = 1_000


class _Found(NamedTuple):
    """A line's score, p-value and flag; None without a calibration.

    It has an alert and maybe a label if it is flagged, or would be if that were not labeled normal.
    """

    score: float | None = None
    p_value: float | None = None
    anomalous: bool | None = None
    alert_id: str | None = None
    label: AlertLabel | None = None


class Judged(NamedTuple):
    """A line's score by the flag rule; if it is rare, also what was read, and of its alert the key.

    A rare line is flagged or a repeat.
    """

    score: LineScore
    line: LineReading | None = None
    key: AlertKey | None = None
    estimated_p: float = 1.0


_Explanations = dict[str, list[MaskedSpan]]
"""The anomalous spans of masked texts that were explained."""


class CalibratedScorer:
    """Scores lines by a loaded model, one of its calibrations (or none) and the options of a request.

    `check` is called between pieces of work; what it raises ends the work. `labels` returns what people say
    of groups of flagged lines, by the ids of their alerts; it is called if lines are flagged.

    Raises:
        InvalidInput: there is no calibration for the false-alarm rate, or it has too few lines.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        calibration: StoredCalibration | None,
        options: ScoreOptions,
        check: Check = no_check,
        labels: Callable[[], Mapping[str, AlertLabel]] = dict,
    ) -> None:
        templates = loaded.scorer.templates
        self.loaded, self.calibration, self.options = loaded, calibration, options
        self.check, self._labels = check, labels
        self.rate: float | None = None
        self.thresholds: tuple[float, ...] = ()
        if calibration:
            self.rate = options.false_alarms or calibration.calibration.default_rate()
            self.thresholds = calibration.calibration.thresholds(self.rate)
        elif options.false_alarms:
            raise InvalidInput(
                f"model {loaded.reference} has no calibration, which a false-alarm rate needs; make one"
                " with POST …/calibrate",
                code="no_calibration",
                param="false_alarms",
            )
        self.rule: FlagRule | None = None
        if self.rate:
            self.rule = FlagRule(self.rate, templates)

    @property
    def threshold(self) -> float | None:
        """The score above which lines are flagged; None without calibration or if it depends on length."""
        return self.thresholds[0] if len(self.thresholds) == 1 else None

    @cached_property
    def _character_threshold(self) -> float | None:
        return self.calibration.calibration.character_excess[_CHARACTER_RATE] if self.calibration else None

    def resume(self, rule: bytes | None) -> None:
        """Judge lines after those of a rule, as `FlagRule.dump` returned it; None: after none."""
        if self.rule:
            self.rule = FlagRule.load(rule, self.rule.rate, self.rule.templates)

    def read(self, originals: Sequence[str]) -> list[LineReading]:
        """Read lines of characters, each by itself."""
        precision: ReadPrecision = "fast" if self.options.fast else "float32"
        return self.loaded.scorer.read(originals, precision=precision, check=self.check)

    def read_stream(self, originals: Sequence[str], state: State | None) -> tuple[list[LineReading], State]:
        """Read lines one after the other, from where the previous call ended."""
        return self.loaded.scorer.read_stream(originals, state, fast=self.options.fast, check=self.check)

    def scores(self, lines: Sequence[LineReading]) -> Iterator[LineScore]:
        """Yield the score of each line, without expected characters."""
        scores = self._score(lines)
        flagged = [i for i, one in enumerate(scores) if one.anomalous and self.options.detail != "none"]
        flagged.sort(key=lambda i: -(scores[i].score or 0.0))
        explanations = self._explain([lines[i].masked.text for i in flagged])
        for i, line in enumerate(lines):
            if i % _CHECK_INTERVAL == 0:
                self.check()
            yield self._line_score(line, scores[i], explanations)

    def judge(self, score: LineScore, line: LineReading | None, *, now: float | None = None) -> Judged:
        """Return what `rule` decides of the next line, which may be a repeat, and the key of its alert.

        `line` is needed, and there is an alert, if the p-value is low enough to flag it. With
        `repeats="flag"`, and for a model without templates, no line is a repeat. `now` is as for
        `FlagRule.judge`.
        """
        rule = self.rule
        found = self.evidence(score, line) if rule and score.anomalous and line else None
        together = found is not None and self.judges_together
        if rule and not together:
            rule.count(is_unusual=is_unusual(score), is_flagged=bool(score.anomalous))
        if not rule or not found:
            return Judged(score)
        if not together:
            return Judged(score, line, found.key, found.estimated_p)
        verdict = rule.judge(found, now=now)
        key = replace(verdict.key, value=found.key.value)
        p = verdict.estimated_p if verdict.is_flagged else score.p_value or 1.0
        return Judged(score.model_copy(update=verdict.changes(self.loaded.saved.card.name)), line, key, p)

    @property
    def judges_together(self) -> bool:
        """Whether lines can be repeats of earlier ones; otherwise each is judged by itself."""
        return bool(self.rule and self.rule.templates) and self.options.repeats == "count"

    def evidence(self, score: LineScore, line: LineReading) -> Evidence:
        """Return what the rule needs of a line with a p-value that is low enough to flag it.

        A line that is rare for its score and for a break is rarer than for one of them: by Fisher (1925), as
        if these were independent.
        """
        assert self.calibration is not None and self.rate is not None, "without them no line is rare"
        parsed, breaks = line.surprisal.parsed, line.surprisal.breaks
        own_score = (score.score or 0.0) - (breaks[0].score_bits if breaks else 0.0)
        calibration, length = self.calibration.calibration, len(line.masked.text)
        estimate = calibration.estimated_p_value(own_score, characters=length)
        if breaks:
            product = estimate * breaks[0].estimated_p
            estimate = product * (1 - math.log(product))
        return Evidence(
            fingerprint(line.masked.text),
            self.group(line),
            is_new=parsed is not None and parsed.template.is_new,
            score=own_score,
            estimated_p=min(estimate, score.p_value or 1.0),
            breaks=[one for one in breaks if one.p_value <= self.rate],
            is_rare=calibration.p_value(own_score, characters=length) <= self.rate,
            line=self.loaded.vocabulary.to_text(line.original)[:MAX_EXAMPLE_CHARACTERS],
        )

    @property
    def change(self) -> Change | None:
        """Why more lines are rare than the rate explains, if they are; see `FlagRule.change`."""
        name = self.loaded.saved.card.name
        return self.rule.change(lambda key: key.alert_id(name)) if self.rule else None

    def group(self, line: LineReading) -> AlertKey:
        """Return the group of a flagged line. It does not depend on whether the line is explained."""
        parsed = line.surprisal.parsed
        pattern = parsed.template.pattern if parsed else None
        if "\n" in line.original and pattern is not None:
            return AlertKey(pattern, "")  # of an event of several lines, the fingerprint says what it is
        return alert_key_of(line.masked.text, self._flagged_spans(line, {}), template=pattern)

    def occurrence(self, rare: Judged, *, arrived: float | None = None, **known: Any) -> Occurrence:
        """Return the occurrence of a rare line that arrived then, in Unix seconds, by default now.

        `known` are further fields of it. Its score is not lowered by a label of its alert, since the next
        label lowers scores by it; its p-values are.
        """
        score, line, key, estimated_p = rare
        assert self.calibration and line and key and score.p_value is not None, "the line is rare"
        spans = score.spans or _to_original(self._flagged_spans(line, {}), line)
        unlowered = score.score
        if score.label == "normal":
            scores, _ = self.calibration.calibration.score([line.surprisal])
            unlowered = round(float(scores[0]), DECIMALS)
        text = self.loaded.vocabulary.to_text(line.original)
        arrived = time.time() if arrived is None else arrived
        about: dict[str, Any] = {
            "model": self.loaded.saved.card.name,
            "version": self.loaded.saved.card.version,
            "line": text,
            "score": unlowered,
            "p_value": score.p_value,
            "estimated_p": estimated_p,
            "spans": [MaskedSpan(**dict(span)) for span in spans],
            "time": arrived,
            "line_time": line_time(text, now=arrived),
        }
        return Occurrence(key, **about | known)

    def text_score(self, line: LineReading) -> LineScore:
        """Return the spans of a text, flagged or not, and its score if it is one line or event.

        Calibrations are made of these: a longer text can have anomalous spans, but has no score.
        """
        is_line = sum(1 for _ in self.loaded.scorer.events(line.original.split("\n"))) == 1
        score = _base_score(line, self._score([line])[0] if is_line else _Found())
        if self.options.detail != "none" and self._character_threshold is not None:
            text = line.masked.text
            explanations = self._explain([text])
            score.explained = self._is_explained(text, explanations)
            score.spans = _to_original(self._anomalous_spans(line, explanations), line)
        return score

    def bits(self, line: LineReading) -> list[float]:
        """Return the bits of each character of the original; a masked part has them at its first."""
        bits = line.surprisal.bits
        if line.masked.starts is not None:
            spread = np.zeros(len(line.original), np.float32)
            spread[line.masked.starts[:-1]] = bits
            bits = spread
        return [float(value) for value in np.round(bits, DECIMALS)]

    def expected_json(self, line: LineReading) -> str:
        """Return the likeliest characters at each character of the original, as JSON.

        Written from arrays: an object for each of hundreds of thousands of characters would take gigabytes.
        """
        engine = self.loaded.engine
        top = engine.top_characters(line.masked.text, top=self.options.expected, check=self.check)
        heads = self._expected_heads
        expected = ["[]"] * len(line.original)
        for at in range(0, len(top.ids), _POSITIONS_PER_PIECE):
            self.check()
            ids = top.ids[at : at + _POSITIONS_PER_PIECE].tolist()
            probabilities = np.exp(top.logprobs[at : at + _POSITIONS_PER_PIECE]).tolist()
            for position, (candidates, p) in enumerate(zip(ids, probabilities, strict=True), at):
                likely = (f"{heads[i]}{round(value, 6)!r}}}" for i, value in zip(candidates, p, strict=True))
                expected[line.masked.origin(position)] = f"[{','.join(likely)}]"
        return f"[{','.join(expected)}]"

    @cached_property
    def _expected_heads(self) -> list[str]:
        """The beginning of the JSON of an expected character, by its id."""
        vocabulary = self.loaded.vocabulary
        labels = ["", *map(vocabulary.label, vocabulary.characters)]
        return [f'{{"character":{json.dumps(label, ensure_ascii=False)},"probability":' for label in labels]

    def _score(self, lines: Sequence[LineReading]) -> list[_Found]:
        if not self.calibration or self.rate is None:
            return [_Found()] * len(lines)
        scores, p_values = self.calibration.calibration.score([line.surprisal for line in lines])
        labels = self._labels() if (p_values <= self.rate).any() else {}
        found = zip(lines, scores.tolist(), p_values.tolist(), strict=True)
        return [self._labeled(*one, labels) for one in found]

    def _labeled(
        self, line: LineReading, score: float, p_value: float, labels: Mapping[str, AlertLabel]
    ) -> _Found:
        """Return the score of a line, lowered if it is flagged and its alert is labeled normal."""
        assert self.calibration is not None and self.rate is not None
        if p_value > self.rate:
            return _Found(score, p_value, anomalous=False)
        key = self.group(line)
        alert_id = key.alert_id(self.loaded.saved.card.name)
        label = labels.get(alert_id)
        if label and not label.covers(key.value):
            label = None
        if label and label.label == "normal":
            score = label.lowered(score, key.value)
            p_value = self.calibration.calibration.p_value(score, characters=len(line.masked.text))
        return _Found(score, p_value, p_value <= self.rate, alert_id, label)

    def _line_score(self, line: LineReading, found: _Found, explanations: _Explanations) -> LineScore:
        score = _base_score(line, found)
        if self.options.detail == "none":
            return score
        surprisal, bits = line.surprisal, line.surprisal.bits
        total = float(bits.sum(dtype=np.float64))
        score.total_bits = round(total, DECIMALS)
        score.bits_per_character = round(total / max(1, len(line.original)), DECIMALS)
        score.peak_bits = round(peak_bits(bits), DECIMALS)
        if score.anomalous:
            score.spans = _to_original(self._flagged_spans(line, explanations), line)
            score.reason = surprisal.breaks[0].reason if surprisal.breaks else None
            score.explained = self._is_explained(line.masked.text, explanations)
        elif score.anomalous is not None:
            score.spans = []
        if self.options.detail == "character":
            score.bits = self.bits(line)
        return score

    def _explain(self, texts: Sequence[str]) -> _Explanations:
        """Explain masked texts, in this order, until MAX_EXPLAIN_READ is reached."""
        threshold = self._character_threshold
        if threshold is None or not (texts and self.options.explain):
            return {}
        short = [text for text in dict.fromkeys(texts) if len(text) <= _MAX_EXPLAINED_CHARACTERS]
        spans = self.loaded.scorer.explain(
            short, threshold=threshold, max_read=MAX_EXPLAIN_READ, check=self.check
        )
        return {text: found for text, found in zip(short, spans, strict=True) if found is not None}

    def _is_explained(self, text: str, explanations: _Explanations) -> bool | None:
        return text in explanations if self.options.explain else None

    def _flagged_spans(self, line: LineReading, explanations: _Explanations) -> list[MaskedSpan]:
        """Return the anomalous spans; if no character stands out by itself, the most anomalous part."""
        surprisal, spans = line.surprisal, self._anomalous_spans(line, explanations)
        broken = surprisal.breaks[0] if surprisal.breaks else None
        if broken and broken.end and not any(s.start < broken.end and broken.start < s.end for s in spans):
            spans = sorted([*spans, MaskedSpan(broken.start, broken.end, broken.bits)], key=lambda s: s.start)
        return spans or highest_window(surprisal.bits, surprisal.entropy)

    def _anomalous_spans(self, line: LineReading, explanations: _Explanations) -> list[MaskedSpan]:
        threshold = self._character_threshold
        assert threshold is not None
        text, surprisal = line.masked.text, line.surprisal
        if text in explanations:
            return explanations[text]
        unknown = self.loaded.vocabulary.encode(text) == UNKNOWN_ID
        return threshold_spans(surprisal.bits, surprisal.entropy, unknown, threshold=threshold)


def is_unusual(score: LineScore) -> bool:
    """Return whether a line is among the most unusual tenth, by the calibration."""
    return score.p_value is not None and score.p_value <= UNUSUAL


def _base_score(line: LineReading, found: _Found) -> LineScore:
    score, p_value, anomalous, alert_id, label = found
    return LineScore(
        lines=line.original.count("\n") + 1,
        characters=len(line.original),
        score=None if score is None else round(score, DECIMALS),
        p_value=None if p_value is None else float(f"{p_value:.4g}"),
        anomalous=anomalous,
        alert_id=alert_id,
        label=label.label if label else None,
    )


def _to_original(spans: Iterable[MaskedSpan], line: LineReading) -> list[Span]:
    origin = line.masked.origin
    return [
        Span(
            start=origin(span.start),
            end=origin(span.end),
            bits=round(span.bits, DECIMALS),
            expected=span.expected,
        )
        for span in spans
    ]
