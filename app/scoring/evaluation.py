"""Evaluation: how well a model's scores separate labeled anomalous lines from normal ones.

Blocking, and minutes for the largest request. Only the scores of lines are kept, so memory does not grow with
their surprisal.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nextchar.app.http.threads import Check
from nextchar.app.scoring.calibration_schemas import (
    EvaluateCreate,
    EvaluationBody,
    FlaggedBody,
    JudgedLine,
    LeaksBody,
    QualityBody,
    calibration_body,
)
from nextchar.models.anomaly.calibrated_scorer import DECIMALS, CalibratedScorer
from nextchar.models.anomaly.calibration_builder import CalibrationBuilder
from nextchar.models.anomaly.line_scores import ScoreOptions, StoredCalibration
from nextchar.models.anomaly.metrics import FALSE_ALARMS, baseline_scores, detection_quality, roc
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.models.loaded_model import LoadedModel
from nextchar.store.calibrations import Calibrations
from nextchar.store.corpora import Corpora
from nextchar.store.shuffled_lines import ShuffledLines

_MAX_TRAINING_CHARACTERS = 5_000_000  # at the end of the corpus, for the baselines
_BATCH = 2_000  # lines read at a time

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class _Split:
    name: Literal["none", "chronological", "random"]
    test: NDArray[np.intp]  # indices of the test lines
    train: list[str]  # normal lines, masked
    calibration: StoredCalibration


def reads_training_text(body: EvaluateCreate) -> bool:
    """Return whether an evaluation compares the lines with the text that the model was trained on."""
    return body.split in ("auto", "none")


def evaluate(
    loaded: LoadedModel,
    body: EvaluateCreate,
    check: Check,
    *,
    calibrations: Calibrations,
    corpora: Corpora,
    may_read: Callable[[str], bool],
    scratch: Path,
) -> EvaluationBody:
    """Evaluate a model on labeled lines.

    `check` is called between pieces of work; what it raises ends it. A corpus that the caller may not read,
    by `may_read` of its id, is treated like a deleted one. `scratch` is a folder for temporary files.

    Raises:
        InvalidInput: only one kind of line, or too few normal ones to calibrate with.
    """
    started = time.monotonic()
    labels = np.array(body.anomalous, bool)
    originals = [loaded.vocabulary.to_characters(line) for line in body.lines]
    masked = _mask(loaded, originals)
    corpus = _training_lines(loaded, corpora, check, may_read, scratch) if reads_training_text(body) else None
    if body.split == "none" or (body.split == "auto" and corpus is not None):
        advice = ", or use the split chronological or random to make one from these lines"
        stored = calibrations.required(loaded.saved, body.calibration, param="split", advice=advice)
        split = _Split("none", np.arange(len(masked)), corpus or [], stored)
    else:
        split = _split(loaded, body, originals, labels, check)
    anomalous = labels[split.test]
    if anomalous.all() or not anomalous.any():
        raise InvalidInput(
            f"of the {len(anomalous)} test lines {'all' if anomalous.all() else 'none'} are anomalous; both"
            " kinds are needed",
            code="one_class",
            param="anomalous",
        )
    options = ScoreOptions("character", false_alarms=body.false_alarms, fast=True)
    scorer = CalibratedScorer(loaded, split.calibration, options, check)
    test = [originals[i] for i in split.test]
    scores, p_values = _scores(scorer, test)
    assert scorer.rate is not None
    flagged = p_values <= scorer.rate
    masked_test = [masked[i] for i in split.test]
    baselines: Mapping[str, NDArray[np.float64]] = {}
    if body.baselines and any(split.train):
        baselines = baseline_scores(split.train, masked_test, check=check)

    def worst(order: NDArray[np.intp], wanted: Flags) -> list[JudgedLine]:
        chosen = [int(i) for i in order if wanted[i]][: body.worst]
        return _judged_lines(scorer, {int(split.test[i]): test[i] for i in chosen})

    return EvaluationBody(
        model=loaded.reference,
        split=split.name,
        lines=len(anomalous),
        anomalous=int(anomalous.sum()),
        trained_on=len(split.train),
        calibration=calibration_body(split.calibration),
        false_alarms=scorer.rate,
        model_score=_quality(scores, anomalous),
        flagged=FlaggedBody(
            threshold=scorer.threshold,
            recall=round(float(flagged[anomalous].mean()), DECIMALS),
            precision=round(float(anomalous[flagged].mean()), DECIMALS) if flagged.any() else None,
            false_alarm_rate=round(float(flagged[~anomalous].mean()), DECIMALS),
        ),
        baselines={name: _quality(baseline, anomalous) for name, baseline in baselines.items()},
        leaks=_leaks(set(split.train), masked_test, anomalous),
        worst_misses=worst(np.argsort(scores, kind="stable"), anomalous),
        worst_false_alarms=worst(np.argsort(-scores, kind="stable"), ~anomalous),
        seconds=round(time.monotonic() - started, 2),
    )


def _split(
    loaded: LoadedModel, body: EvaluateCreate, originals: Sequence[str], labels: Flags, check: Check
) -> _Split:
    """Calibrate on, and fit baselines to, the normal ones among the training lines; test on the rest."""
    order = np.arange(len(originals))
    if body.split == "random":
        order = np.random.default_rng(0).permutation(order)
    cut = round(body.train_fraction * len(order))
    train = [originals[i] for i in sorted(order[:cut]) if not labels[i]]
    builder = CalibrationBuilder()
    for at in range(0, len(train), _BATCH):
        scored = loaded.scorer.read(train[at : at + _BATCH], precision="fast", check=check)
        builder.add([line.surprisal for line in scored])
    source = f"{len(train)} of the lines in the request"
    stored = StoredCalibration("split", builder.build(), int(time.time()), source)
    name: Literal["random", "chronological"] = "random" if body.split == "random" else "chronological"
    return _Split(name, np.sort(order[cut:]), _mask(loaded, train), stored)


def _mask(loaded: LoadedModel, lines: Sequence[str]) -> list[str]:
    return [loaded.masks.mask(line).text for line in lines]


def _training_lines(
    loaded: LoadedModel, corpora: Corpora, check: Check, may_read: Callable[[str], bool], scratch: Path
) -> list[str] | None:
    """Return the last lines of the model's training text, masked; None if the corpus is deleted."""
    card = loaded.saved.card
    if card.corpus is None or not may_read(card.corpus):
        return None
    held_out = card.training.validation_fraction
    try:
        corpus = corpora.get(card.corpus)
        pieces = _checked(corpora.pieces(corpus.id, card.alphabet), check)
        if card.kind != "records":
            characters = corpus.bytes if card.alphabet == "bytes" else corpus.characters
            trained = characters - max(1, round(characters * held_out))
            return _mask(loaded, _end_of(pieces, trained).split("\n"))
        masks = loaded.masks.masks
        with ShuffledLines(
            masks.apply_to_pieces(pieces) if masks else pieces,
            size_bytes=corpus.bytes,
            validation_fraction=held_out,
            seed=card.training.seed,
            scratch=scratch,
        ) as lines:
            return _end_of(_checked(lines.pieces(), check), lines.trained).split("\n")
    except NotFound:
        return None


