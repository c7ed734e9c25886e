"""The model of calls that name none: the one of the settings, or the newest there is."""

import asyncio
import time

import anyio

from models.errors import NotFound
from store.models import Models

REFRESH_S = 2.0
"""After this long it is looked up again, beside the requests, which model is the newest."""


class DefaultModel:
    """Remembers which model is meant, so that a keystroke does not wait for the storage."""

    def __init__(self, models: Models, given: str) -> None:
        self._models = models
        self._given = given
        self._known: str | None = None
        self._looked_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def name(self) -> str:
        """Return the model's name. Raises NotFound when there is no model at all."""
        if self._given:
            return self._given
        if self._known is None:
            await self._look()
        elif time.monotonic() - self._looked_at > REFRESH_S and (
            self._looking is None or self._looking.done()
        ):
            self._looking = asyncio.create_task(self._look())
        if self._known is None:
            raise NotFound("there is no model yet; train one first", code="model_not_found", param="model")
        return self._known

    async def _look(self) -> None:
        self._looked_at = time.monotonic()
        cards = await anyio.to_thread.run_sync(self._models.all)
        self._known = cards[0].name if cards else None
