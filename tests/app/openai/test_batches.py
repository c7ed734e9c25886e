import pytest
from redis import Redis

from nextchar.app.openai.batches import Batches, BatchStatus
from nextchar.models.errors import Conflict, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs
from tests.store.refusing import Refusing, unavailable

ABOUT = {
    "endpoint": "/v1/completions",
    "input_file": "corpus_000000000000",
    "completion_window": "24h",
    "created_at": 1,
    "expires_at": 2,
}


@pytest.fixture
def blobs() -> Blobs:
    return open_blobs("memory:///")


@pytest.fixture
def batches(blobs: Blobs, redis: Redis) -> Batches:
    return Batches(blobs, redis)


def test_of_two_transitions_from_the_same_state_the_first_holds(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    moved = batches.move(batch, BatchStatus.IN_PROGRESS)
    with pytest.raises(Conflict, match="read it again") as caught:
        batches.move(batch, BatchStatus.CANCELLED)
    assert caught.value.code == "batch_moved"
    assert batches.get(batch.id) == moved


def test_batches_are_not_skipped_while_the_storage_does_not_answer(blobs: Blobs, redis: Redis) -> None:
    Batches(blobs, redis).create(**ABOUT)
    with pytest.raises(Unavailable) as caught:
        Batches(Refusing(blobs, read=("batches",), error=unavailable), redis).all()
    assert caught.value.code == "storage_unavailable"


def test_of_two_processes_that_answer_a_chunk_the_first_counts(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    assert batches.create_answers(batch, 0, [b"+first"])
    assert not batches.create_answers(batch, 0, [b"-second", b"-third"])
    assert list(batches.read_answers(batch.id, 0)) == [b"+first"]
