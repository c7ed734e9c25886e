import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextchar.models.errors import Unavailable
from nextchar.models.text.vocabulary import normalize
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora, normalized
from nextchar.store.corpus import Upload
from nextchar.store.open_blobs import open_blobs
from tests.store.uploads import add


@pytest.fixture
def corpora(blobs: Blobs) -> Corpora:
    return Corpora(blobs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.text(st.sampled_from("a\u0301\u1100\u1161\u11a8\uac00é漢\n\u3099か")), min_size=1).filter(
        any
    ),
    st.integers(1, 5),
)
def test_characters_are_counted_after_nfc_however_the_bytes_are_cut(
    tmp_path: Path, parts: list[str], size: int
) -> None:
    whole = "".join(parts)
    data = whole.encode()
    with Upload(tmp_path, limit_bytes=10**6) as upload:
        for start in range(0, len(data), size):
            upload.feed(data[start : start + size])
        corpus = upload.finish()
    text = normalize(whole)
    assert corpus.characters == len(text)
    assert corpus.distinct_characters == len(set(text))
    assert corpus.longest_line == max(map(len, text.split("\n")))
    assert corpus.lines == text.count("\n") + (not text.endswith("\n"))


def test_a_text_can_be_read_as_bytes_and_is_then_not_normalized(corpora: Corpora, tmp_path: Path) -> None:
    data = unicodedata.normalize("NFD", "é").encode()
    corpus, _ = add(corpora, tmp_path, data)
    assert "".join(corpora.pieces(corpus.id, "bytes")).encode("latin-1") == data


def test_a_text_damaged_in_storage_is_reported(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    corpus, _ = add(corpora, tmp_path, b"a good text")
    blobs.write(f"corpora/{corpus.id}/text", b"\xff\xff")
    with pytest.raises(Unavailable, match="upload it again") as caught:
        "".join(corpora.pieces(corpus.id))
    assert caught.value.code == "corpus_damaged"


@pytest.mark.parametrize("length", [10, 3 << 20])
@pytest.mark.parametrize("how", ["one bit", "an end"])
def test_a_damaged_text_is_never_yielded_as_a_whole(tmp_path: Path, length: int, how: str) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    text = b"a" * length
    with Upload(tmp_path, limit_bytes=length) as upload:
        upload.feed(text)
        corpus, _ = corpora.add(upload)
    damaged = b"c" + text[1:] if how == "one bit" else text[: length // 2]
    blobs.write(f"corpora/{corpus.id}/text", damaged)
    read = 0
    with pytest.raises(Unavailable, match="SHA-256 differs") as caught:
        for chunk in corpora.stream(corpus.id):
            read += len(chunk)
    assert caught.value.code == "corpus_damaged"
    assert read < len(damaged)


def test_chunks_of_whole_lines_end_after_a_newline_however_long_the_line(
    corpora: Corpora, tmp_path: Path
) -> None:
    text = "ab\na much longer line\n\nend"
    corpus, _ = add(corpora, tmp_path, text.encode())
    for size in (1, 4, 7):
        chunks = list(corpora.chunks(corpus.id, "characters", chunk_bytes=size, of_whole_lines=True))
        assert "".join(chunk for _, chunk in chunks) == text
        assert all(chunk.endswith("\n") for _, chunk in chunks[:-1])
        assert all(text[start:].startswith(chunk) for start, chunk in chunks)
        assert len(list(corpora.chunks(corpus.id, "characters", chunk_bytes=size))) > len(chunks)


@pytest.mark.parametrize("chunks", [[b"ab\xe4\xbd"], [b"ab", b"\xe4"], [b"ab\xff"]])
def test_bytes_that_are_no_text_to_their_end_are_damaged(chunks: list[bytes]) -> None:
    with pytest.raises(Unavailable) as caught:
        list(normalized(iter(chunks), where="corpus_1"))
    assert caught.value.code == "corpus_damaged" and "corpus_1" in caught.value.message
