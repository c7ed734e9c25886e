"""Reading records of which one may be damaged."""

import logging

import pytest
from pydantic import BaseModel

from store.open_blobs import open_blobs
from store.records import read_record


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
