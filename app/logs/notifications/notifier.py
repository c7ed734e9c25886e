"""Reports alerts and other events to their targets: a loop of every API process; one at a time sends.

An alert is *firing* while it is open or acknowledged, not labeled normal, and one of its lines was recorded
in the last `quiet_s` seconds, whenever it arrived; then it is *resolved*. A webhook gets a message when an
alert begins to fire, becomes more severe, and is resolved; it gets none about an alert that was acknowledged
before. An Alertmanager gets all firing alerts every minute, as it expects of its clients, and each resolved
one once, with the time.

A webhook also gets messages about jobs, models and aliases, from their records. Each round looks at every
record that was not looked at before, queues its messages, and only then notes it. So whichever process dies,
each record's messages are queued; one that was queued twice has the same id.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from redis.exceptions import RedisError

from nextchar.app.logs.alerts.alerts import Alert, Alerts
from nextchar.app.logs.alerts.schemas import alert_body
from nextchar.app.logs.notifications.events import Event, Events, EventType
from nextchar.app.logs.notifications.formats import formatted
from nextchar.app.logs.notifications.outbound import Outcome, post
from nextchar.app.logs.notifications.outbox import Delivery, Outbox
from nextchar.app.logs.notifications.targets import NotificationTarget, NotificationTargets, secret_bytes
from nextchar.models.anomaly.alerts import SEVERITIES
from nextchar.store import lease
from nextchar.store.ids import new_id
from nextchar.store.logs import utc

LEASE_S = 60
"""A process that has not renewed its lease for this long lets another one send."""

RESEND_S = 60.0
"""Interval at which an Alertmanager gets a firing alert; it resolves an alert that it has not got for four
intervals."""

FIRST_LOOKBACK_S = 86_400.0
"""Maximum age of records that are reported if none was noted before: at the first start, or if Redis lost its
data."""

_LEASE = "nextchar:notifications:lease"
_PAUSE_S = 30.0  # after a request to an Alertmanager that failed
_MAX_ALERTS_PER_REQUEST = 100  # to an Alertmanager
_MAX_DELIVERIES = 50  # to a webhook in one round
_ROUND_S = 20.0  # after this long a round sends no more to a webhook
_STEP_S = 1e-3  # between the times when two messages are due, so that they are sent in order
_MAX_LABEL_CHARACTERS = 500
_TEST_ALERT_S = 60.0  # after which an Alertmanager drops the alert that tests it

Request = tuple[str, bytes, Mapping[str, str]]
"""The URL, the body and further headers of a POST."""


@dataclass
class Notifier:
    """Call `run` every few seconds. Raises redis.exceptions.RedisError, and as Blobs does."""

    alerts: Alerts
    targets: NotificationTargets
    outbox: Outbox
    events: Events
    quiet_s: float
    allow_private: bool
    console_url: str = ""
    clock: Callable[[], float] = time.time
    _token: str = field(default_factory=lambda: secrets.token_hex(8))
    _not_before: dict[str, float] = field(default_factory=dict)  # of Alertmanagers that failed

    def run(self) -> None:
        """Queue and send what is due, if no other process does."""
        if not lease.acquire_or_renew(self.outbox.redis, _LEASE, self._token, LEASE_S):
            return
        targets, now = self.targets.all(), self.clock()
        try:
            self._queue_records(targets, now)
        finally:  # alerts are sent whatever is wrong with the records
            if targets:
                recent = self.alerts.recorded_since(now - self.quiet_s)
                firing = [a for a in recent if a.state != "suppressed" and not a.is_normal]
                asyncio.run(self._update_all(targets, firing, now))
        # Forget targets that were deleted while something was sent to them.
        counted = {target for target, _ in self.outbox.outcomes()}
        for gone in counted - {target.id for target in self.targets.all()}:
            self.outbox.forget(gone)

    def close(self) -> None:
        """Let another process send at once. Call it when no round runs any more, or is the last one."""
        with contextlib.suppress(RedisError, OSError):
            lease.release(self.outbox.redis, _LEASE, self._token)

    async def send_test(self, target: NotificationTarget) -> Outcome:
        """Send a target a test message, signed as all are; return what came of it."""
        now = self.clock()
        if target.kind == "webhook":
            delivery = _delivery(target, "test", {"target": target.id}, now)
            return await self._send(target, webhook_request(target, delivery, now=now))
        test = {"labels": {"alertname": "NextcharTest"}, "annotations": {"summary": "A test of nextchar"}}
        states = [({**test, "starts_at": now}, now + _TEST_ALERT_S)]
        return await self._send(target, alertmanager_request(target, states))

    def _queue_records(self, targets: Sequence[NotificationTarget], now: float) -> None:
        wanting = [target for target in targets if target.kind == "webhook" and target.wants_records]
        if not wanting:  # a target that is made later gets what follows
            self.outbox.forget_records()
            return
        seen, present = self.outbox.seen_records(), {"", *self.events.paths()}
        is_first = "" not in seen
        since = now - FIRST_LOOKBACK_S if is_first else None
        found = [event for path in present - seen - {""} if (event := self.events.read(path, since=since))]
        found.sort(key=lambda event: (event.at, event.path))
        for target in wanting:
            deliveries = [
                _event_delivery(target, event, kind, now - (len(found) - i) * _STEP_S)
                for i, event in enumerate(found)
                for kind in event.types
                if target.wants(kind, event.model) and not (is_first and event.at < target.created_at)
            ]
            self.outbox.record(target.id, {}, deliveries)
        self.outbox.mark_records(present - seen, seen - present)

    async def _update_all(
        self, targets: Sequence[NotificationTarget], firing: Sequence[Alert], now: float
    ) -> None:
        updates = (self._update(target, firing, now) for target in targets)
        for result in await asyncio.gather(*updates, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result  # when all others are done

    async def _update(self, target: NotificationTarget, firing: Sequence[Alert], now: float) -> None:
        wanted = {a.id: a for a in firing if target.wants_alert(a.figures.model, a.severity)}
        if target.kind == "webhook":
            self._queue_alerts(target, wanted, now)
            await self._deliver(target)
        elif now >= self._not_before.get(target.id, 0.0):
            await self._push_alerts(target, wanted, now)

    def _queue_alerts(self, target: NotificationTarget, firing: Mapping[str, Alert], now: float) -> None:
        known, order = self.outbox.sent_states(target.id), list(SEVERITIES)
        states: dict[str, Any] = {}
        deliveries = []

        def report(event: EventType, data: Mapping[str, Any], owner: str) -> None:
            if event in target.events:
                deliveries.append(_delivery(target, event, data, now, owner=owner))

        for alert_id, alert in firing.items():
            before, figures = known.get(alert_id), alert.figures
            is_worse = before and order.index(alert.severity) > order.index(before["severity"])
            if is_worse or (before is None and alert.state == "open"):
                owner = f"key {figures.owner}" if figures.owner else f"model {figures.model}"
                about = {"severity": alert.severity, "model": figures.model, "template": figures.template}
                states[alert_id] = about | {"owner": owner}
                url = console_address(self.console_url, alert)
                report("alert.firing", alert_body(alert).model_dump() | url, owner)
        for alert_id, before in known.items():
            if alert_id not in firing:
                states[alert_id] = None
                owner = before.pop("owner", f"model {before['model']}")
                report("alert.resolved", {"id": alert_id} | before, owner)
        self.outbox.record(target.id, states, deliveries)
        self.outbox.drop_surplus(target.id, now=now)

    async def _deliver(self, target: NotificationTarget) -> None:
        started = time.monotonic()
        for delivery in self.outbox.due(target.id, now=self.clock(), limit=_MAX_DELIVERIES):
            if time.monotonic() - started > _ROUND_S:
                return
            sent = await self._send(target, webhook_request(target, delivery, now=self.clock()))
            if sent.error:
                self.outbox.failed(delivery, sent.error, now=self.clock())
                return  # the others wait, too: a target that fails gets one request per round
            self.outbox.succeeded(delivery)

    async def _push_alerts(self, target: NotificationTarget, firing: Mapping[str, Alert], now: float) -> None:
        """Send what is due. After a failure all of it is sent again, which changes nothing at the target."""
        known = self.outbox.sent_states(target.id)
        changes: dict[str, Any] = {alert_id: None for alert_id in known if alert_id not in firing}
        ended = [known[alert_id] for alert_id in changes]
        for alert_id, alert in firing.items():
            before, labels = known.get(alert_id), _labels(alert)
            if before and before["labels"] != labels:  # more severe: for Alertmanager another alert
                ended.append(before)
            elif before and now - before["sent_at"] < RESEND_S:
                continue
            first, last = alert.figures.first_seen, alert.figures.last_seen  # it began to fire, maybe again
            began = first if now - first <= self.quiet_s else last
            state = {"starts_at": before["starts_at"] if before else began, "sent_at": now}
            url = console_address(self.console_url, alert)
            changes[alert_id] = {"labels": labels, "annotations": _annotations(alert), **url, **state}
        fires = [state for state in changes.values() if state]
        to_send = [(state, now) for state in ended] + [(state, now + 4 * RESEND_S) for state in fires]
        for at in range(0, len(to_send), _MAX_ALERTS_PER_REQUEST):
            request = alertmanager_request(target, to_send[at : at + _MAX_ALERTS_PER_REQUEST])
            if (await self._send(target, request)).error:
                self._not_before[target.id] = self.clock() + _PAUSE_S
                return
        self.outbox.record(target.id, changes)

    async def _send(self, target: NotificationTarget, request: Request) -> Outcome:
        outcome = await post(*request, allow_private=self.allow_private or target.is_trusted)
        await asyncio.to_thread(self.outbox.count, target.id, outcome.error)
        return outcome


def webhook_request(target: NotificationTarget, delivery: Delivery, *, now: float) -> Request:
    """Return the request of Standard Webhooks 1.0: id, timestamp and, with a secret, the signature.

    The signature is HMAC-SHA256 of `id.timestamp.content`, in base64 after `v1,`. Slack and PagerDuty get
    bodies of their own, without these headers.
    """
    content = formatted(delivery.body, target.format, routing_key=target.secret).encode()
    if target.format != "standard":
        return target.url, content, {}
    timestamp = str(int(now))
    headers = {"webhook-id": delivery.id, "webhook-timestamp": timestamp}
    if target.secret:
        signed = b".".join([delivery.id.encode(), timestamp.encode(), content])
        digest = hmac.digest(secret_bytes(target.secret), signed, "sha256")
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return target.url, content, headers


def alertmanager_request(
    target: NotificationTarget, alerts: Sequence[tuple[Mapping[str, Any], float]]
) -> Request:
    """Return the request of Alertmanager's API v2 for states of alerts, each with when it ends."""
    body = [
        {
            "labels": state["labels"],
            "annotations": state["annotations"],
            **{name: state[name] for name in ("generatorURL",) if name in state},
            "startsAt": utc(min(state["starts_at"], ends_at)),
            "endsAt": utc(ends_at),
        }
        for state, ends_at in alerts
    ]
    return f"{target.url.rstrip('/')}/api/v2/alerts", json.dumps(body).encode(), {}


