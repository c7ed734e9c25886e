"""/v1/models/{model}/score: the surprisal of a text or of lines, and which lines are anomalous.

A body of JSON gets one response. A body of newline-delimited text or JSON is a stream of lines of any
length, and so is the response: see `nextchar.app.scoring.line_streams`.

/v1/models/{model}/calibrate, /calibrations and /evaluate: calibrations and the evaluation of scores.
"""

import json
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import Access, AccessDep
from nextchar.app.completions.requests import MAX_LOGPROBS
from nextchar.app.core_settings import CoreSettings
from nextchar.app.http.bodies import DocumentRoute, RouteOfTypes
from nextchar.app.http.errors import error_responses
from nextchar.app.http.limits import CALIBRATIONS, EVALUATIONS, LOCKING, LONG_SCORES, SHORT_SCORES
from nextchar.app.http.rules import MAX_JSON_BYTES, Body, needs
from nextchar.app.http.schemas import Page
from nextchar.app.http.services import Services, ServicesDep, cancel_on_disconnect
from nextchar.app.http.threads import Check
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.room import Room
from nextchar.app.scoring.calibration_schemas import (
    CalibrateCreate,
    CalibrationBody,
    EvaluateCreate,
    EvaluationBody,
    calibration_body,
)
from nextchar.app.scoring.earlier_lines import EarlierLines
from nextchar.app.scoring.evaluation import evaluate, reads_training_text
from nextchar.app.scoring.line_streams import (
    LINE_TYPES,
    ScoreStreamResponse,
    hold_stream,
    is_streamed,
    resume,
    save_stream,
    stream_owner,
)
from nextchar.app.scoring.schemas import EXAMPLE_STREAM, ScoreBody, ScoreCreate, StreamQuery
from nextchar.app.scoring.scored_lines import ScoredLines
from nextchar.app.scoring.streams import Limits, StreamLock, StreamLocks, Streams
from nextchar.models.anomaly.calibrated_scorer import DECIMALS, CalibratedScorer, Judged
from nextchar.models.anomaly.calibration_builder import calibrate_model
from nextchar.models.anomaly.line_scores import LineScore, ScoreOptions
from nextchar.models.anomaly.scorer import LineReading
from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.session import no_check
from nextchar.models.text.lines import LineParser, lines_of

router = APIRouter(prefix="/v1/models", tags=["inference"], route_class=DocumentRoute)

_LINES = Body(MAX_JSON_BYTES, is_endless=is_streamed)

_MAX_SHORT_CHARACTERS = 2_000
"""Requests of up to this many characters, read side by side, do not wait for longer ones."""

_NUMBERS_PER_PIECE = 10_000

_STREAMED: dict[str, Any] = {
    "requestBody": {
        "description": "JSON; or lines, as `text/plain` or `application/x-ndjson` (each a string, or an"
        " object with `line` and an `id` that is returned). For lines the fields are query parameters and"
        " the response is `application/x-ndjson`: a `score.start`, a `score.line` for each line, a"
        " `score.end`. Lines are scored while more are sent: read while you write.",
        "content": {content_type: {"schema": {"type": "string"}} for content_type in LINE_TYPES},
    },
    "x-answer-to-lines": EXAMPLE_STREAM,
}


_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {LINE_TYPES[1]: {"schema": {"type": "string"}}}}
}


class _StreamedRoute(RouteOfTypes):
    content_types = LINE_TYPES


@router.post(
    "/{model}/score",
    response_model=ScoreBody,
    responses=_RESPONSE | error_responses(400, 404, 409, 413, 415, 422, 429, 503),
    openapi_extra=_STREAMED,
)
@needs("complete", body=_LINES)
async def score(services: ServicesDep, request: Request, model: str, body: ScoreCreate) -> Response:
    """Get the surprisal in bits of each character of a text or of lines, and which lines are anomalous."""
    loaded = await services[Engines].acquire_async(model)
    try:
        if _is_short(body) and not body.stream_id:
            short = partial(_score, services, loaded, body)
            content = await anyio.to_thread.run_sync(short, limiter=services.pools.limiter(SHORT_SCORES))
        else:
            content = await cancel_on_disconnect(request, _score_long(services, request, loaded, body))
    finally:
        services[Engines].release(loaded)
    return Response(content, media_type="application/json")


