"""Reading records of which one may be damaged."""

import logging

import pytest
from pydantic import BaseModel, ValidationError

from nextchar.store.open_blobs import open_blobs
from nextchar.store.records import ImmutableRecord, read_record


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
