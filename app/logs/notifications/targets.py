"""Where alerts and other events are reported to.

    notification_targets/<id>.json   one target, until it is deleted

The service's settings may name further ones.
"""

import base64
import contextlib
import secrets
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from nextchar.app.http.schemas import RequestBody, with_examples
from nextchar.app.logs.notifications.events import ALERT_EVENTS, EVENT_TYPES, EventType
from nextchar.app.logs.notifications.formats import PAGERDUTY_URL, TargetFormat
from nextchar.app.logs.notifications.outbox import Health
from nextchar.models.anomaly.alerts import SEVERITIES, Severity
from nextchar.models.errors import NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.history import ImmutableRecord, read_record
from nextchar.store.ids import is_id, new_id

TargetKind = Literal["webhook", "alertmanager"]

_SECRET_PREFIX = "whsec_"  # noqa: S105 -- what every secret begins with


class TargetFields(ImmutableRecord):
    """What is sent of a target.

    Attributes:
        url: of a webhook, the address that gets its messages; of an Alertmanager, the one of its server.
        models: patterns of models' names whose events are sent; none: all. min_severity: of alerts. events:
        the types of events that are sent; an Alertmanager gets alerts only. format: of the bodies of a
        webhook.
    """

    id: str
    kind: TargetKind
    url: str
    models: tuple[str, ...] = ()
    min_severity: Severity = "info"
    events: tuple[EventType, ...] = ALERT_EVENTS
    format: TargetFormat = "standard"
    created_at: float


class NotificationTarget(TargetFields):
    """A receiver of events.

    Attributes:
        secret: signs the messages of a webhook; of PagerDuty, its routing key. is_trusted: from the settings,
        so it may be in a private network.
    """

    secret: str | None = None
    is_trusted: bool = False

    def wants_alert(self, model: str, severity: Severity) -> bool:
        """Return whether alerts of a model and a severity are sent to it."""
        is_severe = SEVERITIES.index(severity) >= SEVERITIES.index(self.min_severity)
        return is_severe and self._wants_model(model) and not set(ALERT_EVENTS).isdisjoint(self.events)

    def wants(self, event: EventType, model: str) -> bool:
        """Return whether events of a type and a model are sent to it."""
        return event in self.events and self._wants_model(model)

    @property
    def wants_records(self) -> bool:
        """Whether events other than alerts are sent to it."""
        return bool(set(self.events) - set(ALERT_EVENTS))

    def _wants_model(self, model: str) -> bool:
        return not self.models or any(fnmatchcase(model, p) for p in self.models)


class NotificationTargets:
    """The targets in one storage, and those of the settings, which cannot be deleted."""

    def __init__(self, blobs: Blobs, configured: Sequence[NotificationTarget] = ()) -> None:
        self._blobs, self._configured = blobs, configured

    def create(
        self, kind: TargetKind, url: str, *, routing_key: str | None = None, **wanted: Any
    ) -> NotificationTarget:
        """Add a target, with further fields: what it wants. A webhook gets a secret. Raises as Blobs does."""
        is_signed = kind == "webhook" and wanted.get("format", "standard") == "standard"
        own = {"id": new_id("target"), "secret": new_secret() if is_signed else routing_key}
        target = NotificationTarget(kind=kind, url=url, created_at=time.time(), **own, **wanted)
        created = self._blobs.create(_path(target.id), target.model_dump_json().encode())
        assert created, "ids of targets are unique"
        return target

    def all(self) -> list[NotificationTarget]:
        """Return all targets, newest first; those of the settings last."""
        found = []
        for path in reversed(self._blobs.paths("notification_targets")):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                found.append(read_record(self._blobs, path, NotificationTarget))
        return [*filter(None, found), *self._configured]

    def get(self, target_id: str) -> NotificationTarget:
        """Return a target. Raises NotFound."""
        if target := next((target for target in self.all() if target.id == target_id), None):
            return target
        raise NotFound(f"there is no notification target {target_id!r}", code="target_not_found")

    def delete(self, target_id: str) -> None:
        """Delete a target. Raises NotFound: there is none, or it is one of the settings."""
        if not is_id("target", target_id) or not self._blobs.exists(_path(target_id)):
            hint = "; it is one of the settings" if target_id in {t.id for t in self._configured} else ""
            message = f"there is no notification target {target_id!r} that can be deleted{hint}"
            raise NotFound(message, code="target_not_found")
        self._blobs.delete(_path(target_id))


def configured_target(kind: TargetKind, url: str, **fields: Any) -> NotificationTarget:
    """Return the target of a setting."""
    own = {"id": f"settings-{kind}", "created_at": 0.0, "is_trusted": True}
    return NotificationTarget.model_validate({**own, "kind": kind, "url": url, **fields})


