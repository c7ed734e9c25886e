"""What the caller's key reaches: the models, jobs and corpora that it may see and change.

A key without patterns, and a caller without a key, reach everything. A key with patterns is limited: it
reaches the models whose name matches, the jobs that train such a model, and the corpora that it uploaded or
whose name matches. Everything else is answered as if it were not there, except a model that the caller names:
that is a 403 (`app.http.auth`). Routes get models, jobs and corpora through this.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request

from app.http.auth import check_model
from app.http.dependencies import Services
from app.keys import Forbidden, Key
from models.errors import Conflict, Unavailable
from models.saved_model import Card
from store.corpora import Corpus, no_such_corpus
from store.ids import is_id
from store.jobs import Job, no_such_job
from store.models import DamagedModel


@dataclass(frozen=True)
class Reach:
    """The models, jobs and corpora that one caller reaches."""

    services: Services
    key: Key | None

    @property
    def limited_to(self) -> Key | None:
        """The caller's key if it has patterns, else None."""
        return self.key if self.key and self.key.models else None

    def survey_models(self) -> tuple[list[Card], list[DamagedModel]]:
        """Return the cards of the models within reach, newest first, and those that cannot be read."""
        cards, damaged = self.services.models.survey()
        return (
            [card for card in cards if self._allows(card.reference)],
            [one for one in damaged if self._allows(one.reference)],
        )

    def job(self, job_id: str) -> Job:
        """Return a job. Raises NotFound if it is not there or out of reach, Unavailable if it is damaged."""
        try:
            job = self.services.jobs.get(job_id)
        except Unavailable as error:
            if self.limited_to and error.code == "job_damaged":  # whose it is cannot be known
                raise no_such_job(job_id) from None
            raise
        if not self._allows(job.request.name):
            raise no_such_job(job_id)
        return job

    def jobs(self) -> list[Job]:
        """Return the jobs within reach, newest first."""
        return [job for job in self.services.jobs.all() if self._allows(job.request.name)]

    def idempotency_key(self, sent: str | None) -> str | None:
        """Return the Idempotency-Key under which a call of this caller is recorded: each API key has its own.

        Without an API key it is what was sent. No header holds a newline, so none is another caller's.
        """
        return f"{self.key.name}\n{sent}" if self.key and sent is not None else sent

    def corpus(self, reference: str) -> Corpus:
        """Return a corpus, by id or name.

        Raises:
            NotFound: it is not there, or out of reach.
            Unavailable: its record is damaged.
        """
        corpus_id = self.corpus_id(reference)
        corpus = self.services.corpora.get(corpus_id)
        return self._as_seen(corpus, self._names_of(corpus_id)) if self.limited_to else corpus

    def corpus_id(self, reference: str) -> str:
        """Return the id of a corpus, be its record damaged or not. Raises NotFound, as `corpus` does."""
        if self.limited_to and not is_id("corpus", reference) and not self._allows(reference):
            raise no_such_corpus(reference)
        corpus_id = self.services.corpora.id_of(reference)
        if not self.has_corpus(corpus_id):
            raise no_such_corpus(reference)
        return corpus_id

    def has_corpus(self, corpus_id: str) -> bool:
        """Return whether the corpus with this id is within reach, if it is there."""
        key = self.limited_to
        if key is None or self.services.corpora.owners.uploaded_at(corpus_id, key.name) is not None:
            return True
        return bool(self._names_of(corpus_id))

    def corpora(self) -> list[Corpus]:
        """Return the corpora within reach, newest first; damaged ones are left out."""
        found, key = self.services.corpora.all(), self.limited_to
        if key is None:
            return found
        names: dict[str, list[str]] = {}
        for name, corpus_id in self.services.corpora.names(self._allows).items():
            names.setdefault(corpus_id, []).append(name)
        uploaded = self.services.corpora.owners.corpora_of(key.name)
        seen = [
            self._as_seen(corpus, names.get(corpus.id, ()))
            for corpus in found
            if corpus.id in uploaded or corpus.id in names
        ]
        return sorted(seen, key=lambda corpus: (corpus.created_at, corpus.id), reverse=True)

    def check_corpus_name(self, name: str) -> None:
        """Raise Forbidden if this caller may not give a corpus this name."""
        if not self._allows(name):
            raise Forbidden(
                f"this key may give corpora only names that match its patterns, and {name!r} does not; use"
                " such a name, or none",
                code="corpus_name_not_permitted",
                param="name",
            )

    def uploaded(self, corpus: Corpus, *, is_new: bool) -> tuple[Corpus, bool]:
        """Record that this caller uploaded a corpus; return it, and whether it is new to this caller.

        Raises:
            NotFound: it was deleted concurrently.
        """
        if self.key is None:
            return corpus, is_new
        owners = self.services.corpora.owners
        # A limited key does not learn whether others have the text.
        is_new_here = owners.uploaded_at(corpus.id, self.key.name) is None if self.limited_to else is_new
        owners.add(corpus.id, self.key.name, is_new=is_new)
        return self.corpus(corpus.id), is_new_here

    def check_not_needed(self, corpus_id: str) -> bool:
        """Return whether an unfinished job out of reach needs a corpus.

        Raises:
            Conflict: one within reach does (code `corpus_in_use`).
        """
        needing = [job for job in self.services.jobs.unfinished() if corpus_id in job.request.corpora]
        if reached := [job.id for job in needing if self._allows(job.request.name)]:
            raise Conflict(
                f"corpus {corpus_id} is needed by {', '.join(reached)}; cancel or wait, then delete it",
                code="corpus_in_use",
                param="corpus",
            )
        return bool(needing)

    def delete_corpus(self, reference: str) -> str:
        """Delete a corpus; return its id.

        What a limited key deletes stays for others: if somebody else uploaded it too, or a name or an
        unfinished job out of reach is of it, only this key's claim and the names within reach go.

        Raises:
            NotFound: it is not there, or out of reach.
            Conflict: an unfinished job within reach needs it (code `corpus_in_use`).
        """
        corpus_id = self.corpus_id(reference)
        is_needed = self.check_not_needed(corpus_id)
        key, corpora = self.limited_to, self.services.corpora
        if key is None:
            return corpora.delete(corpus_id)
        names = [name for name, target in corpora.names().items() if target == corpus_id]
        mine = [name for name in names if self._allows(name)]
        if not is_needed and names == mine and corpora.owners.is_only(corpus_id, key.name):
            return corpora.delete(corpus_id)
        corpora.remove_names(corpus_id, mine)
        corpora.owners.remove(corpus_id, key.name)
        return corpus_id

    def _allows(self, name: str) -> bool:
        return self.key is None or self.key.allows(name)

    def _names_of(self, corpus_id: str) -> list[str]:
        names = self.services.corpora.names(self._allows)
        return [name for name, target in names.items() if target == corpus_id]

    def _as_seen(self, corpus: Corpus, names: Collection[str]) -> Corpus:
        """Return a corpus as a limited key sees it: with a name within reach, and since its own upload."""
        key = self.limited_to
        assert key is not None
        uploaded_at = self.services.corpora.owners.uploaded_at(corpus.id, key.name)
        name = corpus.name if corpus.name in names else min(names, default=None)
        return replace(corpus, name=name, created_at=uploaded_at or corpus.created_at)


def reach_of(services: Services, request: Request) -> Reach:
    """Return what the caller of a request reaches."""
    return Reach(services, getattr(request.state, "key", None))


# async, though nothing is awaited: FastAPI runs plain functions in a worker thread.
async def _reach(request: Request) -> Reach:
    return reach_of(request.state.services, request)


ReachDep = Annotated[Reach, Depends(_reach)]


async def model_or_default(services: Services, request: Request, name: str) -> str:
    """Return the model that a call names, or the default one within reach if it names none.

    Raises:
        Forbidden: the named one is out of reach.
        NotFound: there is no model within reach.
    """
    if name:
        check_model(request, name)
        return name
    key = reach_of(services, request).limited_to
    return await services.default_model.name(key.allows if key else None)
