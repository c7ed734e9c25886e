"""Trains models each night on what people accepted and typed, and moves their aliases through the gate.

    nextchar:acceptance:learning:<name>   JSON: the LearningState of a model's name

For an alias `cities@live` in the settings, the first round after NIGHT_HOUR_UTC makes two corpora:
`cities.kept-texts`, and `cities.with-kept-texts`, these before the text that the model was first trained on.
A job on the second starts from the current version. What it trains becomes the next version and gets a share
of the alias's clients. When suggestions of both were shown often enough, the alias moves to it if its
acceptance is not lower; otherwise the share ends. No other way leads to the alias, nor to requests for the
bare name `cities`, which the alias answers, too (`Engines.served_by_alias`).

Each round reads the state again and continues, in one process at a time; a job of the same night and texts is
created once.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, Field
from redis import Redis

from nextchar.app.acceptance.counting import DAY_S, PREFIX
from nextchar.app.acceptance.figures import Acceptance
from nextchar.app.acceptance.kept_texts import KeptTexts
from nextchar.app.models.names import AliasControl
from nextchar.app.models.schemas import AliasRequirements
from nextchar.models.errors import Conflict, DomainError, InvalidInput, NotFound, TooLarge
from nextchar.models.saved_model import Card
from nextchar.store import lease
from nextchar.store.aliases import AliasMove, Share
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus, Upload
from nextchar.store.jobs import Job, Jobs, JobStatus

NIGHT_HOUR_UTC = 2

MIN_TEXTS = 100
"""Fewer texts are not learned."""

SHARE = 0.1
"""The fraction of an alias's clients that a new version gets until it is judged."""

MIN_SHOWN = 500
"""Suggestions of the new and of the current version that must be shown before the new one is judged."""

MAX_SHARE_DAYS = 14
"""A version that was not shown so often after this is given up."""

INTERVAL_S = 300.0

_LEASE = f"{PREFIX}learning_lease"
_LEASE_S = 900
_BY = "learning"

log = logging.getLogger("nextchar.learning")

CreateJob = Callable[[str, Corpus, Card, str], Job]
"""Queues a job that trains a model's name on a corpus, from a version; once for each key."""


class LearningState(BaseModel):
    """How far learning from use is, for one model's name."""

    day: str | None = Field(None, description="The last day on which a job was considered, in UTC.")
    learned_until: tuple[int, int] = Field((0, 0), description="The newest text that a job has learned.")
    job: str | None = Field(None, description="The job whose version is not judged yet.")
    shared_at: float | None = Field(
        None, description="When that version got a share of the clients, in Unix seconds."
    )
    outcome: str = Field("nothing was learned yet", description="What happened last.")


