import logging

import pytest
from pydantic import BaseModel, ValidationError

from nextchar.models.errors import Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.history import History, ImmutableRecord, read_record
from nextchar.store.open_blobs import open_blobs


class Change(ImmutableRecord):
    text: str


def history(blobs: Blobs) -> History[Change]:
    return History(blobs, "changes", Change, digits=4, damaged="change_damaged")


@pytest.fixture
def blobs(each_storage: Blobs) -> Blobs:
    return each_storage


def test_of_two_writers_one_appends_and_a_deleted_history_does_not_come_back(blobs: Blobs) -> None:
    one, other = history(blobs), history(blobs)
    assert one.create(7, Change(text="a"), "x", "y") and not other.create(7, Change(text="b"), "x", "y")
    assert other.append(8, Change(text="b"), "x", "y") and not one.append(8, Change(text="c"), "x", "y")
    assert [one.read(path).text for path in one.paths("x", "y")] == ["a", "b"]
    one.delete(8, "x", "y")
    assert not other.append(9, Change(text="c"), "x", "y") and other.paths() == []


def test_a_record_that_comes_while_its_history_is_deleted_stays(blobs: Blobs) -> None:
    changes = history(blobs)
    for number in range(3):
        changes.create(number, Change(text=str(number)), "x")
    changes.delete(1, "x")
    assert changes.newest_paths() == changes.paths("x") == [changes.path(2, "x")]


def test_a_damaged_record_is_logged_once_and_hides_no_other(
    blobs: Blobs, caplog: pytest.LogCaptureFixture
) -> None:
    changes = history(blobs)
    changes.create(0, Change(text="whole"), "x")
    blobs.write("changes/y/0000.json", b"{")
    with caplog.at_level(logging.WARNING, logger="nextchar.store"):
        for _ in range(3):
            assert list(map(changes.find, changes.newest_paths())) == [Change(text="whole"), None]
    assert len(caplog.records) == 1
    with pytest.raises(Unavailable, match=r"changes/y/0000\.json is damaged") as caught:
        changes.read("changes/y/0000.json")
    assert caught.value.code == "change_damaged"


class Thing(BaseModel):
    count: int


def test_a_damaged_record_is_logged_and_omitted(caplog: pytest.LogCaptureFixture) -> None:
    blobs = open_blobs("memory:///")
    blobs.write("things/a.json", b'{"count": 2}')
    blobs.write("things/b.json", b"{")
    assert read_record(blobs, "things/a.json", Thing) == Thing(count=2)
    with caplog.at_level(logging.WARNING):
        assert read_record(blobs, "things/b.json", Thing) is None
    assert "things/b.json is damaged" in caplog.text
    with pytest.raises(FileNotFoundError):
        read_record(blobs, "things/c.json", Thing)


def test_a_record_that_readers_share_cannot_be_changed() -> None:
    class Shared(ImmutableRecord):
        count: int

    record = Shared(count=2)
    with pytest.raises(ValidationError, match="frozen"):
        record.count = 3
    assert record.count == 2 and hash(record) == hash(Shared(count=2))
