"""Messages to webhooks about jobs, models and aliases, queued from their records.

The process that sends notifications calls `queue` in each round. It looks at every record that it has not
looked at before, queues its messages, and only then notes it. So whichever process dies, each record's
messages are queued; one that was queued twice has the same id.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from nextchar.store.events import Event, Events, EventType
from nextchar.store.logs import utc
from nextchar.store.notification_targets import NotificationTarget
from nextchar.store.notifications import Notifications

FIRST_LOOKBACK_S = 86_400.0
"""Maximum age of events that are sent if no record was noted before: at the first start, or if Redis lost its
data."""

_STEP_S = 1e-3  # between the times when two messages are due, so that they are sent in order
_BATCH = 500  # records noted in one call of Redis


@dataclass
class EventMessages:
    """Queues the messages about records of one storage. Use it in one thread."""

    events: Events
    notifications: Notifications
    _seen: set[str] = field(default_factory=set)  # noted in Redis, as far as this process knows

    def queue(self, targets: Sequence[NotificationTarget], *, now: float) -> None:
        """Queue what is new for the targets that want it. Raises RedisError, and as Blobs does."""
        wanting = [target for target in targets if target.kind == "webhook" and target.wants_records]
        if not wanting:
            if (
                self._seen or self.notifications.has_records()
            ):  # a target that is made later gets what follows
                self._seen.clear()
                self.notifications.forget_records()
            return
        is_first = not self.notifications.has_records()
        if is_first:
            self._seen.clear()
        paths = self.events.paths()
        present = set(paths)
        # In its first round a process looks at what others have noted: a restored backup may lack some of it.
        noted = self._seen or self.notifications.seen_records()
        gone = [path for path in noted if path not in present]
        new = [path for path in paths if path not in self._seen]
        if not is_first:
            new = self._unseen(new)
        since = now - FIRST_LOOKBACK_S if is_first else None
        found = [event for path in new if (event := self._event(path, since))]
        for i, event in enumerate(sorted(found, key=lambda event: event.at)):
            due = now - (len(found) - i) * _STEP_S
            for target in wanting:
                if not is_first or event.at >= target.created_at:
                    self._queue(target, event, now=due)
        for at in range(0, max(1, len(new)), _BATCH):
            self.notifications.mark_records_seen(new[at : at + _BATCH])
        for at in range(0, len(gone), _BATCH):
            self.notifications.mark_records_seen([], deleted=gone[at : at + _BATCH])
        self._seen = present

    def _unseen(self, paths: Sequence[str]) -> list[str]:
        batches = (paths[at : at + _BATCH] for at in range(0, len(paths), _BATCH))
        return [path for batch in batches for path in self.notifications.unseen_records(batch)]

    def _event(self, path: str, since: float | None) -> Event | None:
        if since is not None and not self.events.may_be_since(path, since):
            return None
        event = self.events.read(path)
        return event if event and (since is None or event.at >= since) else None

    def _queue(self, target: NotificationTarget, event: Event, *, now: float) -> None:
        for kind in event.types:
            if target.wants(kind, event.model):
                name = f"{event.path}\n{kind}"
                self.notifications.queue_event(
                    target.id, name, event_message(event, kind), now=now, model=event.model
                )


def event_message(event: Event, kind: EventType) -> str:
    """Return the JSON of a message: in the shape of OpenAI's webhook events, with a timestamp."""
    digest = hashlib.sha256(f"{event.path}\n{kind}".encode()).hexdigest()[:32]
    message = {
        "id": f"evt_{digest}",
        "object": "event",
        "created_at": int(event.at),
        "type": kind,
        "timestamp": utc(event.at),
        "data": event.data,
    }
    return json.dumps(message, ensure_ascii=False)
