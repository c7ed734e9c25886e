"""The calls about lines that are accepted now and scored in the background."""

import math
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Unpack, cast

from nextchar.connection import EVENT_STREAM, Connection, Outage, omit_none, path_of
from nextchar.errors import NextcharError, ServerUnreachable
from nextchar.lines import check_lines, line_of
from nextchar.options import IngestOptions
from nextchar.types import FlaggedLine, Ingested, IngestStatus


class IngestCalls(Connection):
    """Calls about ingested lines."""

    async def ingest(
        self,
        model: str,
        lines: bytes | Iterable[str | bytes],
        *,
        source: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[IngestOptions],
    ) -> Ingested:
        """Send lines to be scored in the background. They are on disk when this returns.

        Args:
            model: `name` or `name@version`.
            lines: lines without their newlines, or the bytes of several lines, each with its newline.
            source: where the lines come from, such as a host.
            idempotency_key: a request with the same key counts once, within minutes; by default each call has
                its own, so that it can be sent again while the server is away.
            options: how they are scored.

        >>> client.ingest("sshd", ["Failed password for root"], source="web-1")["accepted"]  # doctest: +SKIP
        1
        """
        if not isinstance(lines, bytes):
            check_lines(lines)
            lines = b"".join(line_of(number, line).data + b"\n" for number, line in enumerate(lines, 1))
        headers = {"Content-Type": "text/plain", "Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return await self._fetch(
            Ingested,
            "POST",
            path_of("models", model, "ingest"),
            content=lines,
            headers=headers,
            params=omit_none(default_source=source, **options),
            can_retry=True,
        )

    async def ingest_status(self, model: str) -> IngestStatus:
        """Return how many lines wait, were scored and flagged, and why if none is scored."""
        return await self._get(IngestStatus, path_of("models", model, "ingest"))

    async def drop_ingested(self, model: str) -> int:
        """Delete the lines that wait; return how many."""
        response = await self._fetch(dict[str, Any], "DELETE", path_of("models", model, "ingest"))
        return cast(int, response["dropped"])

    async def flagged_lines(
        self, model: str, *, after: int | None = None, is_patient: bool = False
    ) -> AsyncGenerator[FlaggedLine, None]:
        """Yield ingested lines that are flagged, each once, as they come, without end.

        Args:
            model: as in `ingest`, with or without the version as there.
            after: only lines with ids above this; by default those that are flagged from now on.
            is_patient: wait for a server that is away as long as it takes, not for the client's `patience_s`.

        >>> for line in client.flagged_lines("sshd"):  # doctest: +SKIP
        ...     print(line["source"], line["line"])
        """
        outage = Outage(math.inf if is_patient else self.patience_s)
        path = path_of("models", model, "ingest", "events")
        while True:
            try:
                if after is None:
                    after = (await self.ingest_status(model))["flagged"]
                headers = EVENT_STREAM | {"Last-Event-ID": str(after)}
                async with aclosing(await self._open("GET", path, headers=headers)) as response:
                    outage.end()
                    async for _, data in self._events(response):
                        after = data["id"]
                        yield cast(FlaggedLine, data)
                raise ServerUnreachable(f"{self.server} closed the connection while sending flagged lines")
            except NextcharError as error:
                delay_s = outage.delay_s(error)
            await self.transport.sleep(delay_s)
