import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nextchar.models.config import Budget, Mix, NetworkConfig, TrainingConfig
from nextchar.models.errors import NotFound
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import JobRequest, Jobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.worker.hooks import Hooks, ScratchFull
from nextchar.worker.job_text import masked_pieces, max_masking_s, second_characters, second_text
from nextchar.worker.mixing import SecondText
from nextchar.worker.pipeline import train_model
from nextchar.worker.prepared_text import Text


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


def test_a_teacher_that_was_deleted_is_named(tmp_path: Path) -> None:
    corpora = Corpora(open_blobs("memory:///"))
    request = _request("corpus_1", "corpus_1")
    assert request.mix is not None
    mix = request.mix.model_copy(update={"teacher": "large@3"})
    text = Text.split("abc " * 250, validation_fraction=0.1)
    with pytest.raises(NotFound, match="large@3, the teacher of this job, was deleted") as caught:
        _second_text(request.model_copy(update={"mix": mix}), corpora, text, tmp_path)
    assert caught.value.code == "teacher_deleted"


WIDE = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 2 + "\n"
"""601 characters, 301 of them distinct, in 1,801 bytes."""
PLAIN = "a line of a text\n" * 40
"""680 characters."""


@pytest.mark.parametrize(
    ("text", "fields", "cache_bytes", "needed_bytes"),
    [
        (PLAIN, {}, None, 680),
        (PLAIN, {}, 1000, 680),
        (PLAIN, {}, 500, 500),
        (PLAIN, {"masks": ("timestamp", "digits")}, None, 680),
        (PLAIN, {"kind": "records"}, 500, 680 + 680),
        (WIDE, {}, None, 2 * 601),
        (WIDE, {"alphabet": "bytes"}, None, 1801),
        (WIDE, {"kind": "records"}, None, 2 * 601 + 1801),
        (WIDE, {"kind": "records", "alphabet": "bytes"}, None, 1801 + 2 * 1801),
        (WIDE[:255] * 3, {"masks": ("digits",)}, None, 2 * 765),
        (PLAIN, {"mix": WIDE}, None, 680 + 2 * 601),
        (PLAIN, {"mix": WIDE}, 1000, 680 + 1000),
        (PLAIN, {"mix": PLAIN}, None, 680),
    ],
)
def test_a_text_that_does_not_fit_in_the_scratch_folder_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    fields: dict[str, Any],
    cache_bytes: int | None,
    needed_bytes: int,
) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    corpus = _add(corpora, text.encode(), tmp_path)
    if "mix" in fields:
        other = _add(corpora, fields["mix"].encode(), tmp_path)
        fields = {"mix": Mix(corpus=other, targets="text")}
    request = JobRequest(
        corpus=corpus, name="m", network=NetworkConfig(), training=TrainingConfig(), **fields
    )
    free_bytes = needed_bytes - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))

    class Read(Exception):
        """The corpus was read."""

    def read(*_: Any, **__: Any) -> Any:
        raise Read

    def train() -> None:
        train_model(
            Jobs(blobs).create(request),
            corpora=corpora,
            models=Models(blobs),
            scratch=tmp_path / "scratch",
            cores=1,
            corpus_cache_bytes=cache_bytes,
            resume=None,
            hooks=Hooks(),
        )

    monkeypatch.setattr(corpora, "pieces", read)
    monkeypatch.setattr(corpora, "chunks", read)
    with pytest.raises(ScratchFull) as caught:
        train()
    assert caught.value.needed_bytes == needed_bytes
    free_bytes += 1
    with pytest.raises(Read):
        train()


def test_masking_may_take_the_budget_or_what_is_enough_for_any_text() -> None:
    corpus: Any = SimpleNamespace(bytes=2_000_000)
    corpora: Any = SimpleNamespace(get=lambda _: corpus)

    def max_s(seconds: float, **changes: object) -> float | None:
        training = TrainingConfig(budget=Budget(seconds=seconds))
        request = _request("own", "other", masks=("numbers",))
        return max_masking_s(request.model_copy(update={"training": training} | changes), corpora, corpus)

    assert max_s(200) == 200
    assert max_s(1) == pytest.approx(100) and max_s(1, mix=None) == pytest.approx(80)
    assert max_s(1, masks=()) is None
