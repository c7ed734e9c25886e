"""/healthz, /readyz and /metrics, for monitoring."""

from typing import Any

import anyio
from fastapi import APIRouter, Response

from nextchar.app.http.errors import error_responses
from nextchar.app.http.limits import HEALTH
from nextchar.app.http.rules import needs, needs_no_key
from nextchar.app.http.services import ServicesDep
from nextchar.app.operations.metrics import CONTENT_TYPE, Metrics
from nextchar.app.operations.readiness import Alive, Readiness, ReadinessCheck

router = APIRouter(tags=["operations"])

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "model": Readiness,
        "description": "The storage cannot be read, or the kernels are not loaded yet.",
        "content": {
            "application/json": {
                "example": {
                    "status": "not_ready",
                    "down": ["storage"],
                    "degraded": [
                        {
                            "part": "storage",
                            "problem": "does not respond",
                            "effect": "models that are not in memory cannot be served",
                        }
                    ],
                    "background": [],
                }
            }
        },
    }
}
_EXPOSITION: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "nextchar_redis_up 1.0\n"}},
    }
}


@router.get("/healthz", responses=error_responses())
@needs_no_key
async def healthz(response: Response) -> Alive:
    """Report that the process is running; nothing else is checked."""
    # The JavaScript client asks from pages that may make no other call, to say why these fail.
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return Alive()


@router.get("/readyz", responses=error_responses() | _NOT_READY)
@needs_no_key
async def readyz(services: ServicesDep, response: Response) -> Readiness:
    """Report whether models can be served, and which parts do not work.

    The status is 503 if the storage cannot be read, and at the start until the compiled kernels are loaded.
    Without Redis or a worker jobs wait, and the response is 200 with the status `degraded`.
    """
    check = services[ReadinessCheck]
    report = await anyio.to_thread.run_sync(check.report, limiter=services.pools.limiter(HEALTH))
    response.status_code = 503 if report.status == "not_ready" else 200
    return report


@router.get("/metrics", response_class=Response, responses=_EXPOSITION | error_responses(503))
@needs("read", is_about_all=True)
def metrics(services: ServicesDep) -> Response:
    """Get the metrics for Prometheus."""
    return Response(services[Metrics].exposition(), media_type=CONTENT_TYPE)
