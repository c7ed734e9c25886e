import json
from dataclasses import asdict
from pathlib import Path

import pytest

from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.open_blobs import open_blobs
from tests.store.uploads import add


@pytest.fixture
def corpora(blobs: Blobs) -> Corpora:
    return Corpora(blobs)


def test_a_record_from_before_encodings_is_of_a_text(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpus, _ = add(Corpora(blobs), tmp_path, b"an old text")
    old = {k: v for k, v in asdict(corpus).items() if k != "encoding"}
    blobs.write(f"corpora/{corpus.id}/corpus.json", json.dumps(old).encode())
    assert Corpora(blobs).get(corpus.id) == corpus


def test_a_record_from_before_kinds_were_recognized_still_loads(corpora: Corpora, tmp_path: Path) -> None:
    corpus, _ = add(corpora, tmp_path, b"hello\nworld\n")
    old = {
        k: v
        for k, v in asdict(corpus).items()
        if k not in ("kind", "kind_reason", "suggested_masks", "log_sample")
    }
    corpora._blobs.write(f"corpora/{corpus.id}/corpus.json", json.dumps(old).encode())
    assert (corpora.get(corpus.id).kind, corpora.get(corpus.id).suggested_masks) == (None, [])


def test_an_earlier_release_can_read_the_record_of_a_plain_upload(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    corpus, _ = add(corpora, tmp_path, b"a text", name="mine")
    record = json.loads(blobs.read(f"corpora/{corpus.id}/corpus.json"))
    assert not {"files", "version", "repeated_lines", "uploaded_again_at"} & set(record)
    assert (corpora.get("mine"), corpora.get("mine").version) == (corpus, 1)
    later, _ = add(corpora, tmp_path, b"another text", name="mine")
    assert (corpora.get("mine"), later.version) == (later, 2)
    assert corpora.get("mine@1") == corpus
    assert corpora.delete("mine") == later.id
    assert corpora.get("mine") == corpus
