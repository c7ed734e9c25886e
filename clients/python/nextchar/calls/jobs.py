"""Training jobs: queue, list, cancel, pause and resume them."""

import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from nextchar.connection import Connection, path_of
from nextchar.types import Job


class JobCalls(Connection):
    """Training jobs: queue, list, cancel, pause and resume them."""

    async def create_job(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a training job; `request` is the body of POST /v1/jobs. `train` is more convenient.

        A request with the same `idempotency_key` makes no second job; by default each call has its own key.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return await self._fetch(Job, "POST", "/v1/jobs", json=dict(request), headers=headers, can_retry=True)

    def jobs(self) -> AsyncGenerator[Job, None]:
        """Yield all jobs, newest first."""
        return self._pages("/v1/jobs")

    async def job(self, job: str) -> Job:
        """Return a job: its status, place in the queue and progress."""
        return await self._get(Job, path_of("jobs", job))

    async def cancel_job(self, job: str, *, keep_best: bool = False) -> Job:
        """Cancel a job. `keep_best` publishes the best model so far."""
        body = {"keep_best": True} if keep_best else None
        return await self._fetch(Job, "POST", path_of("jobs", job, "cancel"), json=body)

    async def pause_job(self, job: str) -> Job:
        """Stop a job at a checkpoint; `resume_job` continues it."""
        return await self._fetch(Job, "POST", path_of("jobs", job, "pause"))

    async def resume_job(self, job: str) -> Job:
        """Queue a paused or failed job again; it continues from its last checkpoint."""
        return await self._fetch(Job, "POST", path_of("jobs", job, "resume"))
