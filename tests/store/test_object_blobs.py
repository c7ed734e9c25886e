from collections.abc import Iterator
from types import SimpleNamespace

import obstore
import pytest
from obstore.exceptions import GenericError

from models.errors import Unavailable
from store.open_blobs import open_blobs


def test_stream_that_breaks_on_the_way_is_a_storage_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stream(**_: int) -> Iterator[bytes]:
        yield b"some"
        raise GenericError("Generic S3 error: error decoding response body")

    blobs = open_blobs("memory:///")
    monkeypatch.setattr(obstore, "get", lambda *_: SimpleNamespace(stream=stream))
    chunks = blobs.stream("corpora/corpus_1/text")
    assert next(chunks) == b"some"
    with pytest.raises(Unavailable) as caught:
        next(chunks)
    assert caught.value.code == "storage_unavailable"
