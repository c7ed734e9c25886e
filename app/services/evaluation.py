"""Labelled lines through a model, beside simple scores on the same lines.

Blocking, and minutes for the largest request. Knows no HTTP. Of lines that have
been read only the scores are kept, so memory does not grow with what a network says of each character.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.http.dependencies import Services
from app.schemas.scores import (
    EvaluateCreate,
    EvaluationBody,
    FlaggedBody,
    JudgedLine,
    LeaksBody,
    QualityBody,
)
from app.services.engines import Loaded
from app.services.limited_work import Check
from app.services.scoring import DECIMALS, Options, Scorer, calibration_body
from models.anomaly.baselines import baseline_scores
from models.anomaly.calibration import CalibrationLines
from models.anomaly.metrics import FALSE_ALARMS, judge, roc
from models.errors import InvalidInput, NotFound
from store.calibrations import StoredCalibration

_MOST_TRAINING_CHARACTERS = 5_000_000  # of the corpus's end, for the baselines
_BATCH = 2_000  # lines read at a time

Split = Literal["none", "chronological", "random"]


@dataclass(frozen=True)
class _Division:
    split: Split
    judged: NDArray[np.intp]  # places among the lines given
    train: list[str]  # normal lines, masked
    calibration: StoredCalibration


def reads_training_text(body: EvaluateCreate) -> bool:
    """Return whether an evaluation compares the lines with the text that the model was trained on."""
    return body.split in ("auto", "none")


def evaluate(
    services: Services, model: str, body: EvaluateCreate, check: Check, *, may_read: Callable[[str], bool]
) -> EvaluationBody:
    """Judge a model by labelled lines. `check` is called between pieces of work; what it raises ends it.

    `may_read` says whether the caller may read the corpus with an id; one that they may not read is treated
    like one that was deleted.

    Raises:
        InvalidInput: one kind of line only, or too few normal ones to calibrate with.
    """
    with services.engines.use(model) as loaded:
        return _evaluate(services, loaded, body, check, may_read)


def _evaluate(
    services: Services, loaded: Loaded, body: EvaluateCreate, check: Check, may_read: Callable[[str], bool]
) -> EvaluationBody:
    began = time.monotonic()
    truth = np.array(body.anomalous, bool)
    originals = [loaded.vocabulary.to_characters(line) for line in body.lines]
    masked = [loaded.masks.apply(line).text for line in originals]
    corpus = _training_lines(services, loaded, check, may_read) if reads_training_text(body) else None
    division = _divide(services, loaded, body, masked, truth, corpus, check)
    odd = truth[division.judged]
    if odd.all() or not odd.any():
        raise InvalidInput(
            f"of the {len(odd)} lines to be judged {'all' if odd.all() else 'none'} are anomalous; both kinds"
            " are needed",
            code="one_class",
            param="anomalous",
        )
    scorer = Scorer(
        loaded, division.calibration, Options("character", false_alarms=body.false_alarms, fast=True), check
    )
    judged = [originals[i] for i in division.judged]
    scores, p_values = _scores(scorer, judged)
    assert scorer.rate is not None
    flagged = p_values <= scorer.rate
    judged_texts = [masked[i] for i in division.judged]
    simple: Mapping[str, NDArray[np.float64]] = {}
    if body.baselines and any(division.train):
        simple = baseline_scores(division.train, judged_texts, check=check)
    return EvaluationBody(
        model=loaded.reference,
        split=division.split,
        lines=len(odd),
        anomalous=int(odd.sum()),
        trained_on=len(division.train),
        calibration=calibration_body(division.calibration),
        false_alarms=scorer.rate,
        model_score=_quality(scores, odd),
        flagged=FlaggedBody(
            threshold=scorer.threshold,
            recall=round(float(flagged[odd].mean()), DECIMALS),
            precision=round(float(odd[flagged].mean()), DECIMALS) if flagged.any() else None,
            false_alarm_rate=round(float(flagged[~odd].mean()), DECIMALS),
        ),
        baselines={name: _quality(found, odd) for name, found in simple.items()},
        leaks=_leaks(set(division.train), judged_texts, odd),
        worst_misses=_shown(
            scorer, judged, division.judged, np.argsort(scores, kind="stable"), odd, body.worst
        ),
        worst_false_alarms=_shown(
            scorer, judged, division.judged, np.argsort(-scores, kind="stable"), ~odd, body.worst
        ),
        seconds=round(time.monotonic() - began, 2),
    )


def _divide(
    services: Services,
    loaded: Loaded,
    body: EvaluateCreate,
    masked: Sequence[str],
    truth: NDArray[np.bool_],
    corpus: list[str] | None,
    check: Check,
) -> _Division:
    """Say which lines are judged, and what the baselines learn from and the calibration is made of."""
    split = body.split
    if split == "auto":
        split = "none" if corpus is not None else "chronological"
    if split == "none":
        found = services.calibrations.find(loaded.saved, body.calibration)
        if found is None:
            raise InvalidInput(
                f"model {loaded.reference} has no calibration; make one with POST …/calibrate, or let a"
                " split of these lines make one",
                code="no_calibration",
                param="split",
            )
        return _Division("none", np.arange(len(masked)), corpus or [], found)
    order = np.arange(len(masked))
    if split == "random":
        order = np.random.default_rng(0).permutation(order)
    cut = round(body.train_fraction * len(order))
    train = [masked[i] for i in sorted(order[:cut]) if not truth[i]]
    known = CalibrationLines()
    for at in range(0, len(train), _BATCH):
        known.add(loaded.engine.read_lines(train[at : at + _BATCH], fast=True, check=check))
    named = StoredCalibration(
        "split", known.calibration(), int(time.time()), f"{len(train)} of the lines given"
    )
    return _Division(split, np.sort(order[cut:]), train, named)


def _training_lines(
    services: Services, loaded: Loaded, check: Check, may_read: Callable[[str], bool]
) -> list[str] | None:
    """Return the lines that the model was trained on, the last ones of many, or None if they are gone."""
    card = loaded.saved.card
    if card.corpus is None or not may_read(card.corpus):
        return None
    held_out = card.training.validation_fraction
    recent = deque[str]()  # the last pieces of the text
    kept = total = 0
    try:
        for piece in services.corpora.pieces(card.corpus, card.alphabet):
            check()
            recent.append(piece)
            total += len(piece)
            kept += len(piece)
            while kept - len(recent[0]) > _MOST_TRAINING_CHARACTERS + total * held_out:
                kept -= len(recent.popleft())
    except NotFound:
        return None
    trained = "".join(recent)[: -max(1, round(total * held_out))][-_MOST_TRAINING_CHARACTERS:].split("\n")
    return [loaded.masks.apply(line).text for line in trained]


def _scores(scorer: Scorer, originals: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores and p-values, each (n,), of n lines, which are read some at a time."""
    assert scorer.calibration is not None
    found = [
        scorer.calibration.calibration.score(
            [line.reading for line in scorer.read(originals[at : at + _BATCH])]
        )
        for at in range(0, len(originals), _BATCH)
    ]
    return np.concatenate([scores for scores, _ in found]), np.concatenate([p for _, p in found])


