"""Alerts and suppressions, the targets that they are reported to; lines that are scored in the background."""

import math
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Literal, Unpack, cast

from nextchar.connection import EVENT_STREAM, Connection, Outage, omit_none, path_of
from nextchar.errors import NextcharError, ServerUnreachable
from nextchar.lines import check_lines, line_of
from nextchar.options import AlertOptions, CoveringOptions, IngestOptions, TargetOptions
from nextchar.types import (
    Alert,
    AlertLabel,
    Coverage,
    Delivery,
    FlaggedLine,
    Ingested,
    IngestStatus,
    NotificationTarget,
    Suppression,
    TargetKind,
    TargetTest,
)


class AlertCalls(Connection):
    """Alerts and suppressions, the targets that they are reported to, and the messages to these."""

    def alerts(self, model: str, **options: Unpack[AlertOptions]) -> AsyncGenerator[Alert, None]:
        """Yield the alerts of a model, whose versions share them, most recently seen first.

        >>> for alert in client.alerts("sshd", state="open"):  # doctest: +SKIP
        ...     print(alert["count"], alert["template"])
        """
        return self._pages(path_of("models", model, "alerts"), **omit_none(**options))

    async def alert(self, model: str, alert: str) -> Alert:
        """Return an alert by its id."""
        return await self._get(Alert, path_of("models", model, "alerts", alert))

    async def acknowledge_alert(self, model: str, alert: str) -> Alert:
        """Mark an alert as being handled."""
        return await self._fetch(Alert, "POST", path_of("models", model, "alerts", alert, "acknowledge"))

    async def preview_alert(self, model: str, alert: str, **covering: Unpack[CoveringOptions]) -> Coverage:
        """Return which lines a label or a suppression would cover."""
        path, params = path_of("models", model, "alerts", alert, "preview"), omit_none(**covering)
        params.pop("runbook", None)
        return await self._fetch(Coverage, "GET", path, params=params, can_retry=True)

    async def label_alert(
        self, model: str, alert: str, label: AlertLabel | None, **covering: Unpack[CoveringOptions]
    ) -> Alert:
        """Label an alert. `normal` lowers the scores of its lines; None withdraws a label."""
        path = path_of("models", model, "alerts", alert, "label")
        return await self._fetch(Alert, "POST", path, json={"label": label, **omit_none(**covering)})

    async def suppress_alert(
        self, model: str, alert: str, *, until: float, **covering: Unpack[CoveringOptions]
    ) -> Suppression:
        """Count an alert but do not report it until a time, in Unix seconds."""
        path = path_of("models", model, "alerts", alert, "suppress")
        return await self._fetch(Suppression, "POST", path, json={"until": until, **omit_none(**covering)})

    def suppressions(self, model: str) -> AsyncGenerator[Suppression, None]:
        """Yield the suppressions of a model, newest first, with those that have ended."""
        return self._pages(path_of("models", model, "suppressions"))

    async def suppress(
        self, model: str, *, template: str, until: float, span: str | None = None, runbook: str | None = None
    ) -> Suppression:
        """Count alerts but do not report them until a time, in Unix seconds: those that match patterns.

        Args:
            model: the model.
            template: matches templates; `*` stands for any text, except in `<*>`.
            until: when it ends.
            span: likewise for the anomalous word; by default any.
            runbook: the address of instructions, which is sent with the alerts.
        """
        body = {"template": template, "until": until} | omit_none(span=span, runbook=runbook)
        return await self._fetch(Suppression, "POST", path_of("models", model, "suppressions"), json=body)

    async def delete_suppression(self, model: str, suppression: str) -> None:
        """End a suppression."""
        path = path_of("models", model, "suppressions", suppression)
        await self._fetch(dict, "DELETE", path, can_retry=True)

    async def export_alerts(self, model: str, kind: Literal["json", "csv"] = "json") -> bytes:
        """Return all alerts of a model with labels and suppressions, as JSON, or as a table of alerts."""
        path = path_of("models", model, "alerts", "export")
        return await self._fetch_bytes("GET", path, params={"format": kind}, can_retry=True)

    def notification_targets(self) -> AsyncGenerator[NotificationTarget, None]:
        """Yield the targets that alerts and other events are reported to, those of the settings last."""
        return self._pages("/v1/notification_targets")

    async def add_notification_target(
        self, kind: TargetKind, url: str, **options: Unpack[TargetOptions]
    ) -> NotificationTarget:
        """Report alerts and other events from now on; the response has a webhook's `secret`, once."""
        body = {"kind": kind, "url": url, **omit_none(**options)}
        return await self._fetch(NotificationTarget, "POST", "/v1/notification_targets", json=body)

    async def delete_notification_target(self, target: str) -> None:
        """Delete a target, and the messages that wait for it."""
        await self._fetch(dict, "DELETE", path_of("notification_targets", target))

    async def test_notification_target(self, target: str) -> TargetTest:
        """Send a signed test message to a target; return how it responded."""
        return await self._fetch(TargetTest, "POST", path_of("notification_targets", target, "test"))

    def deliveries(
        self, target: str, *, status: Literal["waiting", "dead"] | None = None
    ) -> AsyncGenerator[Delivery, None]:
        """Yield the messages to a webhook that were given up, newest first, or those that wait."""
        return self._pages(path_of("notification_targets", target, "deliveries"), **omit_none(status=status))


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