def new_secret() -> str:
    """Return a new signing secret in the form of Standard Webhooks: `whsec_` and base64."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def is_secret(text: str) -> bool:
    """Return whether a text is a signing secret: `whsec_` and 24 to 64 bytes in base64."""
    try:
        return text.startswith(_SECRET_PREFIX) and 24 <= len(secret_bytes(text)) <= 64
    except ValueError:
        return False


def secret_bytes(secret: str) -> bytes:
    """Return the key in a signing secret. Raises ValueError: it is not one."""
    return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)


def _path(target_id: str) -> str:
    return f"notification_targets/{target_id}.json"


ModelPattern = Annotated[str, Field(min_length=1, max_length=128)]


class TargetCreate(RequestBody):
    """Where to report alerts and other events."""

    model_config = with_examples(
        {"kind": "webhook", "url": "https://example.org/hooks/nextchar", "min_severity": "warning"},
        {"kind": "alertmanager", "url": "https://alertmanager.example.org", "models": ["sshd*"]},
        {"kind": "webhook", "url": "https://hooks.slack.com/services/T0/B0/x", "format": "slack"},
        {"kind": "webhook", "url": "https://example.org/jobs", "events": ["job.succeeded", "job.failed"]},
    )

    kind: TargetKind
    """`webhook` gets a message per alert that fires, becomes more severe or is resolved; `alertmanager` gets
    all firing alerts every minute, at `/api/v2/alerts` below the URL."""
    url: str = Field("", max_length=2000, description="Required, except with the format `pagerduty`.")
    models: list[ModelPattern] = Field(default_factory=list, max_length=100)
    """Patterns of names of models whose events are sent, such as `web-*`; empty: all."""
    min_severity: Severity = Field("info", description="Less severe alerts are not sent.")
    events: list[EventType] = Field(list(ALERT_EVENTS), min_length=1, max_length=len(EVENT_TYPES))
    """The types of events that are sent to a webhook."""

    format: TargetFormat = "standard"
    """The bodies of a webhook: `standard`, with headers of Standard Webhooks; `slack`, of an incoming
    webhook; `pagerduty`, of the Events API v2."""
    routing_key: str | None = Field(None, max_length=200)
    """The integration key, for the format `pagerduty`; never shown again."""

    @model_validator(mode="before")
    @classmethod
    def _set_url(cls, body: Any) -> Any:
        is_pagerduty = isinstance(body, dict) and body.get("format") == "pagerduty"
        return {"url": PAGERDUTY_URL, **body} if is_pagerduty else body

    @model_validator(mode="after")
    def _check_format(self) -> Self:
        if self.format != "standard" and self.kind != "webhook":
            raise ValueError(f"the format {self.format} is one of webhooks")
        if self.format == "pagerduty" and not set(self.events) <= set(ALERT_EVENTS):
            raise ValueError("PagerDuty gets alerts only: leave out `events`")
        if (self.format == "pagerduty") != (self.routing_key is not None):
            raise ValueError("give `routing_key` with the format pagerduty, and only with it")
        if not self.url:
            raise ValueError("url is required")
        return self

    @model_validator(mode="after")
    def _check_events(self) -> Self:
        if self.kind == "alertmanager" and set(self.events) != set(ALERT_EVENTS):
            raise ValueError("an Alertmanager gets alerts only: leave out `events`, or make a webhook")
        return self


class TargetBody(Health, TargetFields):
    """A notification target, and how it works."""

    model_config = with_examples({
        "id": "target_019ac5f2b303f6a1c2d4e5", "object": "notification_target", "kind": "webhook",
        "url": "https://example.org/hooks/nextchar", "models": ["sshd*"], "min_severity": "warning",
        "events": ["alert.firing", "alert.resolved", "job.failed"], "created_at": 1795563600.0,
        "is_setting": False, "secret": None, "waiting": 0, "dead": 0,
        "last_success_at": 1795563721.5, "last_error_at": None, "last_error": None,
    })  # fmt: skip

    object: Literal["notification_target"] = "notification_target"
    is_setting: bool = Field(description="Whether it is one of the service's settings.")
    secret: str | None = None
    """Signs the messages of a webhook, as in Standard Webhooks; only in the response that makes the
    target."""


class TargetTestBody(BaseModel):
    """The target's response to a test message."""

    model_config = with_examples({
        "object": "notification_test", "delivered": False, "status": 401, "answer": "wrong signature",
        "error": "the response is 401: wrong signature", "seconds": 0.084,
    })  # fmt: skip

    object: Literal["notification_test"] = "notification_test"
    delivered: bool = Field(description="Whether the response was 2xx.")
    status: int | None = Field(description="The status of the response; null: there was none.")
    answer: str | None = Field(description="The beginning of the response's body.")
    error: str | None = Field(description="Why it was not delivered.")
    seconds: float


class DeliveryBody(BaseModel):
    """A message to a webhook that has not arrived."""

    model_config = with_examples({
        "id": "msg_019ac5f2b303f6a1c2d4e5", "object": "delivery", "status": "dead",
        "body": '{"type": "alert.firing", "timestamp": "2026-11-26T00:20:00.000Z", "data": {}}',
        "created_at": 1795563600.0, "attempts": 10, "next_at": None, "last_error": "no response within 10 s",
    })  # fmt: skip

    id: str = Field(description="The `webhook-id` of every attempt.")
    object: Literal["delivery"] = "delivery"
    status: Literal["waiting", "dead"]
    body: str = Field(description="What is sent: JSON.")
    created_at: float
    attempts: int = Field(description="Failed ones so far.")
    next_at: float | None = Field(description="Earliest time of the next attempt.")
    last_error: str | None
