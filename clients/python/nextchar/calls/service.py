"""The audit trail, and whether the service is ready."""

from collections.abc import AsyncGenerator
from typing import Any

from nextchar.connection import Connection, omit_none
from nextchar.types import AuditEntry


class ServiceStateCalls(Connection):
    """The audit trail, and whether the service is ready."""

    def audit(
        self,
        *,
        key: str | None = None,
        action: str | None = None,
        about: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> AsyncGenerator[AuditEntry, None]:
        """Yield the calls that changed or downloaded something, newest first. Needs a key with scope `admin`.

        Args:
            key: those with the API key of this name.
            action: those of this operation, as `delete_model`.
            about: those about something whose path contains this, as the name of a model.
            since: those at or after this time, in Unix seconds.
            until: those at or before this time.

        >>> for entry in client.audit(about="names@2"):  # doctest: +SKIP
        ...     print(entry["key"], entry["action"], entry["about"])
        """
        filters = omit_none(key=key, action=action, about=about, since=since, until=until)
        return self._pages("/v1/audit", **filters)

    async def ready(self) -> dict[str, Any]:
        """Return the service's response to whether it is ready. Raises Unavailable if it is not."""
        return await self._fetch(dict[str, Any], "GET", "/readyz")
