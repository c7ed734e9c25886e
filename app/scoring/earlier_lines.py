"""What is known of lines that a model has scored before, and the occurrences among them that are recorded."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nextchar.app.http.threads import current_key
from nextchar.models.anomaly import alerts
from nextchar.models.anomaly.alerts import AlertLabel, Occurrence
from nextchar.models.anomaly.calibrated_scorer import DECIMALS, CalibratedScorer
from nextchar.models.anomaly.scorer import LineReading
from nextchar.models.anomaly.spans import Span
from nextchar.models.anomaly.stream_scorer import RareLine
from nextchar.models.errors import InvalidInput
from nextchar.models.text.line_time import line_time


def _no_alerts(_: Sequence[Occurrence]) -> None:
    raise InvalidInput("this service keeps no alerts", param="alerts")


def _no_lines(_: str) -> Sequence[bytes]:
    raise InvalidInput("this service takes no lines of log agents", param="ingested")


@dataclass(frozen=True)
class EarlierLines:
    """Blocking functions of what is known of earlier lines: nothing, unless a room of the service keeps it.

    Attributes:
        labels: returns the labels of a model's alerts, by the ids of these.
        record: records flagged lines in alerts. Raises InvalidInput: this service keeps none.
        labeled_lines: returns the example lines of labeled alerts of a model, in the order of arrival, and
            which are of incidents.
        recent: returns the newest lines of log agents for a model. Raises InvalidInput: there are none.
        calibrated: notes that a calibration of a model is replaced, `on_recent` lines or on others.
    """

    labels: Callable[[str], Mapping[str, AlertLabel]] = lambda _: {}
    record: Callable[[Sequence[Occurrence]], object] = _no_alerts
    labeled_lines: Callable[[str], Sequence[tuple[str, bool]]] = lambda _: ()
    recent: Callable[[str], Sequence[bytes]] = _no_lines
    calibrated: Callable[..., None] = lambda *_, on_recent: None  # noqa: ARG005


def occurrences_of(
    scorer: CalibratedScorer, rare: Iterable[RareLine], *, source: str = ""
) -> list[Occurrence]:
    """Return the occurrences of lines that arrived now."""
    owner = current_key()
    return [occurrence_of(scorer, one, source=source, owner=owner) for one in rare]


def occurrence_of(
    scorer: CalibratedScorer,
    rare: RareLine,
    *,
    arrived: float | None = None,
    source: str = "",
    entry: str | None = None,
    owner: str = "",
) -> Occurrence:
    """Return the occurrence of one line that is flagged or a repeat.

    `arrived` is when it arrived, in Unix seconds, by default now; `source` says where it comes from; `entry`
    is the id of the entry of a Redis stream that brought it; `owner` is the API key that sent it. Positions
    in it are those of `score`. Its score is not lowered by a label of its group, since the next label lowers
    scores by it; its p-values are.
    """
    line, (score, key, estimated_p) = rare
    assert score.score is not None and score.p_value is not None, "only lines with a calibration are flagged"
    card = scorer.loaded.saved.card
    text = scorer.loaded.vocabulary.to_text(line.original)
    spans = score.spans if score.spans is not None else scorer.flagged_spans(line)
    arrived = time.time() if arrived is None else arrived
    return alerts.occurrence(
        key or scorer.group(line),
        model=card.name,
        version=card.version,
        line=text,
        score=_unlowered(scorer, line) if score.label == "normal" else score.score,
        p_value=score.p_value,
        estimated_p=estimated_p,
        spans=[Span(span.start, span.end, span.bits, span.expected) for span in spans],
        time=arrived,
        line_time=line_time(text, now=arrived),
        source=source,
        entry=entry,
        owner=owner,
    )


def _unlowered(scorer: CalibratedScorer, line: LineReading) -> float:
    assert scorer.calibration is not None, "only lines with a calibration are flagged"
    scores, _ = scorer.calibration.calibration.score([line.surprisal])
    return round(float(scores[0]), DECIMALS)
