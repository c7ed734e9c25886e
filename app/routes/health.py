"""/healthz, /readyz, /metrics: for the machines that look after this one."""

import logging
from typing import Any, Literal

from fastapi import APIRouter, Response
from redis.exceptions import RedisError

from app.deps import Parts, PartsDep
from app.errors import refusals
from app.metrics import CONTENT_TYPE
from app.schemas.health import Alive, Readiness
from models.errors import DomainError

log = logging.getLogger("nextchar.api")

router = APIRouter(tags=["operations"])

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "model": Readiness,
        "description": "`down` names what does not answer.",
        "content": {"application/json": {"example": {"status": "not_ready", "down": ["redis"]}}},
    },
}
_EXPOSITION: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": "nextchar_redis_up 1.0\n",
            }
        },
    },
}


@router.get("/healthz", responses=refusals())
async def healthz() -> Alive:
    """Say that the process lives; nothing else is looked at."""
    return Alive()


@router.get("/readyz", responses=refusals() | _NOT_READY)
def readyz(parts: PartsDep, response: Response) -> Readiness:
    """Say whether Redis and the storage answer."""
    down = _down(parts)
    if down:
        response.status_code = 503
    return Readiness(status="not_ready" if down else "ready", down=down)


@router.get("/metrics", response_class=Response, responses=_EXPOSITION | refusals(503))
def metrics(parts: PartsDep) -> Response:
    """Get the metrics for Prometheus."""
    return Response(parts.metrics.exposition(), media_type=CONTENT_TYPE)


def _down(parts: Parts) -> list[Literal["redis", "storage"]]:
    down: list[Literal["redis", "storage"]] = []
    try:
        parts.redis.ping()
    except (RedisError, OSError) as error:
        log.warning("not ready: Redis: %s", error)
        down.append("redis")
    try:
        parts.blobs.folders("jobs")
    except (DomainError, OSError) as error:
        log.warning("not ready: storage: %s", error)
        down.append("storage")
    return down
