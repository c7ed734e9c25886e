"""/v1/models/{model}/score: how surprised a model is by a text."""

from functools import partial

import anyio
import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray

from app.deps import PartsDep
from app.engines import Engines
from app.errors import refusals
from app.schemas.scores import LineScore, ScoreBody, ScoreCreate
from models.vocabulary import normalize

router = APIRouter(prefix="/v1/models", tags=["inference"])

_DECIMALS = 4  # of bits in the answer; float32 logits do not carry more


@router.post("/{model}/score", responses=refusals(400, 404, 413, 415, 422, 429, 503))
async def score(parts: PartsDep, model: str, body: ScoreCreate) -> ScoreBody:
    """Get the surprisal in bits of each character of a text, or of lines each by itself."""
    return await anyio.to_thread.run_sync(
        partial(_score, parts.engines, model, body), limiter=parts.engine_threads
    )


def _score(engines: Engines, model: str, body: ScoreCreate) -> ScoreBody:
    texts = [normalize(text) for text in ([body.text] if body.text is not None else body.lines or [])]
    with engines.use(model) as loaded:
        bits = loaded.engine.score_lines(texts) if body.text is None else [loaded.engine.score(texts[0])]
    keep = body.detail == "character"
    everything = _line(np.concatenate(bits), keep=False)
    return ScoreBody(
        model=loaded.reference,
        characters=everything.characters,
        total_bits=everything.total_bits,
        bits_per_character=everything.bits_per_character,
        bits=_rounded(bits[0]) if keep and body.text is not None else None,
        lines=[_line(one, keep=keep) for one in bits] if body.lines is not None else None,
        unknown_characters=sorted(set().union(*map(loaded.vocabulary.unknown, texts))),
    )


def _line(bits: NDArray[np.float64], *, keep: bool) -> LineScore:
    total = float(bits.sum())
    return LineScore(
        characters=bits.size,
        total_bits=round(total, _DECIMALS),
        bits_per_character=round(total / bits.size, _DECIMALS) if bits.size else 0.0,
        bits=_rounded(bits) if keep else None,
    )


def _rounded(bits: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in np.round(bits, _DECIMALS)]
