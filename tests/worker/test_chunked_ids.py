"""A text that is read from the storage in chunks has the ids of a local copy."""

import itertools
import os
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextchar.models.architectures import resolve_training
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.errors import Unavailable
from nextchar.models.text.masks import Masks
from nextchar.models.text.vocabulary import Alphabet
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus, Encoding, Upload
from nextchar.store.jobs import Job, JobRequest
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.worker import pipeline
from nextchar.worker.checkpoints import Checkpoint
from nextchar.worker.chunked_ids import ChunkedIds, CorpusChunks
from nextchar.worker.hooks import Hooks
from nextchar.worker.pipeline import train_model
from nextchar.worker.prepared_text import Text, read_ids, read_text, trained_characters
from nextchar.worker.rows import Rows
from nextchar.worker.training import fit
from tests.store.refusing import Refusing

LINE = "Größe: 12 μm, e\u0301tage 3\n"
CACHE_BYTES = 64 << 20


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    if request.param == "memory":
        return open_blobs("memory:///")
    return open_blobs(tmp_path_factory.mktemp("store").as_uri())


def _add(blobs: Blobs, folder: Path, data: bytes, encoding: Encoding = "utf-8") -> Corpus:
    with Upload(folder, limit_bytes=10**9, encoding=encoding) as upload:
        upload.feed(data)
        return Corpora(blobs).add(upload)[0]


def _both(
    blobs: Blobs, corpus: Corpus, *, alphabet: Alphabet = "characters", masks: tuple[str, ...] = (), size: int
) -> tuple[Text, Text]:
    """Return the text of a corpus with a local copy, and in chunks of about `size` bytes."""
    corpora = Corpora(blobs)

    def pieces() -> list[str]:
        found = corpora.pieces(corpus.id, alphabet)
        return list(Masks(masks).apply_to_pieces(found) if masks else found)

    characters = sum(map(len, pieces()))
    chunks = CorpusChunks(corpora, corpus.id, alphabet, CACHE_BYTES, masks, chunk_bytes=size)
    local, chunked = (
        read_text(
            pieces(),
            characters=None if masks else characters,
            trained=lambda length: trained_characters(length, 0.2),
            alphabet=alphabet,
            coverage=0.99,
            chunks=how,
        )
        for how in (None, chunks)
    )
    return local, chunked


def _assert_equal(local: Text, chunked: Text) -> None:
    assert isinstance(chunked.train, ChunkedIds)
    assert chunked.vocabulary == local.vocabulary
    assert (chunked.prompt, chunked.unknown) == (local.prompt, local.unknown)
    np.testing.assert_array_equal(chunked.counts, local.counts)  # type: ignore[arg-type]
    for name in ("train", "validation", "selection", "test"):
        np.testing.assert_array_equal(getattr(chunked, name)[:], getattr(local, name)[:])
        assert getattr(chunked, name)[:].dtype == np.int32


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
@pytest.mark.parametrize("alphabet", ["characters", "bytes"])
def test_ids_are_those_of_a_local_copy(blobs: Blobs, tmp_path: Path, size: int, alphabet: Alphabet) -> None:
    corpus = _add(blobs, tmp_path, (LINE * 40 + "漢").encode())
    local, chunked = _both(blobs, corpus, alphabet=alphabet, size=size)
    _assert_equal(local, chunked)


@pytest.mark.parametrize("size", [7, 300])
def test_masks_are_applied_to_whole_lines(blobs: Blobs, tmp_path: Path, size: int) -> None:
    lines = (f"2026-11-27T10:00:{n % 60:02} from 10.0.0.{n} port {n * 37}\n" for n in range(100))
    corpus = _add(blobs, tmp_path, "".join(lines).encode())
    local, chunked = _both(blobs, corpus, masks=("timestamp", "ip", "number"), size=size)
    _assert_equal(local, chunked)
    assert "2026" not in chunked.vocabulary.decode(chunked.train[:1000])


def test_a_corpus_of_bytes_is_cut_anywhere(blobs: Blobs, tmp_path: Path) -> None:
    corpus = _add(blobs, tmp_path, bytes(range(256)) * 9, encoding="bytes")
    _assert_equal(*_both(blobs, corpus, alphabet="bytes", size=100))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.text(st.sampled_from("a\u0301\u1100\u1161\u11a8\uac00é漢\n\u3099か"), min_size=20), st.integers(1, 9)
)
def test_chunks_are_normalized_as_the_whole(tmp_path: Path, text: str, size: int) -> None:
    blobs = open_blobs("memory:///")
    corpus, corpora = _add(blobs, tmp_path, text.encode()), Corpora(blobs)
    chunks = list(corpora.chunks(corpus.id, "characters", chunk_bytes=size))
    assert "".join(piece for _, piece in chunks) == unicodedata.normalize("NFC", text)
    ends = [*(start for start, _ in chunks[1:]), None]
    for (start, piece), end in zip(chunks, ends, strict=True):
        assert corpora.chunk(corpus.id, "characters", start, end) == piece