def _checked(pieces: Iterable[str], check: Check) -> Iterator[str]:
    for piece in pieces:
        check()
        yield piece


def _end_of(pieces: Iterable[str], trained: int) -> str:
    """Return the last characters of the first `trained` characters of a text."""
    start, position, kept = max(0, trained - _MAX_TRAINING_CHARACTERS), 0, []
    for piece in pieces:
        if position >= trained:
            break
        kept.append(piece[max(0, start - position) : trained - position])
        position += len(piece)
    return "".join(kept)


def _scores(
    scorer: CalibratedScorer, originals: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores and p-values, each (n,), of n lines, which are read some at a time."""
    assert scorer.calibration is not None
    scores, p_values = [], []
    for at in range(0, len(originals), _BATCH):
        surprisals = [line.surprisal for line in scorer.read(originals[at : at + _BATCH])]
        batch_scores, batch_p_values = scorer.calibration.calibration.score(surprisals)
        scores.append(batch_scores)
        p_values.append(batch_p_values)
    return np.concatenate(scores), np.concatenate(p_values)


def _quality(scores: NDArray[np.float64], anomalous: Flags) -> QualityBody:
    quality = detection_quality(scores, anomalous)
    return QualityBody(
        auroc=round(quality.auroc, 6),
        average_precision=round(quality.average_precision, 6),
        recall_at_false_alarms={
            f"{rate:g}": round(recall, 6) for rate, recall in zip(FALSE_ALARMS, quality.recall, strict=True)
        },
        roc=roc(scores, anomalous),
    )


def _leaks(train: set[str], test: Sequence[str], anomalous: Flags) -> LeaksBody:
    in_train = np.array([line in train for line in test])
    return LeaksBody(
        normal=int((in_train & ~anomalous).sum()),
        anomalous=int((in_train & anomalous).sum()),
        distinct=len({line for line in test if line in train}),
    )


def _judged_lines(scorer: CalibratedScorer, originals: Mapping[int, str]) -> list[JudgedLine]:
    """Return the full scores of lines, by their index in the request."""
    scores = scorer.scores(scorer.read(list(originals.values())))
    to_text = scorer.loaded.vocabulary.to_text
    return [
        JudgedLine(index=index, text=to_text(original), **score.model_dump())
        for (index, original), score in zip(originals.items(), scores, strict=True)
    ]
