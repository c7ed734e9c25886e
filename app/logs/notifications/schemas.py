"""Notification targets and the messages to them. Times are Unix seconds."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from nextchar.app.http.schemas import RequestBody, with_examples
from nextchar.app.logs.notifications.events import ALERT_EVENTS, EVENT_TYPES, EventType
from nextchar.app.logs.notifications.formats import PAGERDUTY_URL, TargetFormat
from nextchar.app.logs.notifications.targets import TargetKind
from nextchar.models.anomaly.alerts import Severity

ModelPattern = Annotated[str, Field(min_length=1, max_length=128)]


class TargetCreate(RequestBody):
    """Where to report alerts and other events."""

    model_config = with_examples(
        {"kind": "webhook", "url": "https://example.org/hooks/nextchar", "min_severity": "warning"},
        {"kind": "alertmanager", "url": "https://alertmanager.example.org", "models": ["sshd*"]},
        {"kind": "webhook", "url": "https://hooks.slack.com/services/T0/B0/x", "format": "slack"},
        {"kind": "webhook", "url": "https://example.org/jobs", "events": ["job.succeeded", "job.failed"]},
    )

    kind: TargetKind = Field(
        description="`webhook` gets a message per alert that fires, becomes more severe or is resolved;"
        " `alertmanager` gets all firing alerts every minute, at `/api/v2/alerts` below the URL."
    )
    url: str = Field("", max_length=2000, description="Required, except with the format `pagerduty`.")
    models: list[ModelPattern] = Field(
        default_factory=list,
        max_length=100,
        description="Patterns of names of models whose events are sent, such as `web-*`; empty: all.",
    )
    min_severity: Severity = Field("info", description="Less severe alerts are not sent.")
    events: list[EventType] = Field(
        list(ALERT_EVENTS),
        min_length=1,
        max_length=len(EVENT_TYPES),
        description="The types of events that are sent to a webhook.",
    )

    format: TargetFormat = Field(
        "standard",
        description="The bodies of a webhook: `standard`, with headers of Standard Webhooks; `slack`, of an"
        " incoming webhook; `pagerduty`, of the Events API v2.",
    )
    routing_key: str | None = Field(
        None,
        max_length=200,
        description="The integration key, for the format `pagerduty`; never shown again.",
    )

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


class TargetBody(BaseModel):
    """A notification target, and how it works."""

    model_config = with_examples(
        {
            "id": "target_019ac5f2b303f6a1c2d4e5",
            "object": "notification_target",
            "kind": "webhook",
            "url": "https://example.org/hooks/nextchar",
            "models": ["sshd*"],
            "min_severity": "warning",
            "events": ["alert.firing", "alert.resolved", "job.failed"],
            "created_at": 1795563600.0,
            "is_setting": False,
            "secret": None,
            "waiting": 0,
            "dead": 0,
            "last_success_at": 1795563721.5,
            "last_error_at": None,
            "last_error": None,
        }
    )

    id: str
    object: Literal["notification_target"] = "notification_target"
    kind: TargetKind
    url: str
    models: list[str]
    min_severity: Severity
    events: list[EventType]
    format: TargetFormat = "standard"
    created_at: float
    is_setting: bool = Field(description="Whether it is one of the service's settings.")
    secret: str | None = Field(
        None,
        description="Signs the messages of a webhook, as in Standard Webhooks; only in the response that"
        " makes the target.",
    )
    waiting: int = Field(description="Messages that wait for their next attempt.")
    dead: int = Field(description="Messages that were given up.")
    last_success_at: float | None
    last_error_at: float | None
    last_error: str | None


class TargetTestBody(BaseModel):
    """The target's response to a test message."""

    model_config = with_examples(
        {
            "object": "notification_test",
            "delivered": False,
            "status": 401,
            "answer": "wrong signature",
            "error": "the response is 401: wrong signature",
            "seconds": 0.084,
        }
    )

    object: Literal["notification_test"] = "notification_test"
    delivered: bool = Field(description="Whether the response was 2xx.")
    status: int | None = Field(description="The status of the response; null: there was none.")
    answer: str | None = Field(description="The beginning of the response's body.")
    error: str | None = Field(description="Why it was not delivered.")
    seconds: float


class DeliveryBody(BaseModel):
    """A message to a webhook that has not arrived."""

    model_config = with_examples(
        {
            "id": "msg_019ac5f2b303f6a1c2d4e5",
            "object": "delivery",
            "status": "dead",
            "body": '{"type": "alert.firing", "timestamp": "2026-11-26T00:20:00.000Z", "data": {}}',
            "created_at": 1795563600.0,
            "attempts": 10,
            "next_at": None,
            "last_error": "no response within 10 s",
        }
    )

    id: str = Field(description="The `webhook-id` of every attempt.")
    object: Literal["delivery"] = "delivery"
    status: Literal["waiting", "dead"]
    body: str = Field(description="What is sent: JSON.")
    created_at: float
    attempts: int = Field(description="Failed ones so far.")
    next_at: float | None = Field(description="Earliest time of the next attempt.")
    last_error: str | None
