"""API keys with their limits, and the audit trail."""

from nextchar.app.access import audit, key_routes
from nextchar.app.access.keys import KeyFile
from nextchar.app.http.limits import KeyLimits
from nextchar.app.http.services import Services
from nextchar.app.operations.metrics import Gauges, Metrics
from nextchar.app.operations.readiness import Problem, ReadinessCheck
from nextchar.app.operations.retention import Retention
from nextchar.app.operations.room import RetentionSettings
from nextchar.app.room import Folder, Room

_BAD_KEYS = Problem(
    "keys",
    "the file of API keys has invalid lines, no key, or cannot be read",
    "its last valid version applies, or no key if it cannot be read; the log says what is wrong",
)


def _open(services: Services) -> None:
    metrics, days = services[Metrics], services.settings_of(RetentionSettings).audit_retention_days
    limits = services.add(KeyLimits(services.settings.redis_url))
    metrics.register(limits.limited)
    services.closes(limits.close)
    services[Retention].add("audit entries", lambda now: audit.delete_before(services.blobs, days, now))
    keys = services.find(KeyFile)
    if keys:
        metrics.register(
            Gauges(
                "nextchar_api_keys_file_errors",
                "Problems of the file of API keys, whose last valid version applies; 1 if it cannot be read.",
                lambda: {(): len(keys.problems)},
            )
        )
        services[ReadinessCheck].checks.append(lambda: [_BAD_KEYS] if keys.problems else [])


ACCESS = Room("access", _open, (audit.router, key_routes.router), folders=(Folder("audit"),))
