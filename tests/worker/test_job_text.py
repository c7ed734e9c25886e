from pathlib import Path

import numpy as np

from models.config import Mix, NetworkConfig, TrainingConfig
from store.corpora import Corpora
from store.corpus_upload import Upload
from store.jobs import JobRequest
from store.models import Models
from store.open_blobs import open_blobs
from worker.job_text import masked_pieces, second_characters, second_text
from worker.mixing import SecondText
from worker.prepared_text import Text


def _add(corpora: Corpora, text: bytes, scratch: Path) -> str:
    with Upload(scratch, limit_bytes=10_000) as upload:
        upload.feed(text)
        return corpora.add(upload)[0].id


def _request(corpus: str, mixed: str, *, masks: tuple[str, ...] = ()) -> JobRequest:
    return JobRequest(
        corpus=corpus,
        name="m",
        network=NetworkConfig(),
        training=TrainingConfig(),
        masks=masks,
        mix=Mix(corpus=mixed, targets="text"),
    )


def _second_text(request: JobRequest, corpora: Corpora, text: Text, scratch: Path) -> SecondText:
    second = second_text(
        request,
        corpora,
        Models(open_blobs("memory:///")),
        text,
        scratch=scratch,
        chunks_of=lambda *_: None,
        cores=1,
        on_event=lambda *_: None,
    )
    assert second is not None
    return second


def test_a_second_text_is_masked_as_the_first_one_is(tmp_path: Path) -> None:
    corpora = Corpora(open_blobs("memory:///"))
    second = _add(corpora, b"disk 12 is full\n" * 20, tmp_path)
    request = _request("corpus_1", second, masks=("numbers",))
    [line] = set("".join(masked_pieces(request, corpora, second)).split("\n")) - {""}
    assert "12" not in line
    text = Text.split(f"{line}\n" * 50, validation_fraction=0.1)
    mixed = _second_text(request, corpora, text, tmp_path)
    assert text.vocabulary.decode(np.asarray(mixed.ids)) == f"{line}\n" * 20


def test_of_a_text_mixed_with_itself_nothing_held_out_is_trained_on(tmp_path: Path) -> None:
    corpora = Corpora(open_blobs("memory:///"))
    characters = "abc " * 225 + "xyz " * 25
    own = _add(corpora, characters.encode(), tmp_path)
    other = _add(corpora, b"def " * 20, tmp_path)
    assert second_characters(_request(own, own), corpora) == ""
    assert sorted(second_characters(_request(own, other), corpora)) == [" ", "d", "e", "f"]
    text = Text.split(characters, validation_fraction=0.1)
    mixed = _second_text(_request(own, own), corpora, text, tmp_path)
    np.testing.assert_array_equal(np.asarray(mixed.ids), np.asarray(text.train))
