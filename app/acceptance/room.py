"""Acceptance: what becomes of suggestions, counted by model, version, client and day."""

import math
import re
from functools import partial

from pydantic import Field, field_validator
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from nextchar.app.acceptance import accepted_lines, routes
from nextchar.app.acceptance.accepted_lines import AcceptedLines
from nextchar.app.acceptance.counting import EventCounts
from nextchar.app.acceptance.figures import Acceptance, acceptance_metrics
from nextchar.app.acceptance.kept_texts import KeptTexts
from nextchar.app.acceptance.learning import INTERVAL_S, Learning, forget_corpora
from nextchar.app.access.permissions import Access
from nextchar.app.core_settings import CoreSettings, listed
from nextchar.app.http.limits import EVENTS
from nextchar.app.http.services import Services
from nextchar.app.jobs.control import JobControl, create_job
from nextchar.app.jobs.schemas import BudgetBody, JobCreate
from nextchar.app.models.engines import Engines
from nextchar.app.models.names import AliasControl, ModelFollowers
from nextchar.app.operations.metrics import Collected, Metrics
from nextchar.app.room import RedisKeys, Room
from nextchar.app.suggestions.counts import LineCounts
from nextchar.models.saved_model import Card
from nextchar.store.aliases import ALIAS_PATTERN
from nextchar.store.background import BackgroundLoop
from nextchar.store.corpus import Corpus
from nextchar.store.ids import check_name
from nextchar.store.jobs import Job
from nextchar.store.queue import REDIS_TIMEOUT_S

_RESOLVE_S = 5.0
_MAX_RESOLVED = 10_000


_ALIAS = re.compile(rf"([A-Za-z0-9][A-Za-z0-9._-]{{0,47}})@({ALIAS_PATTERN})")


class AcceptanceSettings(CoreSettings):
    """A part of `nextchar.app.rooms.ApiSettings`."""

    acceptance_retention_days: float = Field(90.0, ge=1, le=3660)
    """Days for which the counts of events of suggestions are kept."""
    event_memory_bytes: int = Field(64 << 20, ge=1 << 20)
    """Redis memory for the ids of events and suggestions, so that each counts once: within a day, or until
    there are more than fit."""
    learn_from_use: str = ""
    """Aliases, as `name@alias`, separated by commas, that learn from use: texts that people accept and type
    with models of the name are kept, a version is trained on them each night, and the alias moves to it if
    its acceptance is not lower. Default: none, and no text is kept."""
    kept_text_days: float = Field(30.0, ge=1, le=3660)
    """Days for which texts are kept of models that learn from use."""

    count_accepted: str = ""
    """Names of models, separated by commas, whose accepted lines are counted: suggestions that people accept
    come earlier. Events must have the text. Default: none."""
    accepted_half_life_days: float = Field(30.0, ge=0.04, le=3660)
    """Days after which half of the count of an accepted line is left."""

    @field_validator("learn_from_use")
    @classmethod
    def _are_aliases(cls, aliases: str) -> str:
        found = [_ALIAS.fullmatch(alias) for alias in listed(aliases)]
        if not all(found):
            raise ValueError("write name@alias, such as cities@live, with a name of at most 48 characters")
        if len({alias[1] for alias in found if alias}) < len(found):
            raise ValueError("a model's name has one alias that learns from use")
        return aliases

    @field_validator("count_accepted")
    @classmethod
    def _are_names(cls, names: str) -> str:
        for name in listed(names):
            check_name(name)
        return names

    @property
    def counted_names(self) -> list[str]:
        """The names of the models whose accepted lines are counted."""
        return listed(self.count_accepted)

    @property
    def learning_aliases(self) -> list[tuple[str, str]]:
        """The aliases that learn from use, as name and alias."""
        return [(alias.partition("@")[0], alias.partition("@")[2]) for alias in listed(self.learn_from_use)]


def _open(services: Services) -> None:
    settings = services.settings_of(AcceptanceSettings)
    redis = _connect(settings.redis_url)
    services.closes(redis.aclose)
    retention_days = settings.acceptance_retention_days
    services.add(
        EventCounts(
            redis,
            max_bytes=settings.event_memory_bytes,
            retention_days=retention_days,
            keeps_texts_of=[name for name, _ in settings.learning_aliases],
            text_days=settings.kept_text_days,
            counts_lines_of=settings.counted_names,
        )
    )
    accepted = AcceptedLines(
        services.redis,
        settings.counted_names,
        settings.accepted_half_life_days,
        services[LineCounts],
        services.models,
    )
    services[LineCounts].on_delete.append(accepted.forget)
    if accepted.names:
        effect = "suggestions that people accept do not come earlier"
        services.loops.append(
            BackgroundLoop(
                "accepted lines", accepted.run, interval_s=accepted_lines.INTERVAL_S, effect=effect
            )
        )
    texts = services.add(KeptTexts(services.redis, settings.kept_text_days))
    services.add(routes.KnownModels(_RESOLVE_S, max_size=_MAX_RESOLVED))
    acceptance = services.add(Acceptance(services.redis, math.ceil(retention_days)))
    services[AliasControl].acceptance.append(acceptance.compare)
    services[Metrics].register(Collected(partial(acceptance_metrics, acceptance)))
    learning = services.add(_learning(services, settings, texts, acceptance))
    if learning.aliases:
        services[Engines].served_by_alias.update(learning.aliases)
        services.loops.append(
            BackgroundLoop(
                "learning", learning.run, interval_s=INTERVAL_S, effect="models do not learn from their use"
            )
        )
    services[ModelFollowers].append(lambda name: _follow(services, name))


def _learning(
    services: Services, settings: AcceptanceSettings, texts: KeptTexts, acceptance: Acceptance
) -> Learning:
    access = Access(None, services.models, services.jobs, services.corpora)

    def create(name: str, corpus: Corpus, start: Card, key: str) -> Job:
        budget = BudgetBody.model_validate(start.training.budget.model_dump())
        body = JobCreate(
            corpus=corpus.id, name=name, start_from=start.reference, kind=start.kind, budget=budget
        )
        return create_job(
            services[JobControl],
            access,
            body,
            watermark=services.watermark,
            memory_limit_bytes=settings.training_memory_bytes,
            idempotency_key=key,
        )

    return Learning(
        services.redis,
        settings.learning_aliases,
        texts,
        acceptance,
        services[AliasControl],
        services.corpora,
        services.jobs,
        create,
        spool=settings.spool,
        max_corpus_bytes=settings.max_corpus_bytes,
    )


def _follow(services: Services, name: str) -> None:
    """Delete the counts and texts of a name that has no version any more. What is missed expires."""
    if services.models.is_deleted(name):
        services[Acceptance].forget(name)
        services[KeptTexts].delete(name)
        services[Learning].forget(name)
        forget_corpora(services.corpora, services.jobs, name)


def _connect(url: str) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=EVENTS.running,  # others wait for one
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
