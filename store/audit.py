"""The audit trail: who changed, stopped, deleted or downloaded what. Records in the blob store.

    audit/<day>/<id>.<action>.<key>.json   one entry; ids sort by time, <day> is the day in UTC, and <key> is
                                           the name of the API key, empty without keys

Entries are created once and never changed. Only `Audit.sweep` deletes them, by whole days. Action and key are
in the path, so that a filter by them reads the entries that match only.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import ValidationError

from nextchar.models.errors import InvalidInput
from nextchar.store.blobs import Blobs
from nextchar.store.ids import is_id, new_id, time_of_id
from nextchar.store.records import ImmutableRecord

MAX_READ = 5_000
"""The most entries that one call reads to find those about something."""

_DAY_S = 86_400.0


class AuditEntry(ImmutableRecord):
    """One call that was answered.

    Attributes:
        at: Unix seconds. key: the name of the API key; None without keys. action: the name of the operation,
        as in the OpenAPI description. about: the path of what it was about, as `/v1/models/names@2`; of what
        was made, if something was. to: what it became, as the new name of a model.
    """

    id: str
    at: float
    key: str | None
    address: str
    action: str
    about: str
    to: str | None = None
    status: int
    request_id: str


class Audit:
    """The audit trail of one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def record(
        self,
        *,
        key: str | None,
        address: str,
        action: str,
        about: str,
        status: int,
        request_id: str,
        to: str | None = None,
    ) -> AuditEntry:
        """Add an entry; it is stored when this returns. Raises as Blobs does."""
        entry_id = new_id("audit")
        at = time_of_id("audit", entry_id)
        assert at is not None, "a new id has its time"
        entry = AuditEntry(
            id=entry_id,
            at=at,
            key=key,
            address=address,
            action=action,
            about=about.encode("utf-8", "backslashreplace").decode(),  # a path may have lone surrogates
            to=to,
            status=status,
            request_id=request_id,
        )
        data = entry.model_dump_json().encode()
        created = self._blobs.create(f"audit/{_day(entry.at)}/{entry_id}.{action}.{key or ''}.json", data)
        assert created, "ids of entries are unique"
        return entry

    def entries(
        self,
        *,
        after: str | None = None,
        limit: int,
        key: str | None = None,
        action: str | None = None,
        about: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> tuple[list[AuditEntry], bool]:
        """Return at most `limit` entries, newest first, and whether more follow.

        Args:
            after: the id of an entry; those before it in time are returned.
            limit: the most entries.
            key: those of the API key with this name.
            action: those with this action.
            about: those whose `about` or `to` contains this text.
            since: those at or after this time, in Unix seconds.
            until: those at or before this time.

        Raises:
            InvalidInput: invalid `after` (code `unknown_cursor`), or more than MAX_READ entries would have
                to be read (code `audit_range_too_large`).
        """
        if after is not None and not is_id("audit", after):
            raise InvalidInput(f"{after!r} is not the id of an entry", code="unknown_cursor", param="after")
        found: list[AuditEntry] = []
        read = 0
        for path in self._paths(after=after, since=since, until=until):
            _, entry_action, entry_key = path.rsplit("/", 1)[1].removesuffix(".json").split(".", 2)
            if key not in (None, entry_key) or action not in (None, entry_action):
                continue
            read += 1
            if read > MAX_READ:
                raise InvalidInput(
                    f"more than {MAX_READ:,} entries would have to be read; narrow the time with since and"
                    " until, or filter by key or action",
                    code="audit_range_too_large",
                    param="about",
                )
            entry = self._read(path)
            if entry is None or (about and about not in entry.about and about not in (entry.to or "")):
                continue
            if len(found) == limit:
                return found, True
            found.append(entry)
        return found, False

    def sweep(self, *, days: float, now: float) -> int:
        """Delete the days whose entries are all older than `days`; return the number of entries."""
        count = 0
        for day in self._blobs.folders("audit"):
            if day < _day(now - days * _DAY_S):
                paths = self._blobs.paths(f"audit/{day}")
                self._blobs.delete(*paths)
                count += len(paths)
        return count

    def _paths(self, *, after: str | None, since: float | None, until: float | None) -> Iterator[str]:
        before = None if after is None else time_of_id("audit", after)
        newest = min((at for at in (before, until) if at is not None), default=None)
        for day in sorted(self._blobs.folders("audit"), reverse=True):
            if newest is not None and day > _day(newest):
                continue
            if since is not None and day < _day(since):
                return
            for path in reversed(self._blobs.paths(f"audit/{day}")):
                entry_id = path.rsplit("/", 1)[1].partition(".")[0]
                at = time_of_id("audit", entry_id)
                if at is None or (after is not None and entry_id >= after):
                    continue
                if (until is not None and at > until) or (since is not None and at < since):
                    continue
                yield path

    def _read(self, path: str) -> AuditEntry | None:
        try:
            return AuditEntry.model_validate_json(self._blobs.read_record(path))
        except (FileNotFoundError, ValidationError):  # swept meanwhile, or damaged
            return None


def _day(at: float) -> str:
    """Return the day of a Unix time in UTC.

    >>> _day(1795714803)
    '2026-11-26'
    """
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):  # beyond the years that there are
        return "0000-00-00" if at < 0 else "9999-99-99"
