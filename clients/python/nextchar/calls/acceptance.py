"""Events of suggestions: tell what became of them, get how many were accepted, and what is kept of them."""

import hashlib
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from itertools import islice
from typing import Any, cast

from nextchar.connection import Connection, omit_none, path_of
from nextchar.types import Acceptance, Events, KeptText

_MAX_EVENTS = 1_000  # in one request


class AcceptanceCalls(Connection):
    """Events of suggestions: tell what became of them, get how many were accepted, what is kept of them."""

    async def add_events(self, events: Iterable[Mapping[str, Any]]) -> Events:
        """Tell what became of suggestions. The events are stored when this returns; each counts once.

        Args:
            events: each with `type` (`shown`, `accepted`, `typed`, `dismissed` or `kept`), `suggestion_id`,
                `model`, and what else docs/how-to/measure-acceptance.md names. One without `id` gets one.

        >>> shown = {"type": "shown", "suggestion_id": "sug_1.0", "model": "cities@3"}
        >>> client.add_events([shown])["accepted"]  # doctest: +SKIP
        1
        """
        counts = Events(accepted=0, duplicates=0, rejected=0)
        remaining = iter(events)
        while batch := [{"id": str(uuid.uuid4()), **event} for event in islice(remaining, _MAX_EVENTS)]:
            added = await self._fetch(Events, "POST", "/v1/events", json={"events": batch}, can_retry=True)
            for name in ("accepted", "duplicates", "rejected"):
                counts[name] += added[name]
        return counts

    async def acceptance(self, model: str, *, days: int | None = None) -> Acceptance:
        """Return how many suggestions were shown, accepted and kept.

        Args:
            model: a name, for all its versions; or `name@version`.
            days: how many days to add up, with today, in UTC; by default 30.

        >>> client.acceptance("cities", days=7)["total"]["acceptance_rate"]  # doctest: +SKIP
        0.25
        """
        return await self._get(Acceptance, path_of("models", model, "acceptance"), **omit_none(days=days))

    def kept_texts(self, model: str, *, client_id: str | None = None) -> AsyncGenerator[KeptText, None]:
        """Yield the texts that are kept of a model's name to learn from, the oldest first.

        `client_id`: only those of one client.
        """
        return self._pages(path_of("models", model, "kept_texts"), **_source(client_id))

    async def delete_kept_texts(self, model: str, *, client_id: str | None = None) -> int:
        """Delete the kept texts of one client, or all, and the corpora made of any; return how many texts."""
        path, params = path_of("models", model, "kept_texts"), _source(client_id)
        deleted = await self._fetch(dict[str, Any], "DELETE", path, params=params, can_retry=True)
        return cast(int, deleted["deleted"])


def _source(client_id: str | None) -> dict[str, str]:
    return {} if client_id is None else {"source": hashlib.sha256(client_id.encode()).hexdigest()[:16]}
