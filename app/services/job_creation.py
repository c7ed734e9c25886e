"""Creation of a training job: access checks, the plan, the queue."""

from app.schemas.jobs import JobCreate
from app.services.access import Access
from app.services.job_control import JobControl
from app.services.job_plans import plan
from models.errors import NotFound
from models.saved_model import Card
from store.corpora import Corpus
from store.jobs import Job


def create_job(
    control: JobControl,
    access: Access,
    body: JobCreate,
    *,
    memory_limit_bytes: int,
    idempotency_key: str | None = None,
) -> Job:
    """Queue a job of this caller; return it, or the one that the idempotency key has created before.

    Raises:
        Forbidden: the caller may not use a model that the request names.
        NotFound: a corpus or a model that the request names does not exist or is not accessible.
        InvalidInput: as `plan`.
        Conflict: the idempotency key was used with another body.
        Unavailable: the queue does not answer.
    """
    teacher = body.mix.teacher if body.mix else None
    for model in filter(None, (body.name, body.start_from, teacher)):
        access.check_model(model)
    text = body.model_dump_json().encode()
    key = access.scoped_idempotency_key(idempotency_key)
    if key and (job := control.submitted(key, text)):
        return job
    request = plan(
        body,
        access.get_corpus(body.corpus),
        memory_limit_bytes=memory_limit_bytes,
        start=_card(access, "start_from", body.start_from),
        second=_second_corpus(access, body),
        teacher=_card(access, "mix.teacher", teacher),
    )
    return control.submit(request, key=key, body=text)


def _card(access: Access, field: str, reference: str | None) -> Card | None:
    if reference is None:
        return None
    try:
        return access.models.get(reference).card
    except NotFound as error:
        raise NotFound(f"{field}: {error.message}", code=error.code, param=field) from None


def _second_corpus(access: Access, body: JobCreate) -> Corpus | None:
    if body.mix is None:
        return None
    try:
        return access.get_corpus(body.mix.corpus)
    except NotFound as error:
        raise NotFound(f"mix.corpus: {error.message}", code=error.code, param="mix.corpus") from None
