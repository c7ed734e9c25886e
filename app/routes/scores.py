"""/v1/models/{model}/score: how surprised a model is by a text or by lines, and whether they are odd.

A body of JSON is answered as a whole. A body of newline-delimited text or JSON is a stream of lines of any
length, and the answer is one too: see `app.services.score_stream`.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request, Response

from app.http.auth import stream_owner
from app.http.bodies import DocumentRoute
from app.http.dependencies import Services, ServicesDep
from app.http.disconnects import cancel_on_disconnect
from app.http.errors import error_responses
from app.schemas.scores import (
    EXAMPLE_STREAM,
    LineScore,
    ScoreBody,
    ScoreCreate,
    StreamQuery,
)
from app.services.engines import Loaded
from app.services.limited_work import Check
from app.services.score_stream import STREAMED, ScoreStream, is_streamed
from app.services.scoring import DECIMALS, Line, Options, Scorer, Where, calibration_body, is_unusual
from models.anomaly.drift import drift
from store.streams import StreamLock

router = APIRouter(prefix="/v1/models", tags=["inference"])

_SHORT_WORK = 2_000
"""Up to so many characters, read side by side, a request does not wait for the long ones."""

_NUMBERS_AT_A_TIME = 10_000

_STREAMED: dict[str, Any] = {
    "requestBody": {
        "description": "As JSON; or lines, `text/plain` or `application/x-ndjson` (each a string, or an"
        " object with `line` and an `id` that comes back), in which case the fields are query parameters and"
        " the answer is `application/x-ndjson`: a `score.start`, a `score.line` each, a `score.end`. Lines"
        " are answered while more are sent, so read while you write.",
        "content": {kind: {"schema": {"type": "string"}} for kind in STREAMED},
    },
    "x-answer-to-lines": EXAMPLE_STREAM,
}


class _StreamedRoute(DocumentRoute):
    """A route that is there only for requests that stream lines."""

    def matches(self, scope: Any) -> Any:
        """Match as usual, if the body is declared as lines."""
        match, child = super().matches(scope)
        return (match, child) if is_streamed(scope) else (type(match).NONE, {})


@router.post(
    "/{model}/score",
    response_model=ScoreBody,
    responses=error_responses(400, 404, 409, 413, 415, 422, 429, 503),
    openapi_extra=_STREAMED,
)
async def score(services: ServicesDep, request: Request, model: str, body: ScoreCreate) -> Response:
    """Get the surprisal in bits of each character of a text, or of lines, and whether they are odd."""
    loaded = await services.engines.take_async(model)
    try:
        if _is_short(body) and not body.stream_id:
            short = partial(_score, services, loaded, body)
            content = await anyio.to_thread.run_sync(short, limiter=services.score_threads)
        else:
            content = await cancel_on_disconnect(request, _score_in_turn(services, request, loaded, body))
    finally:
        services.engines.give_back(loaded)
    return Response(content, media_type="application/json")


async def score_stream(
    services: ServicesDep, model: str, request: Request, query: Annotated[StreamQuery, Query()]
) -> Response:
    """Score lines as they come."""
    stream = ScoreStream(services, model, query, request)
    await stream.open()
    return stream


# Before the route above, which takes what this one leaves.
router.routes.insert(
    0,
    _StreamedRoute(
        "/v1/models/{model}/score",
        score_stream,
        methods=["POST"],
        include_in_schema=False,
        response_model=None,
    ),
)


@router.delete("/{model}/streams/{stream_id:path}", status_code=204, responses=error_responses(404, 422, 503))
def forget_stream(services: ServicesDep, request: Request, model: str, stream_id: str) -> None:
    """Forget what a model remembers of a stream; its next call begins anew."""
    services.streams.forget(model, stream_id, owner=stream_owner(request))


def _is_short(body: ScoreCreate) -> bool:
    """Return whether a request takes some tens of milliseconds."""
    characters = len(body.text or "") + sum(map(len, body.lines or ()))
    # Lines of a stream are read one behind the other, which is ten times slower than side by side.
    return characters * (10 if body.context == "stream" else 1 + body.expected) <= _SHORT_WORK


async def _score_in_turn(services: Services, request: Request, loaded: Loaded, body: ScoreCreate) -> bytes:
    """Score a long request; or one in a stream that is kept, once it is its turn."""
    work = partial(_score_in_thread, services, loaded, body)
    if not body.stream_id:
        return await services.long_scores.run(lambda check: work(check=check))
    size = loaded.engine.state_size
    owner = stream_owner(request)
    async with services.stream_turns.turn(loaded.reference, body.stream_id, size=size, owner=owner) as turn:
        if _is_short(body):
            return await anyio.to_thread.run_sync(partial(work, turn=turn), limiter=services.score_threads)
        return await services.long_scores.run(lambda check: work(turn=turn, check=check))


def _score_in_thread(
    services: Services,
    loaded: Loaded,
    body: ScoreCreate,
    *,
    check: Check = lambda: None,
    turn: StreamLock | None = None,
) -> bytes:
    """Score with a hold of this thread's own: the request may end before it does."""
    held = services.engines.hold_again(loaded)
    try:
        return _score(services, held, body, check=check, turn=turn)
    finally:
        services.engines.give_back(held)


