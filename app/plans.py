"""From what a client asks to be trained to what a worker is told.

Every default is filled in and every mistake found now. Knows no storage and no queue.
"""

from app.schemas.jobs import JobCreate
from models.config import (
    MINIMUM_CHARACTERS,
    PRESETS,
    Budget,
    NetworkConfig,
    TrainingConfig,
    check_memory,
)
from models.errors import InvalidInput
from store.corpora import Corpus
from store.ids import check_name
from store.jobs import JobRequest


def plan(body: JobCreate, corpus: Corpus, *, memory_limit_bytes: int) -> JobRequest:
    """Return the complete request for a job on `corpus`.

    Raises:
        InvalidInput: the corpus is too small (code `corpus_too_small`), the network too large for the
            memory (`network_too_large`), or the name is not one (`invalid_name`).
    """
    network, training = PRESETS[body.preset]
    request = JobRequest(
        corpus=corpus.id,
        name=check_name(body.name),
        network=NetworkConfig(
            **network.model_dump()
            | body.network.model_dump(exclude_none=True)
            | {"architecture": body.architecture}
        ),
        training=TrainingConfig(
            **training.model_dump(exclude={"budget"})
            | body.training.model_dump(exclude_none=True)
            | {"validation_fraction": body.validation_fraction, "seed": body.seed},
            budget=Budget(**body.budget.model_dump()),
        ),
    )
    _check_length(corpus)
    check_memory(
        request.network,
        request.training,
        corpus.distinct_characters + 1,
        memory_limit_bytes,
    )
    return request


def _check_length(corpus: Corpus) -> None:
    if corpus.characters < MINIMUM_CHARACTERS:
        raise InvalidInput(
            f"the corpus has {corpus.characters} characters and training needs at least {MINIMUM_CHARACTERS}",
            code="corpus_too_small",
            param="corpus",
        )
