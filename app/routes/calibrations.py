"""/v1/models/{model}/calibrate, /calibrations and /evaluate: what is normal, and how odd lines are found."""

from collections.abc import Iterable, Iterator
from functools import partial

from fastapi import APIRouter, Request

from app.http.access import Reach, ReachDep
from app.http.auth import check_scope
from app.http.bodies import DocumentRoute
from app.http.dependencies import Services, ServicesDep
from app.http.disconnects import cancel_on_disconnect
from app.http.errors import error_responses
from app.schemas.lists import Page
from app.schemas.scores import CalibrateCreate, CalibrationBody, EvaluateCreate, EvaluationBody
from app.services.engines import Loaded
from app.services.evaluation import evaluate, reads_training_text
from app.services.limited_work import Check
from app.services.scoring import calibration_body
from models.anomaly.calibration import CalibrationLines
from models.anomaly.precision import higher
from models.errors import TooLarge
from models.runtime.scoring import LineSurprisal

router = APIRouter(prefix="/v1/models", tags=["inference"], route_class=DocumentRoute)

_MOST_CHARACTERS = 20_000_000  # of calibration lines: some minutes
_MOST_LINES = 2_000_000  # some hundred megabytes of figures
_LONGEST_LINE = 50_000  # characters; of a longer one so much is read, as when it is scored in a stream
_BATCH_CHARACTERS = 200_000  # read at a time
_MAX_CHARACTERS_IN_BOTH = 2_000_000  # of calibration lines that are read in float32 beside int8: a minute
_LINE_CHARACTERS = 20  # that a line counts for beside its own


@router.post(
    "/{model}/calibrate",
    status_code=201,
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 503, 507),
)
async def make_calibration(
    services: ServicesDep, reach: ReachDep, request: Request, model: str, body: CalibrateCreate
) -> CalibrationBody:
    """Compare with these normal lines from now on; a calibration of the same name is replaced.

    It takes up to some minutes. Few run at a time; where too many wait already, the answer is 429.
    """
    return await cancel_on_disconnect(
        request, services.calibrating.run(partial(_make, services, reach, model, body))
    )


@router.get("/{model}/calibrations", responses=error_responses(404, 422, 503))
def list_calibrations(services: ServicesDep, model: str) -> Page[CalibrationBody]:
    """List a model's calibrations by name."""
    found = services.calibrations.all(services.models.get(model))
    return Page(data=[calibration_body(named) for named in found], has_more=False)


@router.get("/{model}/calibrations/{name}", responses=error_responses(404, 422, 503))
def get_calibration(services: ServicesDep, model: str, name: str) -> CalibrationBody:
    """Get what is known of a calibration."""
    found = services.calibrations.find(services.models.get(model), name)
    assert found is not None, "a name was given"
    return calibration_body(found)


@router.delete("/{model}/calibrations/{name}", status_code=204, responses=error_responses(404, 409, 422, 503))
def delete_calibration(services: ServicesDep, model: str, name: str) -> None:
    """Delete a calibration; the one made with the model stays."""
    services.calibrations.delete(services.models.get(model), name)


@router.post("/{model}/evaluate", responses=error_responses(400, 404, 413, 415, 422, 429, 503))
async def evaluate_model(
    services: ServicesDep, reach: ReachDep, request: Request, model: str, body: EvaluateCreate
) -> EvaluationBody:
    """Judge the model's scores by labelled lines, beside simple scores of the same lines."""
    if reads_training_text(body):
        check_scope(
            request,
            "read",
            "train",
            why="with this split the lines are compared with the model's training text; give the split"
            " chronological or random to use only the lines sent",
        )
    judge = partial(evaluate, services, model, body, may_read=reach.has_corpus)
    return await cancel_on_disconnect(request, services.evaluating.run(judge))


def _make(
    services: Services, reach: Reach, model: str, body: CalibrateCreate, check: Check
) -> CalibrationBody:
    with services.engines.use(model) as loaded:
        if body.corpus is not None:
            corpus = reach.corpus(body.corpus)
            lines: Iterable[str] = _lines(services.corpora.pieces(corpus.id, loaded.vocabulary.alphabet))
            characters = corpus.characters
            source = f"corpus {corpus.id}"
        else:
            lines = map(loaded.vocabulary.to_characters, body.lines or [])
            characters = sum(map(len, body.lines or []))
            source = "lines given"
        if "\r" not in loaded.vocabulary.characters:  # as when they are scored in a stream
            lines = (line.removesuffix("\r") for line in lines)
        in_both = loaded.engine.has_fast and characters <= _MAX_CHARACTERS_IN_BOTH
        known = CalibrationLines()
        for batch in _batches(lines):
            check()
            known.add(_read(loaded, batch, check, in_both=in_both))
        made = known.calibration(buckets=body.buckets)
        if body.false_alarms:
            made.thresholds(body.false_alarms)  # or it is refused
        check()  # a client that has gone replaces nothing
        return calibration_body(services.calibrations.save(loaded.saved, body.name, made, source=source))


def _read(loaded: Loaded, lines: list[str], check: Check, *, in_both: bool) -> list[LineSurprisal]:
    masked = [loaded.masks.apply(line[:_LONGEST_LINE]).text for line in lines]
    readings = loaded.engine.read_lines(masked, fast=True, check=check)
    # JSON is scored in float32: a calibration of few enough lines holds for that, too.
    return higher(readings, loaded.engine.read_lines(masked, check=check)) if in_both else readings


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a text that comes in pieces, long ones cut; a last empty one is none."""
    held = ""
    for piece in pieces:
        first, *rest = piece.split("\n")
        held += first[: _LONGEST_LINE + 1 - len(held)]
        for line in rest:
            yield held
            held = line[: _LONGEST_LINE + 1]
    if held:
        yield held


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = total = 0
    for count, line in enumerate(lines, 1):
        batch.append(line)
        size += len(line) + _LINE_CHARACTERS
        total += len(line)
        if total > _MOST_CHARACTERS or count > _MOST_LINES:
            raise TooLarge(
                f"these are more than {_MOST_LINES:,} lines, or more than {_MOST_CHARACTERS:,} characters"
                " together; a sample will do",
                code="calibration_too_large",
            )
        if size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    yield batch