def test_windows_of_training_are_those_of_a_local_copy_and_each_chunk_is_read_once_an_epoch(
    tmp_path: Path,
) -> None:
    blobs = open_blobs("memory:///")
    corpus = _add(blobs, tmp_path, (LINE * 400).encode())
    local, chunked = _both(blobs, corpus, size=200)
    rows = [Rows.cut(text.train, rows=5, window=7) for text in (local, chunked)]
    assert isinstance(chunked.train, ChunkedIds)
    loads = chunked.train.cache.loads
    for index in range(rows[0].windows_per_epoch):
        for ours, theirs in zip(*(r.window_at(epoch=0, index=index) for r in rows), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert chunked.train.cache.loads - loads <= len(chunked.train.cache.first_ids) - 1


def test_the_local_file_has_a_bound_and_the_chunk_unused_for_longest_is_dropped(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpus = _add(blobs, tmp_path, (LINE * 1000).encode())
    chunks = CorpusChunks(Corpora(blobs), corpus.id, "characters", 6000, chunk_bytes=600)
    text = read_text([], characters=corpus.characters, trained=lambda _: 20_000, chunks=chunks)
    ids = text.train
    assert isinstance(ids, ChunkedIds)
    whole = ids[:]
    assert 0 < os.fstat(ids.cache.descriptor).st_size <= 6000
    before = ids.cache.loads
    assert ids[:5].tolist() == whole[:5].tolist()
    assert ids.cache.loads == before + 1, "the first chunk was dropped"
    ids[:5]
    assert ids.cache.loads == before + 1
    assert list(tmp_path.iterdir()) == []


def test_a_job_with_a_small_cache_has_the_weights_of_one_with_a_local_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: Iterator[None] = iter(())

    def fit_three_steps(*arguments: Any, **options: Any) -> Any:
        nonlocal polls
        polls = iter([None] * 3)
        return fit(*arguments, **options)

    monkeypatch.setattr(pipeline, "fit", fit_three_steps)
    blobs = open_blobs("memory:///")
    corpus = _add(blobs, tmp_path, "".join(f"{n * 7919 % 1000} cats sat\n" for n in range(400)).encode())
    network = NetworkConfig(units=8, layers=1, embedding=4)
    training = resolve_training(network, TrainingConfig(rows=4, window=16, budget=Budget(steps=50)))
    request = JobRequest(corpus=corpus.id, name="m", network=network, training=training)
    job = Job(id="job_1", created_at=time.time(), updated_at=time.time(), request=request)

    def train(cache_bytes: int | None) -> tuple[Checkpoint, str]:
        """Return the checkpoint after three steps, and the job's messages."""
        nonlocal polls
        polls = itertools.repeat(None)  # while the text is prepared
        checkpoints: list[Checkpoint] = []
        messages: list[str] = []
        train_model(
            job,
            corpora=Corpora(blobs),
            models=Models(blobs),
            scratch=tmp_path / "scratch",
            cores=1,
            precision="float32",
            corpus_cache_bytes=cache_bytes,
            resume=None,
            hooks=Hooks(
                event=lambda _, data: messages.append(data.get("text", "")),
                checkpoint=checkpoints.append,
                stop=lambda: next(polls, "pause"),
            ),
        )
        return checkpoints[-1], " ".join(messages)

    (local, said), (chunked, said_in_chunks) = train(None), train(3000)
    assert ("in chunks" in said, "in chunks" in said_in_chunks) == (False, True)
    assert local.step == chunked.step == 3
    assert local.arrays.keys() == chunked.arrays.keys()
    for name, array in local.arrays.items():
        np.testing.assert_array_equal(chunked.arrays[name], array)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_second_text_is_read_in_chunks_too(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpus = _add(blobs, tmp_path, (LINE * 30).encode())
    local, _ = _both(blobs, corpus, size=50)
    chunks = CorpusChunks(Corpora(blobs), corpus.id, "characters", CACHE_BYTES, chunk_bytes=50)
    pieces = Corpora(blobs).pieces(corpus.id)
    in_chunks = read_ids([], local.vocabulary, chunks=chunks)
    np.testing.assert_array_equal(in_chunks[:], read_ids(pieces, local.vocabulary)[:])


def test_a_storage_that_fails_or_a_text_that_changed_is_unavailable(tmp_path: Path) -> None:
    blobs = Refusing(open_blobs("memory:///"))
    corpus = _add(blobs, tmp_path, (LINE * 30).encode())
    chunks = CorpusChunks(Corpora(blobs), corpus.id, "characters", CACHE_BYTES, chunk_bytes=50)
    text = read_text([], characters=corpus.characters, trained=lambda _: 500, chunks=chunks)
    blobs.blobs.write(f"corpora/{corpus.id}/text", b"other\n" * 500)
    with pytest.raises(Unavailable, match="has changed") as changed:
        text.train[100:200]
    assert changed.value.code == "corpus_damaged"
    blobs.blobs.delete(f"corpora/{corpus.id}/text")
    with pytest.raises(Unavailable, match="is lost"):
        text.train[100:200]
