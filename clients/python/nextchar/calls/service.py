"""The audit trail, and whether the service is ready."""

from collections.abc import AsyncGenerator
from typing import Any, Unpack

from nextchar.connection import Connection, omit_none
from nextchar.options import AuditOptions
from nextchar.types import AuditEntry


class ServiceStateCalls(Connection):
    """The audit trail, and whether the service is ready."""

    def audit(self, **options: Unpack[AuditOptions]) -> AsyncGenerator[AuditEntry, None]:
        """Yield the calls that changed or downloaded something, newest first. Needs a key with scope `admin`.

        >>> for entry in client.audit(about="names@2"):  # doctest: +SKIP
        ...     print(entry["key"], entry["action"], entry["about"])
        """
        return self._pages("/v1/audit", **omit_none(**options))

    async def ready(self) -> dict[str, Any]:
        """Return the service's response to whether it is ready. Raises Unavailable if it is not."""
        return await self._fetch(dict[str, Any], "GET", "/readyz")