@needs("complete", body=_LINES)
async def score_stream(
    services: ServicesDep, model: str, request: Request, query: Annotated[StreamQuery, Query()]
) -> Response:
    """Score lines as they arrive."""
    response = ScoreStreamResponse(services, model, query, request)
    await response.open()
    return response


# Matched before the route above, which takes the other requests.
router.routes.insert(
    0,
    _StreamedRoute(
        "/v1/models/{model}/score",
        score_stream,
        methods=["POST"],
        name="score",  # the same operation
        include_in_schema=False,
        response_model=None,
    ),
)


@router.delete("/{model}/streams/{stream_id:path}", status_code=204, responses=error_responses(404, 422, 503))
@needs("complete")
def forget_stream(services: ServicesDep, request: Request, model: str, stream_id: str) -> None:
    """Delete the stored position of a stream; its next call starts from the beginning."""
    services[Streams].forget(model, stream_id, owner=stream_owner(request))


def _is_short(body: ScoreCreate) -> bool:
    """Return whether a request takes at most some tens of milliseconds."""
    characters = len(body.text or "") + sum(map(len, body.lines or ()))
    # Lines of a stream are read one after the other, ten times slower than side by side.
    return characters * (10 if body.context == "stream" else 1 + body.expected) <= _MAX_SHORT_CHARACTERS


async def _score_long(services: Services, request: Request, loaded: Loaded, body: ScoreCreate) -> bytes:
    """Score a long request, or one in a stored stream once it has the stream's lock."""
    work = partial(_score, services, loaded, body)
    if not body.stream_id:
        return await services.pools.queue(LONG_SCORES).run(lambda check: work(check=check))
    async with hold_stream(services, loaded, body.stream_id, stream_owner(request)) as turn:
        if _is_short(body):
            return await anyio.to_thread.run_sync(
                partial(work, turn=turn), limiter=services.pools.limiter(SHORT_SCORES)
            )
        return await services.pools.queue(LONG_SCORES).run(lambda check: work(turn=turn, check=check))


def _score(
    services: Services,
    loaded: Loaded,
    body: ScoreCreate,
    *,
    check: Check = no_check,
    turn: StreamLock | None = None,
) -> bytes:
    """Return the response as JSON. The request may end before this thread, so it retains the model itself."""
    with services[Engines].use_again(loaded):
        calibration = services.calibrations.find(loaded.saved, body.calibration)
        scorer = CalibratedScorer(
            loaded,
            calibration,
            ScoreOptions(
                body.detail, body.expected, body.false_alarms, explain=body.explain, repeats=body.repeats
            ),
            check,
            partial(services[EarlierLines].labels, loaded.saved.card.name),
        )
        if body.text is not None:
            return _score_text(scorer, body.text)
        return _score_lines(services, scorer, body, turn)


def _score_lines(
    services: Services, scorer: CalibratedScorer, body: ScoreCreate, turn: StreamLock | None
) -> bytes:
    originals = [scorer.loaded.vocabulary.to_characters(line) for line in body.lines or []]
    if body.join:
        originals = list(scorer.loaded.scorer.events(originals))
    check_expected(originals, scorer.options.expected)
    state = resume(scorer, turn) if turn else None
    if body.context == "line":
        lines = scorer.read(originals)
    else:
        lines, state = scorer.read_stream(originals, state)
    written: list[str] = []
    rare: list[Judged] = []
    now = time.time()
    for line, score in zip(lines, scorer.scores(lines), strict=True):
        judged = scorer.judge(score, line, now=now)
        if judged.key:
            rare.append(judged)
        written.append(_line_json(scorer, line, judged.score))
    stream = save_stream(scorer, turn, state, lines=len(lines)) if turn else None
    services[ScoredLines].add(scorer.loaded.saved.card.name, len(lines))
    if body.alerts:
        services[EarlierLines].record_rare(scorer, rare, source=body.source)
    response = _body(scorer, lines, stream=stream, change=scorer.change)
    return _with_large_fields(response, {"lines": ["[", ",".join(written), "]"]})


