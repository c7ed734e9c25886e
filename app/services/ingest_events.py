"""The flagged lines of a model's ingest stream, as they come."""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import anyio

from store.flagged_lines import FlaggedLines

POLL_S = 0.25
MAX_EVENTS = 500
"""Flagged lines that are read at a time."""

NumberedEvent = tuple[int, dict[str, Any]]


async def follow_flagged(
    lines: FlaggedLines, model: str, *, after: int | None, is_stopping: Callable[[], bool]
) -> AsyncGenerator[NumberedEvent, None]:
    """Yield flagged lines with numbers above `after`, by default those from now on, until the process stops.

    Numbers start again if Redis loses its data; then all lines that it has are new.

    Raises:
        redis.exceptions.RedisError: Redis does not respond; the client connects again.
    """
    last = await anyio.to_thread.run_sync(lines.last_number, model)
    after = last if after is None else after if after <= last else 0
    while not is_stopping():
        found = await anyio.to_thread.run_sync(partial(lines.read, model, after=after, limit=MAX_EVENTS))
        for number, event in found:
            yield number, event
            after = number
        if len(found) < MAX_EVENTS:
            await anyio.sleep(POLL_S)
