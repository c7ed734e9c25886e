from pathlib import Path

import numpy as np

from models.config import Mix, NetworkConfig, TrainingConfig
from store.corpora import Corpora
from store.corpus_upload import Upload
from store.jobs import JobRequest
from store.models import Models
from store.open_blobs import open_blobs
from worker.job_text import masked_pieces, second_text
from worker.prepared_text import Text


def test_a_second_text_is_masked_as_the_first_one_is(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    with Upload(tmp_path, limit_bytes=10_000) as upload:
        upload.feed(b"disk 12 is full\n" * 20)
        second, _ = corpora.add(upload)
    mix = Mix(corpus=second.id, targets="text")
    request = JobRequest(
        corpus="corpus_1",
        name="m",
        network=NetworkConfig(),
        training=TrainingConfig(),
        masks=("numbers",),
        mix=mix,
    )
    [line] = set("".join(masked_pieces(request, corpora, second.id)).split("\n")) - {""}
    assert "12" not in line
    text = Text.split(f"{line}\n" * 50, validation_fraction=0.1)
    mixed = second_text(
        request,
        corpora,
        Models(blobs),
        text,
        scratch=tmp_path,
        chunks_of=lambda *_: None,
        cores=1,
        on_event=lambda *_: None,
    )
    assert mixed is not None
    assert text.vocabulary.decode(np.asarray(mixed.ids)) == f"{line}\n" * 20
