"""From text to ids, in pieces and on disk."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from nextchar.models.errors import StorageFull, Unavailable
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker.prepared_text import Text, read_text, trained_characters

ROOT = Path(__file__).parents[2]
WORDS = "a bit of text, in pieces. " * 10


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_ids_do_not_depend_on_the_pieces(size: int, tmp_path: Path) -> None:
    pieces = [WORDS[at : at + size] for at in range(0, len(WORDS), size)]
    text = read_text(
        pieces,
        characters=len(WORDS),
        trained=lambda length: trained_characters(length, 0.1),
        scratch=tmp_path,
    )
    known = Vocabulary(WORDS[:-26])
    assert text.vocabulary == known
    assert text.train[:].tolist() == known.encode(WORDS[:-26]).tolist()
    assert text.validation[:].tolist() == known.encode(WORDS[-26:]).tolist()
    assert text.prompt == WORDS[:-26][-100:]
    np.testing.assert_allclose(text.frequencies(), np.bincount(text.train[:]) / len(text.train))


def test_rare_characters_beyond_the_coverage_are_unknown_and_reported() -> None:
    common, rare = "ab" * 500, "xyz"
    text = Text.split(common + rare + "abqx" * 25, validation_fraction=100 / 1103, coverage=0.995)
    assert text.vocabulary.characters == "ab"
    assert text.train[-3:].tolist() == [0, 0, 0]
    assert text.unknown == {"characters": 3, "train_share": 3 / 1003, "validation_share": 0.5}
    assert text.frequencies()[0] == 3 / 1003


def test_of_equally_rare_characters_lower_code_points_are_kept() -> None:
    text = Text.split("a" * 96 + "zyxw" + "a" * 11, validation_fraction=11 / 111, coverage=0.98)
    assert text.vocabulary.characters == "awx"


def test_full_coverage_knows_every_character_of_the_training_part() -> None:
    distinct = "".join(map(chr, range(33, 33 + 301)))
    text = Text.split(distinct * 3, validation_fraction=0.1, coverage=1.0)
    assert text.vocabulary.characters == distinct
    assert text.unknown["train_share"] == 0


def test_required_characters_are_in_the_vocabulary() -> None:
    text = Text.split(WORDS, validation_fraction=0.1, required="é!", coverage=0.9)
    assert {"é", "!", "a"} <= set(text.vocabulary.characters)
    assert text.frequencies()[text.vocabulary.encode("!")[0]] == 0
    assert "x" not in text.vocabulary.characters


def test_a_text_that_is_not_as_long_as_its_record_says_is_damaged() -> None:
    with pytest.raises(Unavailable, match="upload it again") as caught:
        read_text(["ab"], characters=3, trained=lambda _: 2)
    assert caught.value.code == "corpus_damaged"


def test_nothing_lies_in_the_scratch_folder_even_while_the_text_is_used(tmp_path: Path) -> None:
    text = Text.split(WORDS, validation_fraction=0.1, scratch=tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert len(text.train[:]) == 234


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b"))  # noqa: PTH123, SIM115
    with pytest.raises(StorageFull):
        Text.split("ab" * 10**6, validation_fraction=0.1)


_BOUNDED = """
import resource, sys
from pathlib import Path
from nextchar.store.open_blobs import open_blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.worker.prepared_text import read_text

folder = Path(sys.argv[1])
piece = ("The same few words, öfter als einmal. " * 30_000).encode()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
corpora = Corpora(open_blobs((folder / "store").as_uri()))
with Upload(folder / "spool", limit_bytes=10**9) as upload:
    for _ in range(50):
        upload.feed(piece)
    corpus, _ = corpora.add(upload)
uploaded = peak()
text = read_text(
    corpora.pieces(corpus.id), characters=corpus.characters, trained=lambda length: length * 9 // 10,
    scratch=folder / "scratch",
)
print(corpus.bytes >> 20, round(uploaded - before), round(peak() - before), len(text.train))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _BOUNDED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    mebibytes, uploading, reading, trained = map(int, ran.stdout.split())
    assert mebibytes > 50
    assert trained > 50 * 10**6
    assert uploading < 45
    assert reading < 45