def _quality(scores: NDArray[np.float64], odd: NDArray[np.bool_]) -> QualityBody:
    found = judge(scores, odd)
    return QualityBody(
        auroc=round(found.auroc, 6),
        average_precision=round(found.average_precision, 6),
        recall_at_false_alarms={
            f"{rate:g}": round(recall, 6) for rate, recall in zip(FALSE_ALARMS, found.recall, strict=True)
        },
        roc=roc(scores, odd),
    )


def _leaks(train: set[str], judged: Sequence[str], odd: NDArray[np.bool_]) -> LeaksBody:
    known = np.array([line in train for line in judged])
    return LeaksBody(
        normal=int((known & ~odd).sum()),
        anomalous=int((known & odd).sum()),
        distinct=len({line for line in judged if line in train}),
    )


def _shown(
    scorer: Scorer,
    originals: Sequence[str],
    places: NDArray[np.intp],
    order: NDArray[np.intp],
    wanted: NDArray[np.bool_],
    count: int,
) -> list[JudgedLine]:
    """Return the first `count` wanted lines in this order, with all that is told of a line."""
    chosen = [int(i) for i in order if wanted[i]][:count]
    told = scorer.describe(scorer.read([originals[i] for i in chosen]))
    to_text = scorer.loaded.vocabulary.to_text
    return [
        JudgedLine(index=int(places[i]), text=to_text(originals[i]), **one.model_dump())
        for i, one in zip(chosen, told, strict=True)
    ]