def _score(
    services: Services,
    loaded: Loaded,
    body: ScoreCreate,
    *,
    check: Check = lambda: None,
    turn: StreamLock | None = None,
) -> bytes:
    """Return the answer as JSON."""
    options = Options(body.detail, body.expected, body.false_alarms, adapt=body.adapt, explain=body.explain)
    scorer = Scorer(loaded, services.calibrations.find(loaded.saved, body.calibration), options, check)
    if body.text is not None:
        return _score_text(scorer, body.text)
    originals = [loaded.vocabulary.to_characters(line) for line in body.lines or []]
    scorer.check_expected(originals)
    stream = None
    if turn is not None:
        lines, stream = scorer.read_in_turn(turn, originals)
    elif body.context == "line":
        lines = scorer.read(originals)
    else:
        lines, _ = scorer.read_on(originals, Where())
    written: list[str] = []
    unusual = 0
    for line, told in zip(lines, scorer.described(lines), strict=True):
        unusual += is_unusual(told)
        written.append(_line_json(scorer, line, told))
    answer = _body(scorer, lines, stream=stream, drift=drift(len(lines), unusual))
    return _with_large(answer, {"lines": ["[", ",".join(written), "]"]})


def _score_text(scorer: Scorer, text: str) -> bytes:
    original = scorer.loaded.vocabulary.to_characters(text)
    scorer.check_expected([original])
    [line] = scorer.read([original])
    told = scorer.describe_text(line)
    large: dict[str, list[str]] = {}
    if scorer.options.detail == "character":
        large["bits"] = _numbers_json(scorer.bits(line))
    if scorer.options.expected:
        large["expected"] = [scorer.expected_json(line)]
    answer = _body(
        scorer,
        [line],
        score=told.score,
        p_value=told.p_value,
        anomalous=told.anomalous,
        spans=told.spans,
        explained=told.explained,
    )
    return _with_large(answer, large)


def _line_json(scorer: Scorer, line: Line, told: LineScore) -> str:
    if not scorer.options.expected:
        return told.model_dump_json()
    head = told.model_dump_json(exclude={"expected"})
    return f'{head[:-1]},"expected":{scorer.expected_json(line)}}}'


def _with_large(answer: ScoreBody, large: dict[str, list[str]]) -> bytes:
    """Return an answer as JSON with some fields, which are too large to be made as a whole, in their place.

    The interpreter writes one object without a pause, and the event loop stands still meanwhile.
    """
    pieces = [answer.model_dump_json(exclude=set(large))[:-1]]
    for name, values in large.items():
        pieces += [f',"{name}":', *values]
    return "".join([*pieces, "}"]).encode("utf-8", "surrogatepass")


def _numbers_json(numbers: Sequence[float]) -> list[str]:
    """Return pieces of a JSON list."""
    parts = (numbers[at : at + _NUMBERS_AT_A_TIME] for at in range(0, len(numbers), _NUMBERS_AT_A_TIME))
    return ["[", ",".join(json.dumps(part)[1:-1] for part in parts), "]"]


def _body(scorer: Scorer, read: list[Line], **told: Any) -> ScoreBody:
    characters = sum(len(line.original) for line in read)
    total = sum(float(line.reading.bits.sum(dtype="float64")) for line in read)
    vocabulary = scorer.loaded.vocabulary
    unknown = sorted(set().union(*(vocabulary.unknown(line.masked.text) for line in read)))
    return ScoreBody(
        model=scorer.loaded.reference,
        characters=characters,
        total_bits=round(total, DECIMALS),
        bits_per_character=round(total / max(1, characters), DECIMALS),
        false_alarms=scorer.rate,
        threshold=scorer.threshold,
        calibration=calibration_body(scorer.calibration) if scorer.calibration else None,
        unknown_characters=list(map(vocabulary.label, unknown)),
        **told,
    )