def _score_text(scorer: CalibratedScorer, text: str) -> bytes:
    original = scorer.loaded.vocabulary.to_characters(text)
    check_expected([original], scorer.options.expected)
    [line] = scorer.read([original])
    score = scorer.text_score(line)
    large: dict[str, list[str]] = {}
    if scorer.options.detail == "character":
        large["bits"] = _numbers_json(scorer.bits(line))
    if scorer.options.expected:
        large["expected"] = [scorer.expected_json(line)]
    fields = ("score", "p_value", "anomalous", "spans", "explained", "alert_id", "label")
    response = _body(scorer, [line], **{name: getattr(score, name) for name in fields})
    return _with_large_fields(response, large)


def check_expected(lines: Iterable[str], expected: int) -> None:
    """Raise InvalidInput if the expected characters of these lines would make too large a response."""
    characters = sum(map(len, lines))
    probabilities = characters * (1 + expected)
    if expected and probabilities > MAX_LOGPROBS:
        raise InvalidInput(
            f"expected asks for {1 + expected} probabilities at each of {characters:,} characters,"
            f" {probabilities:,} in all; one response has at most {MAX_LOGPROBS:,}: send at most"
            f" {MAX_LOGPROBS // (1 + expected):,} characters in one call, or reduce expected",
            code="answer_too_large",
            param="expected",
        )


def _line_json(scorer: CalibratedScorer, line: LineReading, score: LineScore) -> str:
    if not scorer.options.expected:
        return score.model_dump_json()
    head = score.model_dump_json(exclude={"expected"})
    return f'{head[:-1]},"expected":{scorer.expected_json(line)}}}'


def _with_large_fields(response: ScoreBody, large: dict[str, list[str]]) -> bytes:
    """Return a response as JSON, with fields that are given as pieces of JSON.

    The interpreter writes one object without interruption, which would block the event loop.
    """
    pieces = [response.model_dump_json(exclude=set(large))[:-1]]
    for name, values in large.items():
        pieces += [f',"{name}":', *values]
    return "".join([*pieces, "}"]).encode("utf-8", "surrogatepass")


def _numbers_json(numbers: Sequence[float]) -> list[str]:
    """Return pieces of a JSON list."""
    parts = (numbers[at : at + _NUMBERS_PER_PIECE] for at in range(0, len(numbers), _NUMBERS_PER_PIECE))
    return ["[", ",".join(json.dumps(part)[1:-1] for part in parts), "]"]


def _body(scorer: CalibratedScorer, lines: list[LineReading], **fields: Any) -> ScoreBody:
    characters = sum(len(line.original) for line in lines)
    total = sum(float(line.surprisal.bits.sum(dtype="float64")) for line in lines)
    vocabulary = scorer.loaded.vocabulary
    unknown = sorted(set().union(*(vocabulary.unknown(line.masked.text) for line in lines)))
    return ScoreBody(
        model=scorer.loaded.reference,
        characters=characters,
        total_bits=round(total, DECIMALS),
        bits_per_character=round(total / max(1, characters), DECIMALS),
        false_alarms=scorer.rate,
        threshold=scorer.threshold,
        calibration=calibration_body(scorer.calibration) if scorer.calibration else None,
        unknown_characters=list(map(vocabulary.label, unknown)),
        **fields,
    )


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
        request, services.pools.queue(CALIBRATIONS).run(partial(_make, services, access, model, body))
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
    return await cancel_on_disconnect(request, services.pools.queue(EVALUATIONS).run(work))


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
        services[EarlierLines].calibrated(model, on_recent=body.ingested)
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


_KEYS_SHARE_OF_STREAMS = 0.25  # of the kept streams of lines, for each API key


class ScoringSettings(CoreSettings):
    """A part of `nextchar.app.rooms.ApiSettings`."""

    max_streams: int = Field(10_000, ge=1)
    """Streams of lines (`stream_id`) whose state is kept; above it the least recently used start again. With
    API keys each key may have a quarter."""
    max_stream_bytes: int = Field(64 << 20, ge=1 << 20, description="Redis memory for the states of streams.")


def _open(services: Services) -> None:
    settings = services.settings_of(ScoringSettings)
    share = _KEYS_SHARE_OF_STREAMS if settings.api_keys_file else 1.0
    limits = Limits(settings.max_streams, settings.max_stream_bytes, share)
    streams = services.add(Streams(services.redis, limits))
    services.add(StreamLocks(streams, services.pools.limiter(LOCKING)))
    services.add(EarlierLines())
    services.add(ScoredLines(services.redis))


SCORING = Room("scoring", _open, (router,), ScoringSettings, is_called_at_keystrokes=True)
