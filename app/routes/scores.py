"""/v1/models/{model}/score: how surprised a model is by a text or by lines, and whether they are odd.

A body of JSON is answered as a whole. A body of newline-delimited text or JSON is a stream of lines of any
length, and the answer is one too: see `app.score_stream`.
"""

from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request, Response

from app.bodies import DocumentRoute
from app.deps import Parts, PartsDep
from app.errors import refusals
from app.schemas.scores import (
    EXAMPLE_STREAM,
    LineScore,
    ScoreBody,
    ScoreCreate,
    StreamQuery,
)
from app.score_stream import STREAMED, ScoreStream, is_streamed
from app.scoring import DECIMALS, Line, Options, Scorer, Where, calibration_body, is_unusual
from models.anomaly.drift import drift

router = APIRouter(prefix="/v1/models", tags=["inference"])

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
    "/{model}/score", responses=refusals(400, 404, 409, 413, 415, 422, 429, 503), openapi_extra=_STREAMED
)
async def score(parts: PartsDep, model: str, body: ScoreCreate) -> ScoreBody:
    """Get the surprisal in bits of each character of a text, or of lines, and whether they are odd."""
    return await anyio.to_thread.run_sync(partial(_score, parts, model, body), limiter=parts.engine_threads)


async def score_stream(
    parts: PartsDep, model: str, request: Request, query: Annotated[StreamQuery, Query()]
) -> Response:
    """Score lines as they come."""
    stream = ScoreStream(parts, model, query, request)
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


@router.delete("/{model}/streams/{stream_id:path}", status_code=204, responses=refusals(404, 422, 503))
def forget_stream(parts: PartsDep, model: str, stream_id: str) -> None:
    """Forget what a model remembers of a stream; its next call begins anew."""
    parts.streams.forget(model, stream_id)


def _score(parts: Parts, model: str, body: ScoreCreate) -> ScoreBody:
    with parts.engines.use(model) as loaded:
        options = Options(body.detail, body.expected, body.false_alarms, adapt=body.adapt)
        scorer = Scorer(loaded, parts.calibrations.find(loaded.saved, body.calibration), options)
        if body.text is not None:
            return _score_text(scorer, body.text)
        originals = [loaded.vocabulary.to_characters(line) for line in body.lines or []]
        stream = None
        if body.context == "line":
            lines = scorer.read(originals)
        elif body.stream_id is None:
            lines, _ = scorer.read_on(originals, Where())
        else:
            lines, stream = scorer.read_in_stream(parts.streams, originals, body.stream_id)
        told = scorer.describe(lines)
        return _body(
            scorer, lines, lines=told, stream=stream, drift=drift(len(told), sum(map(is_unusual, told)))
        )


def _score_text(scorer: Scorer, text: str) -> ScoreBody:
    line = scorer.read([scorer.loaded.vocabulary.to_characters(text)])[0]
    # Calibrations are of lines: a longer text has odd places, but is not odd or normal as a whole.
    judged = scorer.describe([line])[0] if "\n" not in line.original else LineScore(characters=0)
    detail, expected = scorer.options.detail, scorer.options.expected
    return _body(
        scorer,
        [line],
        score=judged.score,
        p_value=judged.p_value,
        anomalous=judged.anomalous,
        spans=scorer.spans(line) if detail != "none" else None,
        bits=scorer.bits(line) if detail == "character" else None,
        expected=scorer.expected(line) if expected else None,
    )


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