@dataclass(frozen=True)
class Learning:
    """Learns for the aliases `aliases`, as name and alias. Blocking."""

    redis: Redis
    aliases: Sequence[tuple[str, str]]
    texts: KeptTexts
    acceptance: Acceptance
    control: AliasControl
    corpora: Corpora
    jobs: Jobs
    create_job: CreateJob
    spool: Path
    max_corpus_bytes: int
    min_shown: int = MIN_SHOWN
    min_texts: int = MIN_TEXTS
    clock: Callable[[], float] = time.time
    token: str = field(default_factory=secrets.token_hex)

    def run(self) -> None:
        """Continue with each alias. Raises redis.exceptions.RedisError."""
        if not lease.acquire_or_renew(self.redis, _LEASE, self.token, _LEASE_S):
            return
        for name, alias in self.aliases:
            self.texts.trim(name, now_s=self.clock())
            try:
                self._continue(name, alias, self.state(name))
            except DomainError as error:
                log.warning("learning from the use of %s@%s continues later: %s", name, alias, error)

    def state(self, name: str) -> LearningState:
        """Return how far it is with a model's name."""
        stored = self.redis.get(_key(name))
        return LearningState.model_validate_json(str(stored)) if stored else LearningState()

    def forget(self, name: str) -> None:
        """Delete the state of a model's name."""
        self.redis.delete(_key(name))

    def _save(self, name: str, state: LearningState, **changes: object) -> None:
        changed = state.model_copy(update=changes)
        if changed.outcome != state.outcome:
            log.info("learning from the use of %s: %s", name, changed.outcome)
        self.redis.set(_key(name), changed.model_dump_json())

    def _continue(self, name: str, alias: str, state: LearningState) -> None:
        now = datetime.fromtimestamp(self.clock(), UTC)
        if state.job:
            self._follow(name, alias, state, state.job)
        elif now.hour >= NIGHT_HOUR_UTC and state.day != now.date().isoformat():
            self._begin(name, alias, state.model_copy(update={"day": now.date().isoformat()}))

    def _begin(self, name: str, alias: str, state: LearningState) -> None:
        texts = self.texts.latest(name)
        newest = max((kept.order for kept in texts), default=(0, 0))
        if newest <= state.learned_until or len(texts) < self.min_texts:
            self._save(name, state, outcome=f"too few new texts; {len(texts)} are kept")
            return
        try:
            job = self._learn(name, alias, [kept.text for kept in texts], f"learning {name} {state.day}")
        except (InvalidInput, NotFound, Conflict, TooLarge) as error:  # nothing changes it before tomorrow
            self._save(name, state, outcome=error.message)
            return
        outcome = f"{job.id} learns {len(texts)} texts, from {job.request.start_from}"
        self._save(name, state, job=job.id, shared_at=None, learned_until=newest, outcome=outcome)

    def _learn(self, name: str, alias: str, texts: Sequence[str], key: str) -> Job:
        current = self.control.models.get(f"{name}@{alias}").card
        base = self._base(name, current)
        lines = [_line(text, base) for text in texts]
        own, joined = _names(name)
        made = [self._add(own, base, lines), self._add(joined, base, self._joined(lines, base))]
        forget_corpora(self.corpora, self.jobs, name, keep=[base.id, *(corpus.id for corpus in made)])
        return self.create_job(name, made[1], current, key)

    def _follow(self, name: str, alias: str, state: LearningState, job_id: str) -> None:
        try:
            job = self.jobs.get(job_id)
        except NotFound:
            self._end(name, state, f"{job_id} was deleted")
            return
        if not job.status.is_final:
            return
        if job.status is not JobStatus.SUCCEEDED or job.model is None:
            self._end(name, state, f"{job_id} is {job.status}")
            return
        version, newest = int(job.model.rpartition("@")[2]), self.control.models.aliases.get(name, alias)
        if newest.version == version:
            self._end(name, state, f"{name}@{alias} is {job.model}")
            return
        if newest.share is None or newest.share.version != version:
            self._share(name, alias, state, newest, version)
            return
        self._judge(name, alias, state, newest, version)

    def _share(self, name: str, alias: str, state: LearningState, newest: AliasMove, version: int) -> None:
        if state.shared_at or newest.share:
            self._end(name, state, f"the share of {name}@{alias} was changed by another request")
            return
        self._move(newest, share=Share(version=version, fraction=SHARE))
        outcome = f"{name}@{version} has a share of the clients of {name}@{alias}"
        self._save(name, state, shared_at=self.clock(), outcome=outcome)

    def _judge(self, name: str, alias: str, state: LearningState, newest: AliasMove, version: int) -> None:
        assert newest.version is not None
        shown = [one.shown for one in self.acceptance.compare(name, version, newest.version)]
        if min(shown) >= self.min_shown:
            require = AliasRequirements(acceptance_over_shown=self.min_shown)
            try:
                self.control.set(name, alias, version, require, by=_BY, after=newest)
            except Conflict as error:
                if error.code != "alias_check_failed":
                    raise
                self._move(newest)
                self._end(name, state, error.message)
            else:
                self._end(name, state, f"{name}@{alias} was moved to {name}@{version}")
            return
        if state.shared_at and self.clock() - state.shared_at > MAX_SHARE_DAYS * DAY_S:
            self._move(newest)
            self._end(name, state, f"{name}@{version} was given up: it was shown {shown[0]} times")
        elif not state.shared_at:
            self._save(name, state, shared_at=self.clock())

    def _move(self, newest: AliasMove, share: Share | None = None) -> None:
        """Leave an alias where it is, with a share or none."""
        assert newest.version is not None
        nothing = AliasRequirements()
        self.control.set(
            newest.model, newest.alias, newest.version, nothing, by=_BY, share=share, after=newest
        )

    def _end(self, name: str, state: LearningState, outcome: str) -> None:
        self._save(name, state, job=None, shared_at=None, outcome=outcome)

    def _base(self, name: str, card: Card) -> Corpus:
        """Return the corpus that a model was trained on before it learned from use. Raises NotFound."""
        learned = _learned(self.corpora, name)
        while card.started_from and (card.corpus in learned or not _exists(self.corpora, card.corpus)):
            card = self.control.models.get(card.started_from).card
        return self.corpora.get(card.corpus or "")

    def _joined(self, lines: list[bytes], base: Corpus) -> Iterator[bytes]:
        # Before the base: the end of most texts is held out, and what is held out is not learned.
        yield from lines
        yield from self.corpora.stream(base.id)

    def _add(self, name: str, base: Corpus, pieces: Iterable[bytes]) -> Corpus:
        with Upload(self.spool, limit_bytes=self.max_corpus_bytes, encoding=base.encoding) as upload:
            for piece in pieces:
                upload.feed(piece)
            return self.corpora.add(upload, name=name)[0]


def forget_corpora(corpora: Corpora, jobs: Jobs, name: str, *, keep: Iterable[str] = ()) -> None:
    """Delete the corpora that were made of the kept texts of a model's name and that no job needs now."""
    used = {corpus for job in jobs.unfinished() for corpus in job.request.corpora}
    for corpus in _learned(corpora, name) - used - set(keep):
        corpora.delete(corpus)


def _learned(corpora: Corpora, name: str) -> set[str]:
    """Return the ids of the corpora that were made of the kept texts of a model's name, and nothing else."""
    of_names: dict[str, set[str]] = {}
    for reference, corpus in corpora.names().items():
        of_names.setdefault(corpus, set()).add(reference.partition("@")[0])
    return {corpus for corpus, names in of_names.items() if names <= set(_names(name))}


def _names(name: str) -> tuple[str, str]:
    """Return the names of the corpora that are made of the kept texts of a model's name."""
    return f"{name}.kept-texts", f"{name}.with-kept-texts"


def _exists(corpora: Corpora, corpus: str | None) -> bool:
    try:
        return bool(corpus and corpora.get(corpus))
    except NotFound:
        return False


def _line(text: str, base: Corpus) -> bytes:
    """Return a text as it stands in a corpus: of records, as one line."""
    return (" ".join(text.split()) if base.kind == "records" else text).encode() + b"\n"


def _key(name: str) -> str:
    return f"{PREFIX}learning:{name}"
