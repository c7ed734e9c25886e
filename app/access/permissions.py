"""Access control: which models, jobs and corpora an API key can see and change.

A key without patterns, and a caller without a key, can access everything. A key with patterns is limited to
the models whose name matches, the jobs that train such a model, and the corpora that it uploaded or whose
name matches. Everything else is rejected with 404, except a model that the request names: that is 403.
"""

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request
from pydantic import Field

from nextchar.app.access.keys import Key
from nextchar.app.http.errors import Forbidden
from nextchar.app.http.services import Services
from nextchar.models.errors import Conflict, NotFound, Unavailable
from nextchar.models.saved_model import Card
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.validation_errors import did_you_mean
from nextchar.store.corpora import CHOSEN, Corpora, no_such_corpus
from nextchar.store.corpus import Corpus
from nextchar.store.corpus_names import split_reference
from nextchar.store.ids import is_id
from nextchar.store.jobs import Job, Jobs, no_such_job
from nextchar.store.models import DamagedModel, Models


@dataclass(frozen=True)
class Access:
    """The models, jobs and corpora that one caller can access; `key` is None without an API key."""

    key: Key | None
    models: Models
    jobs: Jobs
    corpora: Corpora

    @property
    def limited_key(self) -> Key | None:
        """The caller's key if it has patterns, else None."""
        return self.key if self.key and self.key.models else None

    @property
    def key_name(self) -> str | None:
        """The name of the caller's key, to record who did something."""
        return self.key.name if self.key else None

    def check_model(self, reference: str) -> None:
        """Raise Forbidden if the caller's key does not permit the model that a request names."""
        if self.key is not None:
            check_model(self.key, reference)

    def model_name(self, reference: str) -> str:
        """Return the name of an existing model, whose versions share what the caller asks about.

        Raises:
            NotFound: it does not exist.
            Forbidden: the caller's key permits only some of its versions.
        """
        name = self.models.get(reference).card.name
        self.check_model(name)
        return name

    def check_scope(self, *scopes: str, why: str) -> None:
        """Raise Forbidden unless the caller's key has one of `scopes` or `admin`; `why` ends the message."""
        if self.key is not None and not self.key.scopes & {*scopes, "admin"}:
            needed = " or ".join(sorted({*scopes, "admin"}))
            raise Forbidden(f"this call needs a key with the scope {needed}: {why}", code="scope_missing")

    def check_is_unlimited(self, why: str) -> None:
        """Raise Forbidden if the caller's key is limited to some models; `why` ends the message."""
        if self.limited_key:
            raise Forbidden(f"this key is limited to some models: {why}", code="model_not_permitted")

    def list_models(self) -> tuple[list[Card], list[DamagedModel]]:
        """Return the cards of the accessible models, newest first, and the damaged models."""
        cards, damaged = self.models.scan()
        return (
            [card for card in cards if self.allows(card.reference)],
            [model for model in damaged if self.allows(model.reference)],
        )

    def get_job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: it does not exist or is not accessible.
            Unavailable: its record is damaged.
        """
        try:
            job = self.jobs.get(job_id)
        except Unavailable as error:
            if self.limited_key and error.code == "job_damaged":  # its model's name is unknown
                raise no_such_job(job_id) from None
            raise
        if not self.allows(job.request.name):
            raise no_such_job(job_id)
        return job

    def list_jobs(self) -> list[Job]:
        """Return the accessible jobs, newest first."""
        return [job for job in self.jobs.all() if self.allows(job.request.name)]

    def scoped_idempotency_key(self, header: str | None) -> str | None:
        """Return the key under which an Idempotency-Key header is stored: one namespace per API key.

        Without an API key it is the header's value. No header contains a newline, so namespaces are disjoint.
        """
        return f"{self.key.name}\n{header}" if self.key and header is not None else header

    def get_corpus(self, reference: str) -> Corpus:
        """Return a corpus, by id or name; by a name with that name.

        Raises:
            NotFound: it does not exist or is not accessible.
            Unavailable: its record is damaged.
        """
        corpus_id = self.corpus_id(reference)
        corpus = self.corpora.get(corpus_id)
        if self.limited_key:
            corpus = self._visible_fields(corpus, self._names_of(corpus_id))
        return self.corpora.named(corpus, reference)

    def set_corpus_kind(self, reference: str, kind: TextKind) -> Corpus:
        """Set the kind of a corpus and return it. A limited key sets only the kind that it sees itself.

        Raises:
            NotFound: it does not exist or is not accessible.
        """
        corpus_id, key = self.corpus_id(reference), self.limited_key
        self.corpora.set_kind(corpus_id, kind, key_name=key.name if key else None)
        return self.get_corpus(reference)

    def corpus_id(self, reference: str) -> str:
        """Return the id of a corpus, even if its record is damaged. Raises NotFound as `get_corpus`."""
        if self.limited_key and not is_id("corpus", reference) and not self.allows(reference):
            raise no_such_corpus(reference)
        corpus_id = self.corpora.id_of(reference)
        if not self.has_corpus(corpus_id):
            raise no_such_corpus(reference)
        return corpus_id

    def has_corpus(self, corpus_id: str) -> bool:
        """Return whether the corpus with this id is accessible, if it exists."""
        key = self.limited_key
        if key is None or self.corpora.owners.uploaded_at(corpus_id, key.name) is not None:
            return True
        return bool(self._names_of(corpus_id))

    def list_corpora(self) -> list[Corpus]:
        """Return the accessible corpora, newest first, without damaged ones."""
        corpora, key = self.corpora.all(), self.limited_key
        if key is None:
            return corpora
        names: dict[str, list[str]] = {}
        for name, corpus_id in self.corpora.names(self.allows).items():
            names.setdefault(corpus_id, []).append(name)
        uploaded = self.corpora.owners.corpora_of(key.name)
        visible = [
            self._visible_fields(corpus, names.get(corpus.id, ()))
            for corpus in corpora
            if corpus.id in uploaded or corpus.id in names
        ]
        return sorted(visible, key=lambda corpus: (corpus.created_at, corpus.id), reverse=True)

    def check_corpus_name(self, name: str) -> None:
        """Raise Forbidden if the caller may not give a corpus this name."""
        if not self.allows(name):
            raise Forbidden(
                f"the corpus name {name!r} does not match the patterns of this key; use a name that"
                f" matches, or no"
                " name",
                code="corpus_name_not_permitted",
                param="name",
            )

    def similar_model(self, unknown: str, names: Iterable[str]) -> str:
        """Return the end of the message that there is no model `unknown`: a name that the caller may use."""
        name, at, _ = unknown.partition("@")
        permitted = [one for one in names if self.allows(one)]
        if at and name in permitted:
            return f"; did you mean {self.models.get(name).card.reference}?"
        return did_you_mean(name, permitted)

    def record_upload(self, corpus: Corpus, *, is_new: bool, name: str | None = None) -> tuple[Corpus, bool]:
        """Record that this caller uploaded a corpus, under a name if it gave one.

        Return the corpus, and whether it is new to this caller.

        Raises:
            NotFound: it was deleted concurrently.
        """
        if self.key is None:
            return corpus, is_new
        owners = self.corpora.owners
        is_first = owners.uploaded_at(corpus.id, self.key.name) is None
        # A limited key must not learn whether other keys have uploaded the text.
        is_new_here = is_first if self.limited_key else is_new
        owners.add(corpus.id, self.key.name, is_new=is_new)
        if is_first:
            self._check_quota_again(corpus)
        return self.get_corpus(name or corpus.id), is_new_here

    def check_corpus_quota(self, new: Corpus | None = None) -> None:
        """Check that the caller's key may have one more corpus; without `new`: any at all.

        Raises:
            Forbidden: it has as many bytes as it may have (code `corpus_quota_reached`).
        """
        if self.key is None or self.key.max_corpus_bytes is None:
            return
        sizes = self._corpus_sizes(self.key.name)
        if new and new.id in sizes:
            return
        used, limit = sum(sizes.values()), self.key.max_corpus_bytes
        if used + (new.bytes if new else 1) > limit:
            raise _quota_reached(used, limit, new)

    def _check_quota_again(self, corpus: Corpus) -> None:
        """Undo an upload if a concurrent one made both exceed the quota."""
        assert self.key is not None
        limit = self.key.max_corpus_bytes
        if limit is None:
            return
        used = sum(self._corpus_sizes(self.key.name).values())
        if used <= limit:
            return
        if self.corpora.owners.is_only(corpus.id, self.key.name):
            self.corpora.delete(corpus.id)
        else:
            self.corpora.owners.remove(corpus.id, self.key.name)
        raise _quota_reached(used - corpus.bytes, limit, corpus)

    def _corpus_sizes(self, key_name: str) -> dict[str, int]:
        """Return the sizes in bytes of the corpora that a key uploaded, by id."""
        sizes = {}
        for corpus_id in self.corpora.owners.corpora_of(key_name):
            with contextlib.suppress(NotFound, Unavailable):  # deleted meanwhile, or damaged
                sizes[corpus_id] = self.corpora.get(corpus_id).bytes
        return sizes

    def check_corpus_unused(self, corpus_id: str) -> bool:
        """Return whether an unfinished job that is not accessible uses a corpus.

        Raises:
            Conflict: an accessible unfinished job uses it (code `corpus_in_use`).
        """
        using = [job for job in self.jobs.unfinished() if corpus_id in job.request.corpora]
        if accessible := [job.id for job in using if self.allows(job.request.name)]:
            raise Conflict(
                f"corpus {corpus_id} is used by {', '.join(accessible)}; cancel the job or wait for its end,"
                " then delete the corpus",
                code="corpus_in_use",
                param="corpus",
            )
        return bool(using)

    def check_model_unused(self, reference: str) -> None:
        """Check that no unfinished job needs the version `name@version` of a model.

        A job needs its teacher until its end, and the model that it starts from until its first checkpoint.

        Raises:
            Conflict: a job needs it (code `model_in_use`).
        """
        using = [job for job in self.jobs.unfinished() if self._needs_model(job, reference)]
        if not using:
            return
        accessible = [job.id for job in using if self.allows(job.request.name)]
        raise Conflict(
            f"model {reference} is used by {', '.join(accessible) or 'a job of another API key'}; cancel the"
            " job or wait for its end, or send force=true, after which the job fails",
            code="model_in_use",
            param="model",
        )

    def _needs_model(self, job: Job, reference: str) -> bool:
        request = job.request
        is_teacher = request.mix is not None and request.mix.teacher == reference
        is_start = request.start_from == reference and self.jobs.checkpoint_step(job.id) is None
        return is_teacher or is_start

    def delete_corpus(self, reference: str) -> str:
        """Delete a corpus; return its id.

        A limited key deletes only its own claim and the names that match its patterns, if another key has
        uploaded the corpus too, or another name or an unfinished job refers to it.

        Raises:
            NotFound: it does not exist or is not accessible.
            Conflict: an accessible unfinished job uses it (code `corpus_in_use`).
        """
        corpus_id = self.corpus_id(reference)
        is_used = self.check_corpus_unused(corpus_id)
        key, corpora = self.limited_key, self.corpora
        if key is None:
            return corpora.delete(corpus_id)
        names = [name for name, target in corpora.names().items() if target == corpus_id]
        own_names = [name for name in names if self.allows(name)]
        if not is_used and names == own_names and corpora.owners.is_only(corpus_id, key.name):
            return corpora.delete(corpus_id)
        corpora.remove_names(corpus_id, own_names)
        corpora.remove_kind(corpus_id, key.name)
        corpora.owners.remove(corpus_id, key.name)
        return corpus_id

    def allows(self, name: str) -> bool:
        """Return whether the caller's key permits a model, or a corpus, with this name."""
        return self.key is None or self.key.allows(name)

    def _names_of(self, corpus_id: str) -> list[str]:
        names = self.corpora.names(self.allows)
        return [name for name, target in names.items() if target == corpus_id]

    def _visible_fields(self, corpus: Corpus, names: Collection[str]) -> Corpus:
        """Return a corpus as a limited key sees it: with a name that matches, and its own time and kind."""
        key = self.limited_key
        assert key is not None
        uploaded_at = self.corpora.owners.uploaded_at(corpus.id, key.name)
        reference = corpus.reference if corpus.reference in names else min(names, default=None)
        name, version = split_reference(reference) if reference else (None, None)
        created_at = uploaded_at or corpus.created_at
        corpus = replace(corpus, name=name, version=version, created_at=created_at)
        kind = self.corpora.kind_for(corpus.id, key.name)
        return replace(corpus, kind=kind, kind_reason=CHOSEN) if kind else corpus


def _quota_reached(used: int, limit: int, new: Corpus | None) -> Forbidden:
    more = f", and this one has {new.bytes:,}" if new else ""
    return Forbidden(
        f"this key may store {limit:,} bytes of corpora and uses {used:,}{more}; delete corpora"
        f" that it uploaded",
        code="corpus_quota_reached",
    )


def check_model(key: Key, reference: str) -> None:
    """Raise Forbidden if a key does not permit the model `name` or `name@version`."""
    if not key.allows(reference):
        raise Forbidden(
            f"this key is not permitted to use the model {reference!r}",
            code="model_not_permitted",
            param="model",
        )


def access_of(services: Services, request: Request) -> Access:
    """Return what the caller of a request can access."""
    key = getattr(request.state, "key", None)
    return Access(key, services.models, services.jobs, services.corpora)


# async although nothing is awaited: FastAPI runs plain functions in a worker thread.
async def _access(request: Request) -> Access:
    return access_of(request.state.services, request)


AccessDep = Annotated[Access, Depends(_access)]

ModelReference = Annotated[
    str, Field(max_length=128, description="`name` or `name@version`. Default in a query: the newest model.")
]
"""A parameter of the path in routes whose path has it, else of the query."""
