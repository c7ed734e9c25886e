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
from typing import Any, Literal

from nextchar.app.logs.notifications.events import ALERT_EVENTS, EventType
from nextchar.app.logs.notifications.formats import TargetFormat
from nextchar.models.anomaly.alerts import SEVERITIES, Severity
from nextchar.models.errors import NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.history import ImmutableRecord, read_record
from nextchar.store.ids import is_id, new_id

TargetKind = Literal["webhook", "alertmanager"]

_SECRET_PREFIX = "whsec_"  # noqa: S105 -- what every secret begins with


class NotificationTarget(ImmutableRecord):
    """A receiver of events.

    Attributes:
        url: of a webhook, the address that gets its messages; of an Alertmanager, the one of its server.
        models: patterns of models' names whose events are sent; none: all. min_severity: of alerts. events:
        the types of events that are sent; an Alertmanager gets alerts only. format: of the bodies of a
        webhook. secret: signs the messages of a webhook; of PagerDuty, its routing key. is_trusted: from the
        settings, so it may be in a private network.
    """

    id: str
    kind: TargetKind
    url: str
    models: tuple[str, ...] = ()
    min_severity: Severity = "info"
    events: tuple[EventType, ...] = ALERT_EVENTS
    format: TargetFormat = "standard"
    secret: str | None = None
    created_at: float
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
