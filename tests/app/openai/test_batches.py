import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nextchar.app.openai.batches import Batch, Batches, BatchStatus
from nextchar.models.errors import Conflict, NotFound, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs
from tests.every_call import Call
from tests.store.refusing import Refusing, unavailable

ABOUT = {
    "endpoint": "/v1/completions",
    "input_file": "corpus_000000000000",
    "completion_window": "24h",
    "created_at": 1,
    "expires_at": 2,
}
FIRST, SECOND, THIRD = (f"batch_{number:012x}" for number in (1, 2, 3))


@pytest.fixture
def blobs() -> Blobs:
    return open_blobs("memory:///")


@pytest.fixture
def batches(blobs: Blobs, redis: Redis) -> Batches:
    return Batches(blobs, redis)


def finished(batches: Batches, batch: Batch) -> Batch:
    """Move a batch to its end, by the longest way."""
    for status in (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.COMPLETED):
        batch = batches.move(batch, status)
    return batch


def test_a_new_batch_waits_to_be_validated(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    assert batches.get(batch.id) == batch
    assert (batch.status, batch.sequence, batch.requests) == (BatchStatus.VALIDATING, 0, 0)
    assert (batch.completed, batch.failed, batch.is_expired) == (0, 0, False)
    assert (batch.has_ended, batch.ended_at, batch.moved_at) == (False, None, {})


def test_an_id_is_given_to_one_batch(batches: Batches) -> None:
    batch = batches.create(id=FIRST, **ABOUT)
    with pytest.raises(Conflict, match=FIRST) as caught:
        batches.create(id=FIRST, **ABOUT | {"endpoint": "/v1/other"})
    assert caught.value.code == "batch_exists"
    assert batches.get(FIRST) == batch


def test_a_batch_is_recorded_while_redis_does_not_work(blobs: Blobs) -> None:
    nowhere = Redis(unix_socket_path="/nowhere", retry=Retry(NoBackoff(), 0))
    batch = Batches(blobs, nowhere).create(**ABOUT)
    assert Batches(blobs, nowhere).get(batch.id) == batch


def test_every_transition_is_a_record_with_its_time(
    batches: Batches, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [99.0]
    monkeypatch.setattr("nextchar.app.openai.batches.time.time", lambda: now[0])
    batch = batches.create(id=FIRST, **ABOUT)

    def move(to: BatchStatus, **changes: object) -> Batch:
        now[0] += 1
        return batches.move(batch, to, **changes)

    batch = move(BatchStatus.IN_PROGRESS, chunk_sizes=(3, 2))
    batch = move(BatchStatus.CANCELLING)
    batch = move(BatchStatus.CANCELLING, included=(0,))
    assert batch.ended_at is None
    batch = move(BatchStatus.CANCELLED, completed=2, failed=1)
    assert blobs.paths("batches") == [f"batches/{FIRST}/{n:06d}.json" for n in range(5)]
    assert (batch.sequence, batch.requests, batch.included) == (4, 5, (0,))
    assert batch.moved_at == {"in_progress": 100, "cancelling": 101, "cancelled": 103}, "when it was first so"
    assert (batch.has_ended, batch.ended_at) == (True, 103)
    assert Batches(blobs, Redis()).get(FIRST) == batch


def test_a_transition_that_there_is_not_is_refused_with_the_state(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    with pytest.raises(Conflict, match="is validating and cannot become completed") as caught:
        batches.move(batch, BatchStatus.COMPLETED)
    assert caught.value.code == "batch_validating"
    done = finished(batches, batch)
    with pytest.raises(Conflict) as caught:
        batches.move(done, BatchStatus.CANCELLING)
    assert caught.value.code == "batch_completed"
    assert batches.get(batch.id) == done


def test_of_two_transitions_from_the_same_state_the_first_holds(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    moved = batches.move(batch, BatchStatus.IN_PROGRESS)
    with pytest.raises(Conflict, match="read it again") as caught:
        batches.move(batch, BatchStatus.CANCELLED)
    assert caught.value.code == "batch_moved"
    assert batches.get(batch.id) == moved


def test_a_batch_that_was_deleted_does_not_come_back(batches: Batches, blobs: Blobs) -> None:
    batch = batches.create(**ABOUT)
    batches.delete(batches.move(batch, BatchStatus.CANCELLED))
    with pytest.raises(Conflict) as caught:
        batches.move(batch, BatchStatus.IN_PROGRESS, chunk_sizes=(1,))  # by a process that has read it before
    assert caught.value.code == "batch_moved"
    assert blobs.paths("batches") == []


@pytest.mark.parametrize("batch_id", [FIRST, "../jobs", "", "job_000000000001"])
def test_an_unknown_batch_is_not_found(batches: Batches, batch_id: str) -> None:
    with pytest.raises(NotFound) as caught:
        batches.get(batch_id)
    assert (caught.value.code, caught.value.param) == ("batch_not_found", "batch_id")


def test_all_are_listed_newest_first_and_unfinished_ones_oldest_first(batches: Batches) -> None:
    first, second, third = (batches.create(id=one, **ABOUT) for one in (FIRST, SECOND, THIRD))
    first = batches.move(first, BatchStatus.IN_PROGRESS)
    second = finished(batches, second)
    for _ in range(2):  # from the storage, and from memory
        assert batches.all() == [third, second, first]
        assert batches.unfinished() == [first, third]


def test_a_damaged_record_hides_no_other_and_is_named(batches: Batches, blobs: Blobs) -> None:
    batch = batches.create(id=FIRST, **ABOUT)
    batches.create(id=SECOND, **ABOUT)
    path = f"batches/{SECOND}/000000.json"
    blobs.write(path, b"{")
    assert batches.all() == [batch]
    with pytest.raises(Unavailable, match=f"{path} is damaged; restore it") as caught:
        batches.get(SECOND)
    assert caught.value.code == "batch_damaged"
    blobs.write(path, batch.model_dump_json().replace("validating", "dreaming").encode())
    with pytest.raises(Unavailable, match="upgrade"):
        batches.get(SECOND)


def test_batches_are_not_skipped_while_the_storage_does_not_answer(blobs: Blobs, redis: Redis) -> None:
    Batches(blobs, redis).create(**ABOUT)
    with pytest.raises(Unavailable) as caught:
        Batches(Refusing(blobs, read=("batches",), error=unavailable), redis).all()
    assert caught.value.code == "storage_unavailable"


def test_a_batch_that_is_deleted_while_it_is_read_is_not_there(blobs: Blobs, redis: Redis) -> None:
    ended = finished(Batches(blobs, redis), Batches(blobs, redis).create(**ABOUT))
    call = Call(1, lambda: Batches(blobs, redis).delete(ended))
    assert Batches(call.blobs(blobs), redis).all() == []
    assert call.has_come


def test_an_ended_batch_is_read_once_until_it_is_deleted(blobs: Blobs, redis: Redis) -> None:
    ours, theirs = Batches(blobs, redis), Batches(blobs, redis)
    ended = finished(theirs, theirs.create(id=FIRST, **ABOUT))
    assert ours.get(FIRST) is ours.get(FIRST) is ours.all()[0]
    theirs.delete(ended)
    assert ours.all() == []
    with pytest.raises(NotFound):
        ours.get(FIRST)
    again = theirs.create(id=FIRST, **ABOUT)
    assert ours.get(FIRST) == again and ours.all() == [again], "nothing of the deleted one is remembered"


def test_a_batch_that_goes_on_is_read_anew(blobs: Blobs, redis: Redis) -> None:
    ours, theirs = Batches(blobs, redis), Batches(blobs, redis)
    batch = theirs.create(**ABOUT)
    assert ours.get(batch.id) == batch
    ended = finished(theirs, batch)
    assert ours.get(batch.id) == ended and ours.all() == [ended]


def test_requests_and_answers_of_a_chunk_are_read_as_they_were_written(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    lines = [b'{"a": "\xc3\xbc"}', b"", b"last"]
    batches.write_input(batch.id, 7, lines)
    assert batches.read_input(batch.id, 7, count=3) == lines
    assert batches.create_answers(batch, 7, [b"+1", b"-2", b"+3"])
    assert list(batches.read_answers(batch.id, 7)) == [b"+1", b"-2", b"+3"]
    assert batches.batches_with_chunks() == [batch.id]
    assert batches.delete_chunks(batch.id) == 2
    with pytest.raises(FileNotFoundError):
        batches.read_input(batch.id, 7, count=3)
    with pytest.raises(FileNotFoundError):
        list(batches.read_answers(batch.id, 7))


def test_of_two_processes_that_answer_a_chunk_the_first_counts(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    assert batches.create_answers(batch, 0, [b"+first"])
    assert not batches.create_answers(batch, 0, [b"-second", b"-third"])
    assert list(batches.read_answers(batch.id, 0)) == [b"+first"]


def test_chunks_with_answers_are_in_order_of_their_numbers(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    for chunk in (10, 2, 0):
        batches.write_input(batch.id, chunk, [b"{}"])
        batches.create_answers(batch, chunk, [b"+"])
    batches.write_input(batch.id, 1, [b"{}"])
    assert batches.answered_chunks(batch.id) == [0, 2, 10]


def test_counts_are_those_of_the_progress_until_the_batch_has_ended(batches: Batches) -> None:
    batch = batches.create(**ABOUT)
    assert batches.counts(batch) == (0, 0)
    batches.live.set_progress(batch.id, {"completed": 3, "failed": 1})
    assert batches.counts(batch) == (3, 1)
    ended = finished(batches, batch).model_copy(update={"completed": 5, "failed": 6})
    assert batches.counts(ended) == (5, 6), "as its record says"
