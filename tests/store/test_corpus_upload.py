from pathlib import Path

import pytest

from nextchar.models.errors import InvalidInput
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from tests.store.uploads import add


@pytest.fixture
def corpora(blobs: Blobs) -> Corpora:
    return Corpora(blobs)


@pytest.mark.parametrize(
    ("pieces", "offset"),
    [((b"abc\xffdef",), 3), ((b"ab\xe2\x82", b"xx"), 2), ((b"good", b"\xc3"), 4), ((b"\xed\xa0\x80",), 0)],
)
def test_a_bad_byte_is_named_by_its_offset_and_nothing_is_kept(
    corpora: Corpora, tmp_path: Path, pieces: tuple[bytes, ...], offset: int
) -> None:
    with pytest.raises(InvalidInput, match=f"offset {offset} ") as caught:
        add(corpora, tmp_path, *pieces)
    assert caught.value.code == "corpus_not_utf8"
    assert list(tmp_path.iterdir()) == []
    assert corpora.all() == []


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("aaaa", "repeats one character"),
        ("a\r\nb", "1 carriage return: lines end in CR LF"),
        ("a\0b", "NUL"),
        ("\0".join("abc"), "may be UTF-16: convert it with `iconv -f utf-16le"),
        ("\x1b[32mINFO\x1b[0m up", "2 escape characters: colors of a terminal"),
        ("\ufeffab", "byte order mark"),
        ("a\ufffd", "replacement"),
    ],
)
def test_unusual_texts_get_warnings(corpora: Corpora, tmp_path: Path, text: str, warning: str) -> None:
    corpus, _ = add(corpora, tmp_path, text.encode())
    assert any(warning in w for w in corpus.warnings)


@pytest.mark.parametrize(("encoding", "source"), [("utf-16", "utf-16"), ("latin-1", "windows-1252")])
def test_texts_in_other_encodings_are_refused_with_a_remedy(
    corpora: Corpora, tmp_path: Path, encoding: str, source: str
) -> None:
    with pytest.raises(InvalidInput, match=f"is not UTF-8: .* iconv -f {source} -t utf-8") as caught:
        add(corpora, tmp_path, "Größe".encode(encoding))
    assert caught.value.code == "corpus_not_utf8"


def test_a_million_combining_marks_are_refused(tmp_path: Path) -> None:
    marks = "\u0301".encode() * 200_000
    with Upload(tmp_path, limit_bytes=10**8) as upload:
        upload.feed(marks)  # what normalization holds back, it can hold
        with pytest.raises(InvalidInput, match="marks that belong to one letter") as caught:
            for _ in range(5):
                upload.feed(marks)
    assert caught.value.code == "corpus_not_text"


@pytest.mark.parametrize("text", [b"", b"text"])
def test_an_upload_whose_file_is_gone_ends_well(tmp_path: Path, text: bytes) -> None:
    with Upload(tmp_path, limit_bytes=100) as upload:
        upload.feed(text)
        upload.path.unlink()  # as the sweep of abandoned uploads does
    assert list(tmp_path.iterdir()) == []