def _delivery(
    target: NotificationTarget, kind: str, data: Mapping[str, Any], now: float, *, owner: str = ""
) -> Delivery:
    body = json.dumps({"type": kind, "timestamp": utc(now), "data": data}, ensure_ascii=False)
    return Delivery(id=new_id("msg"), target=target.id, body=body, created_at=now, owner=owner)


def _event_delivery(target: NotificationTarget, event: Event, kind: EventType, due: float) -> Delivery:
    """Return a message in the shape of OpenAI's webhook events, with a timestamp; the ids are derived."""
    event_id, delivery_id = (f"{event.path}\n{kind}", f"{target.id}\n{event.path}\n{kind}")
    openai = {"id": f"evt_{_digest(event_id)}", "object": "event", "created_at": int(event.at)}
    message = {**openai, "type": kind, "timestamp": utc(event.at), "data": event.data}
    return Delivery(
        id=f"msg_{_digest(delivery_id)}",
        target=target.id,
        body=json.dumps(message, ensure_ascii=False),
        created_at=due,
        owner=f"model {event.model}",
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _labels(alert: Alert) -> dict[str, str]:
    figures = alert.figures
    return {
        "alertname": "AnomalousLines",
        "model": figures.model,
        "template": figures.template[:_MAX_LABEL_CHARACTERS],
        "span": figures.span,
        "severity": alert.severity,
    }


def console_address(console_url: str, alert: Alert) -> dict[str, str]:
    """Return the address of an alert in the console, as Alertmanager calls it; {} if that has none."""
    if not console_url:
        return {}
    query = urlencode({"model": alert.figures.model, "alert": alert.id})
    return {"generatorURL": f"{console_url.rstrip('/')}/#/alerts?{query}"}


def _annotations(alert: Alert) -> dict[str, str]:
    figures = alert.figures
    return {
        "title": alert.title,
        "summary": f"{figures.count} anomalous lines of {figures.model}: {alert.title}",
        "alert_id": figures.id,
        "p_value": f"{figures.p_value:g}",
        "estimated_p_value": f"{alert.estimated_p:g}",
        **({"source": ", ".join(figures.sources)} if figures.sources else {}),
        **({"example": figures.examples[0].line} if figures.examples else {}),
        **({"runbook_url": alert.runbook} if alert.runbook else {}),
    }
