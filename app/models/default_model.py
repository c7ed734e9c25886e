"""The default model, for calls that name none: the one in the settings, or the newest."""

import asyncio
import time
from collections.abc import Callable

from fastapi import Request

from nextchar.app.access.permissions import access_of
from nextchar.app.http.services import Services
from nextchar.app.http.threads import run_in_thread
from nextchar.models.errors import NotFound
from nextchar.store.models import Models

REFRESH_S = 2.0
"""A list of models older than this is refreshed in the background."""


class DefaultModel:
    """Keeps a list of the models, newest first, so that a keystroke does not wait for the storage."""

    def __init__(self, models: Models, configured: str) -> None:
        self._models = models
        self._configured = configured
        self._known: list[tuple[str, str]] = []  # name and name@version of each, newest first
        self._refreshed_at = 0.0
        self._refreshing: asyncio.Task[None] | None = None

    async def name(self, allows: Callable[[str], bool] | None = None) -> str:
        """Return the default model's name, or its `name@version` if only that is permitted.

        Args:
            allows: returns whether the caller may use a model; None permits every model.

        Raises:
            NotFound: there is no permitted model (code `model_not_found`).
        """
        if self._configured and (allows is None or allows(self._configured)):
            return self._configured
        if not self._known:
            await self._refresh()
        elif time.monotonic() - self._refreshed_at > REFRESH_S and (
            self._refreshing is None or self._refreshing.done()
        ):
            self._refreshing = asyncio.create_task(self._refresh())
        for references in self._known:
            for reference in references:
                if allows is None or allows(reference):
                    return reference
        raise NotFound("there is no model yet; train one first", code="model_not_found", param="model")

    async def _refresh(self) -> None:
        self._refreshed_at = time.monotonic()
        cards = await run_in_thread(self._models.all)
        self._known = [(card.name, card.reference) for card in cards]


async def model_or_default(services: Services, request: Request, name: str) -> str:
    """Return the model that a call names, or the newest accessible one if it names none.

    Raises:
        Forbidden: the caller's key does not permit the named model.
        NotFound: there is no accessible model.
    """
    access = access_of(services, request)
    if name:
        access.check_model(name)
        return name
    key = access.limited_key
    return await services[DefaultModel].name(key.allows if key else None)
