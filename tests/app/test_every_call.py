"""What is done again after a call of the storage failed, or killed the process, ends as if it had not."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.openai.batches import Batch, Batches, BatchStatus
from nextchar.models.errors import NotFound, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.jobs import Jobs, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.logs.alerts.occurrences import GROUP, one
from tests.app.openai.test_batches import ABOUT
from tests.every_call import Killed, die, every_call, storage_fails
from tests.store.test_corpora import add
from tests.store.test_jobs import REQUEST
from tests.store.test_models import FILES
from tests.store.test_models import _card as card

ALERT = GROUP.alert_id("m")
TEXT = b"some text"


@dataclass
class World:
    """A storage, an empty Redis, and a folder for uploads."""

    blobs: Blobs
    redis: Redis
    folder: Path
    made: Any = None


def upload(world: World, blobs: Blobs) -> None:
    add(Corpora(blobs), world.folder, TEXT, name="mine")


def corpus_is_whole(world: World) -> None:
    corpora = Corpora(world.blobs)
    assert "".join(corpora.pieces("mine")) == TEXT.decode()
    assert [corpus.id for corpus in corpora.all()] == [corpora.get("mine").id]
    assert set(corpora.names()) == {"mine"}


def delete_corpus(world: World, blobs: Blobs) -> None:
    Corpora(blobs).delete(world.made)


def make_corpus(world: World) -> None:
    world.made = add(Corpora(world.blobs), world.folder, TEXT, name="mine")[0].id


def corpus_is_gone(world: World) -> None:
    assert world.blobs.paths("corpora") == [] and Corpora(world.blobs).names() == {}


def make_model(world: World) -> None:
    world.made = Models(world.blobs).publish(card(), FILES, attempt=1)


def are_models(*names: str) -> Callable[[World], None]:
    def check(world: World) -> None:
        models = Models(world.blobs)
        saved = models.all()  # a renaming that was cut short leaves two versions of the new name
        assert {model.name for model in saved} == set(names) and len({model.id for model in saved}) == len(
            names
        )
        for model in saved:
            assert {file: models.get(model.reference).file(file) for file in FILES} == FILES

    return check


def move_alias(world: World, blobs: Blobs) -> None:
    aliases = Models(blobs).aliases
    moves = aliases.current()
    if not moves:
        aliases.move("m", "best", 1, after=None)


def alias_is_moved(world: World) -> None:
    assert Models(world.blobs).get("m@best").card.id == world.made.id


def make_job(world: World) -> None:
    world.made = Jobs(world.blobs).create(REQUEST).id


def cancel_job(world: World, blobs: Blobs) -> None:
    job = Jobs(blobs).get(world.made)
    if job.status is not JobStatus.CANCELLED:
        Jobs(blobs).move(job, JobStatus.CANCELLED)


def job_is_cancelled(world: World) -> None:
    assert [(job.id, job.status) for job in Jobs(world.blobs).all()] == [(world.made, JobStatus.CANCELLED)]


def make_alert(world: World) -> None:
    world.redis.flushall()
    Alerts(world.redis, world.blobs).record([one()])


def label_alert(world: World, blobs: Blobs) -> None:
    Alerts(world.redis, blobs).label("m", ALERT, "incident", by="ann")


def alert_is_labeled(world: World) -> None:
    [alert] = Alerts(world.redis, world.blobs).all("m")
    assert alert.label == "incident"


def finished(batches: Batches, batch: Batch) -> Batch:
    """Move a batch to its end, by the longest way."""
    for status in (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.COMPLETED):
        batch = batches.move(batch, status)
    return batch


def make_batch(world: World) -> None:
    world.redis.flushall()
    batches = Batches(world.blobs, world.redis)
    world.made = finished(batches, batches.create(**ABOUT))
    batches.write_input(world.made.id, 0, [b"{}"])


def delete_batch(world: World, blobs: Blobs) -> None:
    Batches(blobs, world.redis).delete(world.made)


def batch_is_gone(world: World) -> None:
    assert Batches(world.blobs, world.redis).all() == []
    assert world.blobs.paths("batches") == world.blobs.paths("batch_chunks") == []


def nothing(_: World) -> None:
    pass


Step = Callable[[World], None]

SCENARIOS: dict[str, tuple[Step, Callable[[World, Blobs], object], Step]] = {
    "upload a corpus": (nothing, upload, corpus_is_whole),
    "delete a corpus": (make_corpus, delete_corpus, corpus_is_gone),
    "publish a model": (
        nothing,
        lambda _, blobs: Models(blobs).publish(card(), FILES, attempt=1),
        are_models("m"),
    ),
    "rename a model": (make_model, lambda _, blobs: Models(blobs).rename("m@1", "n"), are_models("n")),
    "delete a model": (make_model, lambda _, blobs: Models(blobs).delete("m@1"), are_models()),
    "move an alias": (make_model, move_alias, alias_is_moved),
    "cancel a job": (make_job, cancel_job, job_is_cancelled),
    "label an alert": (make_alert, label_alert, alert_is_labeled),
    "delete a batch": (make_batch, delete_batch, batch_is_gone),
}
"""What there is before, what is done, and what must be then."""


@contextlib.contextmanager
def as_it_may_end() -> Iterator[None]:
    with contextlib.suppress(Killed, Unavailable):
        yield


@pytest.mark.parametrize(
    ("meanwhile", "is_after"),
    [(die, False), (storage_fails, False), (storage_fails, True)],
    ids=["killed", "failed", "reply lost"],
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_failed_at_any_call_of_the_storage_can_be_done_again(
    scenario: str, meanwhile: Callable[[], object], is_after: bool, redis: Redis, tmp_path: Path
) -> None:
    prepare, do, check = SCENARIOS[scenario]
    for call in every_call(more_than=1, meanwhile=meanwhile, is_after=is_after):
        world = World(open_blobs("memory:///"), redis, tmp_path)
        prepare(world)
        with as_it_may_end():
            do(world, call.blobs(world.blobs))
        with contextlib.suppress(NotFound):  # it was done, and only the answer was lost
            do(world, world.blobs)
        try:
            check(world)
        except AssertionError as error:
            error.add_note(f"{meanwhile.__name__} {call}")
            raise
