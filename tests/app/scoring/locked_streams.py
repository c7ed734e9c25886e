"""Holds the lock of a stream in the calling thread, as the service does on its event loop."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from nextchar.app.scoring.streams import RETRY_S, WAIT_S, Owner, StreamLock, Streams, stream_busy


@contextmanager
def locked(
    streams: Streams,
    model: str,
    stream_id: str,
    *,
    size: int,
    owner: Owner = Owner(),  # noqa: B008
    wait_s: float = WAIT_S,
    model_id: str = "",
) -> Iterator[StreamLock]:
    """Wait for the lock and hold it until the block ends."""
    deadline = time.monotonic() + wait_s
    while (lock := streams.try_lock(model, stream_id, size=size, owner=owner, model_id=model_id)) is None:
        if time.monotonic() > deadline:
            raise stream_busy(stream_id, wait_s)
        time.sleep(RETRY_S)
    try:
        yield lock
    finally:
        lock.release()
