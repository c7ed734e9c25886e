"""Reports alerts and other events to their targets: a loop of every API process; one at a time sends.

An alert is *firing* while it is open or acknowledged, not labeled normal, and one of its lines was recorded
in the last `quiet_s` seconds, whenever it arrived; then it is *resolved*. A webhook gets a message when an
alert begins to fire, becomes more severe, and is resolved; it gets none about an alert that was acknowledged
before. An Alertmanager gets all firing alerts every minute, as it expects of its clients, and each resolved
one once, with the time.
`app/services/event_messages.py` queues the messages about jobs, models and aliases.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from redis.exceptions import RedisError

from nextchar.app.services.alert_bodies import alert_body
from nextchar.app.services.event_messages import EventMessages
from nextchar.app.services.outbound import RequestFailed, TargetResponse, new_client, post
from nextchar.models.anomaly.alerts import SEVERITIES
from nextchar.store.alerts import Alert, Alerts
from nextchar.store.ids import new_id
from nextchar.store.logs import utc
from nextchar.store.notification_targets import NotificationTarget, NotificationTargets, secret_bytes
from nextchar.store.notifications import Delivery, Notifications

RESEND_S = 60.0
"""Interval at which an Alertmanager gets a firing alert; it resolves an alert that it has not got for four
intervals."""

_MAX_ALERTS_PER_REQUEST = 100  # to an Alertmanager
_MAX_DELIVERIES = 50  # to a webhook in one round
_ROUND_S = 20.0  # after this long a round sends no more to a target
_MAX_BACKOFF_S = 300.0  # of an Alertmanager that fails
_MAX_LABEL_CHARACTERS = 500
_TEST_ALERT_S = 60.0  # after which an Alertmanager drops the alert that tests it


@dataclass
class Notifier:
    """Call `run` every few seconds. Raises redis.exceptions.RedisError, and as Blobs does."""

    alerts: Alerts
    targets: NotificationTargets
    notifications: Notifications
    event_messages: EventMessages
    quiet_s: float
    allow_private: bool
    clock: Callable[[], float] = time.time
    _token: str = field(default_factory=lambda: secrets.token_hex(8))
    _failures: Counter[str] = field(default_factory=Counter)  # of Alertmanagers, in a row
    _not_before: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Queue and send what is due, if no other process does."""
        if not self.notifications.acquire_lease(self._token):
            return
        targets = self.targets.all()
        now = self.clock()
        try:
            self.event_messages.queue(targets, now=now)
        finally:  # alerts are sent whatever is wrong with the records
            self._report(targets, now)
        self._forget_deleted(targets)

    def _forget_deleted(self, targets: Sequence[NotificationTarget]) -> None:
        """Delete what is stored for targets that were deleted while something was sent to them."""
        stored = {target for target, _ in self.notifications.outcomes()}
        if stored - {target.id for target in targets}:
            for gone in stored - {target.id for target in self.targets.all()}:  # some may be new
                self.notifications.forget(gone)

    def _report(self, targets: Sequence[NotificationTarget], now: float) -> None:
        if targets:
            firing = [a for a in self.alerts.recorded_since(now - self.quiet_s) if _is_firing(a)]
            asyncio.run(self._notify_all(targets, firing, now))

    def close(self) -> None:
        """Let another process send at once. Call it when no round runs any more, or is the last one."""
        with contextlib.suppress(RedisError, OSError):
            self.notifications.release_lease(self._token)

    async def _notify_all(
        self, targets: Sequence[NotificationTarget], firing: Sequence[Alert], now: float
    ) -> None:
        async with new_client() as client:
            notifying = (self._notify(client, target, firing, now) for target in targets)
            for result in await asyncio.gather(*notifying, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result  # when all others are done

    async def _notify(
        self, client: httpx.AsyncClient, target: NotificationTarget, firing: Sequence[Alert], now: float
    ) -> None:
        wanted = {
            alert.id: alert for alert in firing if target.wants_alert(alert.figures.model, alert.severity)
        }
        if target.kind == "webhook":
            await asyncio.to_thread(self._queue_messages, target, wanted, now)
            await self._deliver(client, target)
        elif now >= self._not_before.get(target.id, 0.0):
            await self._update_alertmanager(client, target, wanted, now)

    # Webhooks

    def _queue_messages(self, target: NotificationTarget, firing: Mapping[str, Alert], now: float) -> None:
        self._queue_summary(target, now)
        known = self.notifications.sent_states(target.id)
        for alert in firing.values():
            before = known.get(alert.id)
            figures = alert.figures
            after = {"severity": alert.severity, "model": figures.model, "template": figures.template}
            after["owner"] = f"key {figures.owner}" if figures.owner else f"model {figures.model}"
            share = {"model": figures.model, "owner": after["owner"]}
            is_new = before is None and alert.state == "open"
            if is_new or (before and _is_worse(alert.severity, before["severity"])):
                if "alert.firing" not in target.events:
                    self.notifications.save_sent_states(target.id, {alert.id: after}, [])
                    continue
                body = _message("alert.firing", now, alert_body(alert).model_dump())
                self.notifications.queue(
                    target.id, alert.id, before=before, after=after, body=body, now=now, **share
                )
        for alert_id, before in known.items():
            if alert_id not in firing:
                if "alert.resolved" not in target.events:
                    self.notifications.save_sent_states(target.id, {}, [alert_id])
                    continue
                data = {"id": alert_id, **before}
                share = {"model": before["model"], "owner": data.pop("owner", f"model {before['model']}")}
                body = _message("alert.resolved", now, data)
                self.notifications.queue(
                    target.id, alert_id, before=before, after=None, body=body, now=now, **share
                )

    def _queue_summary(self, target: NotificationTarget, now: float) -> None:
        """Queue a message about those that were given up as too many waited, once there is room for it."""
        since, dropped = self.notifications.dropped(target.id)
        if dropped:
            body = _message("messages.dropped", now, {"since": utc(since), "dropped": dropped})
            self.notifications.queue_event(target.id, f"dropped since {since}", body, now=now)
            self.notifications.forget_dropped(target.id)

    async def _deliver(self, client: httpx.AsyncClient, target: NotificationTarget) -> None:
        started = time.monotonic()
        due = await asyncio.to_thread(
            self.notifications.due, target.id, now=self.clock(), limit=_MAX_DELIVERIES
        )
        for delivery in due:
            if time.monotonic() - started > _ROUND_S:
                return
            content = delivery.body.encode()
            headers = signed_headers(target.secret, delivery, content, now=self.clock())
            try:
                await self._post(client, target, target.url, content, headers)
            except RequestFailed as error:
                await asyncio.to_thread(self.notifications.failed, delivery, str(error), now=self.clock())
                return  # the others wait, too: a target that fails gets one request per round
            await asyncio.to_thread(self.notifications.succeeded, delivery)

    async def send_test(self, target: NotificationTarget) -> TargetResponse:
        """Send a target a test message, signed as all are; return its response. Raises RequestFailed."""
        now = self.clock()
        if target.kind == "webhook":
            delivery = Delivery(new_id("msg"), target.id, _message("test", now, {"target": target.id}), now)
            content, url = delivery.body.encode(), target.url
            headers = signed_headers(target.secret, delivery, content, now=now)
        else:
            test = {"labels": {"alertname": "NextcharTest"}, "annotations": {"summary": "A test of nextchar"}}
            one = _alertmanager_alert({**test, "starts_at": now}, ends_at=now + _TEST_ALERT_S)
            content, url, headers = json.dumps([one]).encode(), _alerts_url(target), {}
        async with new_client() as client:
            try:
                response = await self._post(client, target, url, content, headers)
            except RequestFailed as error:
                await asyncio.to_thread(self.notifications.count, target.id, str(error))
                raise
        await asyncio.to_thread(self.notifications.count, target.id, None)
        return response

    # Alertmanagers

    async def _update_alertmanager(
        self, client: httpx.AsyncClient, target: NotificationTarget, firing: Mapping[str, Alert], now: float
    ) -> None:
        known = await asyncio.to_thread(self.notifications.sent_states, target.id)
        to_send: dict[str, dict[str, Any]] = {}
        over: list[tuple[str, dict[str, Any]]] = []
        for alert_id, alert in firing.items():
            before = known.get(alert_id)
            labels = _labels(alert)
            if before and before["labels"] != labels:  # more severe: for Alertmanager another alert
                over.append((alert_id, before))
            elif before and now - before["sent_at"] < RESEND_S:
                continue
            starts_at = before["starts_at"] if before else self._starts_at(alert, now)
            to_send[alert_id] = {
                "labels": labels,
                "annotations": _annotations(alert),
                "starts_at": starts_at,
                "sent_at": now,
            }
        over += [(alert_id, before) for alert_id, before in known.items() if alert_id not in firing]
        messages = [(i, _alertmanager_alert(one, ends_at=now)) for i, one in over]
        first_firing = len(messages)
        messages += [(i, _alertmanager_alert(one, ends_at=now + 4 * RESEND_S)) for i, one in to_send.items()]
        for at in range(0, len(messages), _MAX_ALERTS_PER_REQUEST):
            batch = messages[at : at + _MAX_ALERTS_PER_REQUEST]
            content = json.dumps([message for _, message in batch]).encode()
            try:
                await self._post(client, target, _alerts_url(target), content, {})
            except RequestFailed as error:
                self._failures[target.id] += 1
                backoff_s = min(_MAX_BACKOFF_S, 5.0 * 2 ** min(self._failures[target.id], 10))
                self._not_before[target.id] = self.clock() + backoff_s
                await asyncio.to_thread(self.notifications.count, target.id, str(error))
                return
            ended = [i for i, _ in batch[: max(0, first_firing - at)] if i not in to_send]
            sent = {i: to_send[i] for i, _ in batch[max(0, first_firing - at) :]}
            await asyncio.to_thread(self.notifications.save_sent_states, target.id, sent, ended)
            await asyncio.to_thread(self.notifications.count, target.id, None)
            del self._failures[target.id]

    def _starts_at(self, alert: Alert, now: float) -> float:
        """Return when an alert began to fire: with its first line, or again with its last one."""
        figures = alert.figures
        return figures.first_seen if now - figures.first_seen <= self.quiet_s else figures.last_seen

    async def _post(
        self,
        client: httpx.AsyncClient,
        target: NotificationTarget,
        url: str,
        content: bytes,
        headers: Mapping[str, str],
    ) -> TargetResponse:
        return await post(
            client, url, content, headers, allow_private=self.allow_private or target.is_trusted
        )


def signed_headers(secret: str | None, delivery: Delivery, content: bytes, *, now: float) -> dict[str, str]:
    """Return the headers of Standard Webhooks 1.0: id, timestamp and, with a secret, the signature.

    The signature is HMAC-SHA256 of `id.timestamp.content`, in base64 after `v1,`.
    """
    timestamp = str(int(now))
    headers = {"webhook-id": delivery.id, "webhook-timestamp": timestamp}
    if secret:
        signed = b".".join([delivery.id.encode(), timestamp.encode(), content])
        digest = hmac.new(secret_bytes(secret), signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def _alerts_url(target: NotificationTarget) -> str:
    return f"{target.url.rstrip('/')}/api/v2/alerts"


def _is_firing(alert: Alert) -> bool:
    return alert.state != "suppressed" and alert.label != "normal"


def _is_worse(severity: str, before: str) -> bool:
    order: Sequence[str] = SEVERITIES
    return order.index(severity) > order.index(before)


def _message(kind: str, now: float, data: Mapping[str, Any]) -> str:
    return json.dumps({"type": kind, "timestamp": utc(now), "data": data}, ensure_ascii=False)


def _labels(alert: Alert) -> dict[str, str]:
    figures = alert.figures
    return {
        "alertname": "AnomalousLines",
        "model": figures.model,
        "template": figures.template[:_MAX_LABEL_CHARACTERS],
        "span": figures.span,
        "severity": alert.severity,
    }


def _annotations(alert: Alert) -> dict[str, str]:
    figures = alert.figures
    annotations = {
        "summary": f"{figures.count} anomalous lines of {figures.model}: {figures.template}",
        "alert_id": figures.id,
        "p_value": f"{figures.p_value:g}",
    }
    if figures.examples:
        annotations["example"] = figures.examples[0].line
    return annotations


def _alertmanager_alert(to_send: Mapping[str, Any], *, ends_at: float) -> dict[str, Any]:
    return {
        "labels": to_send["labels"],
        "annotations": to_send["annotations"],
        "startsAt": utc(min(to_send["starts_at"], ends_at)),
        "endsAt": utc(ends_at),
    }
