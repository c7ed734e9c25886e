"""The model of calls that name none: the one of the settings, or the newest there is."""

import asyncio
import time
from collections.abc import Callable

import anyio

from models.errors import NotFound
from store.models import Models

REFRESH_S = 2.0
"""After this long it is looked up again, beside the requests, which model is the newest."""


class DefaultModel:
    """Remembers which models are the newest, so that a keystroke does not wait for the storage."""

    def __init__(self, models: Models, given: str) -> None:
        self._models = models
        self._given = given
        self._known: list[tuple[str, str]] = []  # name and name@version of each, newest first
        self._looked_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def name(self, allows: Callable[[str], bool] | None = None) -> str:
        """Return the default model's name, or the `name@version` if only that is allowed.

        Args:
            allows: whether the caller may use the model with this name; None: every model.

        Raises:
            NotFound: there is no such model (code `model_not_found`).
        """
        if self._given and (allows is None or allows(self._given)):
            return self._given
        if not self._known:
            await self._look()
        elif time.monotonic() - self._looked_at > REFRESH_S and (
            self._looking is None or self._looking.done()
        ):
            self._looking = asyncio.create_task(self._look())
        for references in self._known:
            for reference in references:
                if allows is None or allows(reference):
                    return reference
        raise NotFound("there is no model yet; train one first", code="model_not_found", param="model")

    async def _look(self) -> None:
        self._looked_at = time.monotonic()
        cards = await anyio.to_thread.run_sync(self._models.all)
        self._known = [(card.name, card.reference) for card in cards]
