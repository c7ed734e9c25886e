"""Notification targets, and the messages to them."""

from collections.abc import AsyncGenerator, Sequence
from typing import Literal

from nextchar.connection import Connection, omit_none, path_of
from nextchar.types import Delivery, NotificationTarget, TargetTest


class NotificationTargetCalls(Connection):
    """Notification targets, and the messages to them."""

    def notification_targets(self) -> AsyncGenerator[NotificationTarget, None]:
        """Yield the targets that alerts and other events are reported to, those of the settings last."""
        return self._pages("/v1/notification_targets")

    async def add_notification_target(
        self,
        kind: Literal["webhook", "alertmanager"],
        url: str,
        *,
        models: Sequence[str] | None = None,
        min_severity: Literal["info", "warning", "critical"] | None = None,
        events: Sequence[str] | None = None,
    ) -> NotificationTarget:
        """Report alerts and other events from now on; the response has a webhook's `secret`, once.

        Args:
            kind: what is there.
            url: its address.
            models: patterns of names of models; by default all.
            min_severity: of alerts.
            events: types of events, such as `job.failed`; by default alerts.
        """
        lists = omit_none(models=models and list(models), events=events and list(events))
        body = {"kind": kind, "url": url, **lists, **omit_none(min_severity=min_severity)}
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

    async def replay_delivery(self, target: str, delivery: str) -> Delivery:
        """Send a message again that was given up or waits."""
        path = path_of("notification_targets", target, "deliveries", delivery, "replay")
        return await self._fetch(Delivery, "POST", path)
