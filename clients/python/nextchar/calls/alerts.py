"""Alerts and suppressions."""

from collections.abc import AsyncGenerator
from typing import Literal

from nextchar.connection import Connection, omit_none, path_of
from nextchar.types import Alert, AlertLabel, AlertState, Severity, Suppression


class AlertCalls(Connection):
    """Alerts and suppressions."""

    def alerts(
        self,
        model: str,
        *,
        state: AlertState | None = None,
        severity: Severity | None = None,
        label: Literal["normal", "incident", "none"] | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> AsyncGenerator[Alert, None]:
        """Yield the alerts of a model, most recently seen first.

        Args:
            model: its versions share alerts.
            state: those in this state.
            severity: those that are at least as severe.
            label: those with this label; `none`: without one.
            since: those with a line at or after this time, in Unix seconds.
            until: those with a line at or before this time.

        >>> for alert in client.alerts("sshd", state="open"):  # doctest: +SKIP
        ...     print(alert["count"], alert["template"])
        """
        filters = omit_none(state=state, severity=severity, label=label, since=since, until=until)
        return self._pages(path_of("models", model, "alerts"), **filters)

    async def alert(self, model: str, alert: str) -> Alert:
        """Return an alert by its id."""
        return await self._get(Alert, path_of("models", model, "alerts", alert))

    async def acknowledge_alert(self, model: str, alert: str) -> Alert:
        """Mark an alert as being handled."""
        return await self._fetch(Alert, "POST", path_of("models", model, "alerts", alert, "acknowledge"))

    async def label_alert(self, model: str, alert: str, label: AlertLabel | None) -> Alert:
        """Label an alert. `normal` lowers the scores of its lines; None withdraws a label."""
        path = path_of("models", model, "alerts", alert, "label")
        return await self._fetch(Alert, "POST", path, json={"label": label})

    async def suppress_alert(self, model: str, alert: str, *, until: float) -> Suppression:
        """Count an alert but do not report it until a time, in Unix seconds."""
        path = path_of("models", model, "alerts", alert, "suppress")
        return await self._fetch(Suppression, "POST", path, json={"until": until})

    def suppressions(self, model: str) -> AsyncGenerator[Suppression, None]:
        """Yield the suppressions of a model, newest first, with those that have ended."""
        return self._pages(path_of("models", model, "suppressions"))

    async def suppress(
        self, model: str, *, template: str, until: float, span: str | None = None
    ) -> Suppression:
        """Count alerts but do not report them until a time, in Unix seconds: those that match patterns.

        Args:
            model: the model.
            template: matches templates; `*` stands for any text, except in `<*>`.
            until: when it ends.
            span: likewise for the anomalous word; by default any.
        """
        body = {"template": template, "until": until} | omit_none(span=span)
        return await self._fetch(Suppression, "POST", path_of("models", model, "suppressions"), json=body)

    async def delete_suppression(self, model: str, suppression: str) -> None:
        """End a suppression."""
        path = path_of("models", model, "suppressions", suppression)
        await self._fetch(dict, "DELETE", path, can_retry=True)

    async def export_alerts(self, model: str, kind: Literal["json", "csv"] = "json") -> bytes:
        """Return all alerts of a model with labels and suppressions, as JSON, or as a table of alerts."""
        path = path_of("models", model, "alerts", "export")
        return await self._fetch_bytes("GET", path, params={"format": kind}, can_retry=True)
