"""The settings of ingestion, alerts and notifications."""

from pydantic import Field, field_validator

from nextchar.app.core_settings import CoreSettings
from nextchar.app.logs.notifications.events import ALERT_EVENTS, EVENT_TYPES, EventType
from nextchar.app.logs.notifications.outbound import check_url
from nextchar.app.logs.notifications.targets import is_secret
from nextchar.models.errors import InvalidInput


class LogSettings(CoreSettings):
    """A part of `nextchar.app.rooms.ApiSettings`."""

    ingest_scoring: bool = True
    """Score the lines of log agents in this process; 0: accept them and leave the scoring to other API
    processes."""
    ingest_takeover_s: float = Field(30.0, ge=1)
    """Seconds after which lines that a process has taken and not finished are scored by another; more than
    loading a model and scoring 500 lines may take."""
    max_ingest_lines: int = Field(200_000, ge=1)
    """Lines of log agents that may wait to be scored, per model; further ones get 429."""
    max_ingest_bytes: int = Field(64 << 20, ge=1 << 20)
    """Redis memory for the lines that wait, of all models together."""
    ingest_retention_hours: float = Field(72.0, ge=0)
    """Hours after which lines that still wait are deleted, as when their model was deleted; 0: never."""
    ingest_repeat_s: int = Field(600, ge=1, le=86_400)
    """Seconds in which a batch of lines that is sent again with the same Idempotency-Key counts once."""

    alert_quiet_s: float = Field(300.0, ge=10)
    """Seconds without a line after which an alert is reported to targets as resolved."""
    alertmanager_url: str = ""
    """An Alertmanager that gets all alerts, such as `http://alertmanager:9093`."""
    webhook_url: str = ""
    """A webhook that gets all alerts, or the events of NEXTCHAR_WEBHOOK_EVENTS."""
    webhook_secret: str = ""
    """Signs the messages to that webhook: `whsec_` and 24 to 64 bytes in base64."""
    webhook_events: str = Field(",".join(ALERT_EVENTS))
    """Types of the events that are sent to that webhook, separated by commas."""
    console_url: str = ""
    """The address at which people open the console, such as `https://nextchar.example.org`: alerts in
    messages then have a link."""
    allow_private_targets: bool = False
    """Allow notification targets in private networks, on this machine and at other addresses that are not
    public. Those of settings always may be."""

    @field_validator("alertmanager_url", "webhook_url", "console_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if url:
            try:
                check_url(url)
            except InvalidInput as error:
                raise ValueError(error.message) from None
        return url

    @field_validator("webhook_events")
    @classmethod
    def _are_events(cls, events: str) -> str:
        if unknown := {name.strip() for name in events.split(",")} - set(EVENT_TYPES):
            raise ValueError(
                f"{min(unknown)!r} is not a type of event; the types are {', '.join(EVENT_TYPES)}"
            )
        return events

    @property
    def event_types(self) -> tuple[EventType, ...]:
        """The types of the events that are sent to the webhook of the settings."""
        names = {name.strip() for name in self.webhook_events.split(",")}
        return tuple(event for event in EVENT_TYPES if event in names)

    @field_validator("webhook_secret")
    @classmethod
    def _is_a_secret(cls, secret: str) -> str:
        if secret and not is_secret(secret):
            raise ValueError("not `whsec_` and 24 to 64 bytes in base64")
        return secret
