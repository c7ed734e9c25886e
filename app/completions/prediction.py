"""The distribution of the next character, awaited on the event loop."""

import asyncio
import contextlib

from nextchar.app.models.engines import Loaded
from nextchar.models.runtime.requests import Distribution, Expert


async def predict(
    loaded: Loaded,
    prompt: str,
    *,
    top: int,
    temperature: float,
    client: str,
    user: str,
    expert: Expert = "mixture",
) -> Distribution:
    """Return the distribution after a prompt, without occupying a thread. Raises Busy or Unavailable."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Distribution] = loop.create_future()

    def set_result(result: Distribution | Exception) -> None:
        if future.cancelled():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    def on_result(result: Distribution | Exception) -> None:
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the application has stopped
            loop.call_soon_threadsafe(set_result, result)

    ticket = loaded.engine.predict(
        prompt, on_result, top=top, temperature=temperature, client=client, user=user, expert=expert
    )
    try:
        return await future
    except asyncio.CancelledError:
        ticket.cancel()
        raise
