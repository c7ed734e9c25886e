"""Downloads of large files of models: a few at a time, and none for a client that does not read.

A file is read and checked in memory, then sent from a temporary file, so a slow client holds a place and disk
space, but no memory, and a client that takes longer than PIECE_TIMEOUT_S for a piece loses its place.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nextchar.app.http.threads import run_in_thread
from nextchar.models.errors import Busy
from nextchar.store.blobs import domain_errors
from nextchar.store.temporary import temporary_file

MAX_SMALL_BYTES = 1 << 20
"""A smaller file is sent from memory and needs no place."""

PIECE_TIMEOUT_S = 30.0
"""Time within which a client must read each MiB."""

_PIECE_BYTES = 1 << 20
_RETRY_AFTER_S = 10.0


class DownloadPlaces:
    """The places of large downloads in progress. Safe to use from several threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.BoundedSemaphore(count)

    def acquire(self) -> None:
        """Take a place. Raises Busy: there is none (code `downloads_busy`)."""
        if not self._free.acquire(blocking=False):
            raise Busy(
                f"{self.count} large downloads are in progress; try again later",
                retry_after_s=_RETRY_AFTER_S,
                code="downloads_busy",
            )

    def release(self) -> None:
        """Give a place back."""
        self._free.release()


def download(
    places: DownloadPlaces,
    write: Callable[[IO[bytes]], object],
    *,
    folder: Path,
    media_type: str,
    headers: Mapping[str, str],
) -> Response:
    """Return the response that sends what `write` writes to a file.

    Args:
        places: one is taken until the response has ended.
        write: writes the contents.
        folder: of the temporary file.
        media_type: of the response.
        headers: of the response, besides its length.

    Raises:
        Busy: there is no place. StorageFull, Unavailable, and what `write` raises.
    """
    places.acquire()
    with ExitStack() as stack, domain_errors():
        stack.callback(places.release)
        file = stack.enter_context(temporary_file(folder))
        write(file)
        length = file.tell()
        file.seek(0)
        return _Download(file, stack.pop_all(), dict(headers) | {"Content-Length": str(length)}, media_type)


class _Download(Response):
    def __init__(
        self, file: IO[bytes], exit_: ExitStack, headers: Mapping[str, str], media_type: str
    ) -> None:
        self._file, self._exit = file, exit_
        super().__init__(headers=headers, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the file, then give the place back."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            read = partial(self._file.read, _PIECE_BYTES)
            while piece := await run_in_thread(read):
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (OSError, TimeoutError):
            pass  # the client has disconnected or does not read
        finally:
            self._exit.close()
