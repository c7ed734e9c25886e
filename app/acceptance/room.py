"""Acceptance: what becomes of suggestions, counted by model, version, client and day."""

import math

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from nextchar.app.acceptance import routes
from nextchar.app.acceptance.configuration import AcceptanceSettings
from nextchar.app.acceptance.counting import EventCounts
from nextchar.app.acceptance.figures import Acceptance, AcceptanceCollector
from nextchar.app.http.services import REDIS_TIMEOUT_S, Services
from nextchar.app.models.names import AliasControl, ModelFollowers
from nextchar.app.operations.metrics import Metrics
from nextchar.app.room import RedisKeys, Room
from nextchar.store.models import Models

_RESOLVE_S = 5.0
_MAX_RESOLVED = 10_000
_MAX_CONNECTIONS = 32  # to Redis, for requests with events; others wait for one


def _open(services: Services) -> None:
    settings = services.settings_of(AcceptanceSettings)
    redis = _connect(settings.redis_url)
    services.closes(redis.aclose)
    retention_days = settings.acceptance_retention_days
    services.add(EventCounts(redis, max_bytes=settings.event_memory_bytes, retention_days=retention_days))
    services.add(routes.KnownModels(_RESOLVE_S, max_size=_MAX_RESOLVED))
    acceptance = services.add(Acceptance(services.redis, math.ceil(retention_days)))
    services[AliasControl].acceptance.append(acceptance.compare)
    services[Metrics].register(AcceptanceCollector(acceptance))
    services[ModelFollowers].append(lambda name: _follow(services.models, acceptance, name))


def _follow(models: Models, acceptance: Acceptance, name: str) -> None:
    """Delete the counts of a name that has no version any more. What is missed expires."""
    if models.is_deleted(name):
        acceptance.forget(name)


def _connect(url: str) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=REDIS_TIMEOUT_S,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    return Redis.from_pool(pool)


ACCEPTANCE = Room(
    "acceptance",
    _open,
    (routes.router,),
    AcceptanceSettings,
    redis_keys=RedisKeys(("nextchar:acceptance:*",)),
)
