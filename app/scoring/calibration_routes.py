"""/v1/models/{model}/calibrate, /calibrations and /evaluate: calibrations and the evaluation of scores."""

from collections.abc import Iterable
from functools import partial

from fastapi import APIRouter, Request

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import Access, AccessDep
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.dependencies import cancel_on_disconnect
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.schemas import Page
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.threads import Check
from nextchar.app.models.engines import Engines
from nextchar.app.scoring.calibration_schemas import (
    CalibrateCreate,
    CalibrationBody,
    EvaluateCreate,
    EvaluationBody,
    calibration_body,
)
from nextchar.app.scoring.earlier_lines import EarlierLines
from nextchar.app.scoring.evaluation import evaluate, reads_training_text
from nextchar.app.scoring.work import ScoringWork
from nextchar.models.anomaly.calibration_builder import calibrate_model
from nextchar.models.errors import InvalidInput
from nextchar.models.text.lines import LineParser, lines_of

router = APIRouter(prefix="/v1/models", tags=["inference"], route_class=DocumentRoute)


@router.post(
    "/{model}/calibrate",
    status_code=201,
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 503, 507),
)
@needs("train")
async def make_calibration(
    services: ServicesDep, access: AccessDep, request: Request, model: str, body: CalibrateCreate
) -> CalibrationBody:
    """Make a calibration from normal lines; one of the same name is replaced.

    This takes up to some minutes. Few run at a time; if too many are waiting, the response is 429.
    """
    made = await cancel_on_disconnect(
        request, services[ScoringWork].calibrating.run(partial(_make, services, access, model, body))
    )
    set_audit_details(request, about=f"/v1/models/{model}/calibrations/{made.name}")
    return made


@router.get("/{model}/calibrations", responses=error_responses(404, 422, 503))
@needs("read")
def list_calibrations(services: ServicesDep, model: str) -> Page[CalibrationBody]:
    """List a model's calibrations by name."""
    found = services.calibrations.all(services.models.get(model))
    return Page(data=list(map(calibration_body, found)), has_more=False)


@router.get("/{model}/calibrations/{name}", responses=error_responses(404, 422, 503))
@needs("read")
def get_calibration(services: ServicesDep, model: str, name: str) -> CalibrationBody:
    """Get a calibration."""
    found = services.calibrations.find(services.models.get(model), name)
    assert found is not None, "a name was given"
    return calibration_body(found)


@router.delete("/{model}/calibrations/{name}", status_code=204, responses=error_responses(404, 409, 422, 503))
@needs("train")
def delete_calibration(services: ServicesDep, model: str, name: str) -> None:
    """Delete a calibration; the one made with the model cannot be deleted."""
    services.calibrations.delete(services.models.get(model), name)


@router.post("/{model}/evaluate", responses=error_responses(400, 404, 413, 415, 422, 429, 503))
@needs("complete")
async def evaluate_model(
    services: ServicesDep, access: AccessDep, request: Request, model: str, body: EvaluateCreate
) -> EvaluationBody:
    """Evaluate the model's scores on labeled lines, compared with simple baselines."""
    if reads_training_text(body):
        access.check_scope(
            "read",
            "train",
            why="this split compares the lines with the model's training text; use the split chronological or"
            " random to use only the lines sent",
        )
    if body.alert_labels:
        access.check_scope("read", "train", why="it uses the lines of alerts")
    work = partial(_evaluate, services, access, model, body)
    return await cancel_on_disconnect(request, services[ScoringWork].evaluating.run(work))


def _make(
    services: Services, access: Access, model: str, body: CalibrateCreate, check: Check
) -> CalibrationBody:
    with services[Engines].use(model) as loaded:
        if body.corpus is not None:
            corpus = access.get_corpus(body.corpus)
            lines: Iterable[str] = lines_of(services.corpora.pieces(corpus.id, loaded.vocabulary.alphabet))
            characters, source = corpus.characters, f"corpus {corpus.id}"
        elif body.ingested:
            parser = LineParser(loaded.vocabulary, is_json=False)
            lines = list(map(parser.text_of, services[EarlierLines].recent(model)))  # as they were scored
            characters, source = sum(map(len, lines)), "ingested lines"
        else:
            given = body.lines or []
            lines = map(loaded.vocabulary.to_characters, given)
            characters, source = sum(map(len, given)), "lines in the request"
        made = calibrate_model(loaded, lines, characters=characters, buckets=body.buckets, check=check)
        if body.false_alarms:
            made.thresholds(body.false_alarms)  # raises InvalidInput if there are too few lines
        check()  # nothing is replaced once the client has disconnected
        saved = services.calibrations.save(loaded.saved, body.name, made, source=source)
        services[EarlierLines].calibrated(model, loaded.saved.card.id, saved.name, on_recent=body.ingested)
        return calibration_body(saved)


def _with_alerts(services: Services, access: Access, name: str, body: EvaluateCreate) -> EvaluateCreate:
    """Return the request with the lines of labeled alerts. Raises InvalidInput: there are none."""
    access.check_model(name)
    labeled = services[EarlierLines].labeled_lines(name)
    if not labeled:
        raise InvalidInput(
            f"no alert of model {name} has a label; label some with POST …/alerts/{{alert}}/label",
            code="no_labels",
            param="alert_labels",
        )
    return body.model_copy(
        update={
            "lines": [*body.lines, *(line for line, _ in labeled)],
            "anomalous": [*body.anomalous, *(is_incident for _, is_incident in labeled)],
        }
    )


def _evaluate(
    services: Services, access: Access, model: str, body: EvaluateCreate, check: Check
) -> EvaluationBody:
    with services[Engines].use(model) as loaded:
        if body.alert_labels:
            body = _with_alerts(services, access, loaded.saved.card.name, body)
        return evaluate(
            loaded,
            body,
            check,
            calibrations=services.calibrations,
            corpora=services.corpora,
            may_read=access.has_corpus,
            scratch=services.settings.data_dir / "spool",
        )
