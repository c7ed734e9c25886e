import json
import unicodedata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import InvalidInput, NotFound, TooLarge, Unavailable
from models.text.vocabulary import normalize
from store.blobs import Blobs
from store.corpora import Corpora
from store.corpus import Corpus
from store.corpus_statistics import Encoding
from store.corpus_upload import Upload
from store.open_blobs import open_blobs
from tests.logs import syslog


@pytest.fixture
def corpora(blobs: Blobs) -> Corpora:
    return Corpora(blobs)


def _add(
    corpora: Corpora,
    folder: Path,
    *pieces: bytes,
    name: str | None = None,
    limit: int = 10**6,
    encoding: Encoding = "utf-8",
) -> tuple[Corpus, bool]:
    with Upload(folder, limit_bytes=limit, encoding=encoding) as upload:
        for piece in pieces:
            upload.feed(piece)
        return corpora.add(upload, name=name)


def test_the_same_bytes_are_the_same_corpus(corpora: Corpora, tmp_path: Path) -> None:
    first, is_new = _add(corpora, tmp_path, b"hello\nwor", b"ld\n")
    again, is_new_again = _add(corpora, tmp_path, b"hello\nworld\n")
    assert (is_new, is_new_again) == (True, False)
    assert first == again
    assert corpora.all() == [first]
    assert "".join(corpora.pieces(first.id)) == "hello\nworld\n"


def test_statistics_count_characters_and_lines(corpora: Corpora, tmp_path: Path) -> None:
    corpus, _ = _add(corpora, tmp_path, "ab\nlönger\n\nend".encode())
    assert (corpus.bytes, corpus.characters, corpus.distinct_characters) == (15, 14, 10)
    assert (corpus.lines, corpus.longest_line) == (4, 6)
    assert corpus.sample.startswith("ab\nlö")


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


def test_the_text_is_stored_as_uploaded_and_read_after_nfc(corpora: Corpora, tmp_path: Path) -> None:
    data = unicodedata.normalize("NFD", "é" * 10).encode()
    corpus, _ = _add(corpora, tmp_path, data)
    assert b"".join(corpora.stream(corpus.id)) == data
    assert "".join(corpora.pieces(corpus.id)) == "é" * 10


@pytest.mark.parametrize(
    ("pieces", "offset"),
    [((b"abc\xffdef",), 3), ((b"ab\xe2\x82", b"xx"), 2), ((b"good", b"\xc3"), 4), ((b"\xed\xa0\x80",), 0)],
)
def test_a_bad_byte_is_named_by_its_offset_and_nothing_is_kept(
    corpora: Corpora, tmp_path: Path, pieces: tuple[bytes, ...], offset: int
) -> None:
    with pytest.raises(InvalidInput, match=f"offset {offset} ") as caught:
        _add(corpora, tmp_path, *pieces)
    assert caught.value.code == "corpus_not_utf8"
    assert list(tmp_path.iterdir()) == []
    assert corpora.all() == []


def test_an_empty_text_is_refused(corpora: Corpora, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="empty"):
        _add(corpora, tmp_path)


def test_a_text_over_the_limit_is_refused_and_nothing_is_kept(corpora: Corpora, tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="5 bytes"):
        _add(corpora, tmp_path, b"abc", b"def", limit=5)
    assert list(tmp_path.iterdir()) == []


def test_another_text_under_a_name_is_its_next_version(corpora: Corpora, tmp_path: Path) -> None:
    one, _ = _add(corpora, tmp_path, b"one", name="mine")
    two, _ = _add(corpora, tmp_path, b"two", name="mine")
    assert (one.version, two.version) == (1, 2)
    assert corpora.get("mine") == corpora.get("mine@2") == two
    assert corpora.get("mine@1") == one
    again, is_new = _add(corpora, tmp_path, b"two", name="mine")
    assert (again, is_new) == (two, False)
    assert corpora.names() == {"mine": one.id, "mine@2": two.id}


@pytest.mark.parametrize("name", ["", "a b", "../x", "corpus_1", "-x", "x" * 65, "naïve"])
def test_a_name_that_is_none_is_refused(corpora: Corpora, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a valid name"):
        _add(corpora, tmp_path, b"text", name=name)


def test_a_deleted_corpus_is_gone_and_its_name_is_free(corpora: Corpora, tmp_path: Path) -> None:
    corpus, _ = _add(corpora, tmp_path, b"one", name="mine")
    corpora.delete("mine")
    for reference in (corpus.id, "mine"):
        with pytest.raises(NotFound):
            corpora.get(reference)
    _add(corpora, tmp_path, b"two", name="mine")


def test_removing_names_keeps_the_corpus(corpora: Corpora, tmp_path: Path) -> None:
    corpus, _ = _add(corpora, tmp_path, b"one", name="mine")
    _add(corpora, tmp_path, b"one", name="another")
    assert corpora.names() == {"another": corpus.id, "mine": corpus.id}
    assert corpora.names(lambda name: name == "mine") == {"mine": corpus.id}
    corpora.remove_names(corpus.id, ["mine"])
    assert corpora.names() == {"another": corpus.id}
    assert corpora.get("another").name is None and "".join(corpora.pieces(corpus.id)) == "one"
    _add(corpora, tmp_path, b"two", name="mine")


@pytest.mark.parametrize("reference", ["nothing", "corpus_0123456789ab", "../jobs", ""])
def test_an_unknown_reference_is_not_found(corpora: Corpora, reference: str) -> None:
    with pytest.raises(NotFound):
        corpora.get(reference)
    with pytest.raises(NotFound):
        corpora.stream(reference)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("aaaa", "repeats one character"),
        ("a\r\nb", "1 carriage return: lines end in CR LF"),
        ("a\0b", "NUL"),
        ("\ufeffab", "byte order mark"),
        ("a\ufffd", "replacement"),
    ],
)
def test_unusual_texts_get_warnings(corpora: Corpora, tmp_path: Path, text: str, warning: str) -> None:
    corpus, _ = _add(corpora, tmp_path, text.encode())
    assert any(warning in w for w in corpus.warnings)


def test_bytes_are_kept_and_counted_one_by_one_and_are_another_corpus_than_the_text(
    corpora: Corpora, tmp_path: Path
) -> None:
    data = "é\n".encode() + bytes(range(256))
    corpus, _ = _add(corpora, tmp_path, data, encoding="bytes", name="raw")
    assert (corpus.encoding, corpus.bytes, corpus.characters) == ("bytes", 259, 259)
    assert (corpus.distinct_characters, corpus.lines) == (256, 3)
    assert corpus.sample.startswith("é\n")
    assert "".join(corpora.pieces("raw")) == data.decode("latin-1")
    same = b"only ascii"
    as_text, _ = _add(corpora, tmp_path, same)
    as_bytes, is_new = _add(corpora, tmp_path, same, encoding="bytes")
    assert is_new
    assert as_text.id != as_bytes.id
    assert as_text.sha256 == as_bytes.sha256


def test_a_text_can_be_read_as_bytes_and_is_then_not_normalized(corpora: Corpora, tmp_path: Path) -> None:
    data = unicodedata.normalize("NFD", "é").encode()
    corpus, _ = _add(corpora, tmp_path, data)
    assert "".join(corpora.pieces(corpus.id, "bytes")).encode("latin-1") == data


def test_bytes_that_are_all_the_same_are_warned_of(corpora: Corpora, tmp_path: Path) -> None:
    corpus, _ = _add(corpora, tmp_path, b"\xff" * 300, encoding="bytes")
    assert corpus.warnings == ["the bytes are all the same; there is nothing to learn"]


def test_a_million_combining_marks_are_refused(tmp_path: Path) -> None:
    marks = "\u0301".encode() * 200_000
    with Upload(tmp_path, limit_bytes=10**8) as upload:
        upload.feed(marks)  # what normalization holds back, it can hold
        with pytest.raises(InvalidInput, match="marks that belong to one letter") as caught:
            for _ in range(5):
                upload.feed(marks)
    assert caught.value.code == "corpus_not_text"


def test_a_text_damaged_in_storage_is_reported(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    corpus, _ = _add(corpora, tmp_path, b"a good text")
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


def test_a_record_from_before_encodings_is_of_a_text(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpus, _ = _add(Corpora(blobs), tmp_path, b"an old text")
    old = {k: v for k, v in asdict(corpus).items() if k != "encoding"}
    blobs.write(f"corpora/{corpus.id}/corpus.json", json.dumps(old).encode())
    assert Corpora(blobs).get(corpus.id) == corpus


@pytest.mark.parametrize("record", [b'{"id": "corp', b"[1]", b'{"id": 1}', b"\xff"])
def test_damaged_record_hides_no_other_corpus_and_uploading_or_deleting_mends_it(
    tmp_path: Path, record: bytes
) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    broken, _ = _add(corpora, tmp_path, b"a good text", name="mine")
    whole, _ = _add(corpora, tmp_path, b"another")
    blobs.write(f"corpora/{broken.id}/corpus.json", record)
    assert corpora.all() == [whole]
    for read in (corpora.get, corpora.stream, corpora.pieces):
        with pytest.raises(Unavailable, match="is damaged; upload it again") as caught:
            read("mine")
        assert caught.value.code == "corpus_damaged"
    assert _add(corpora, tmp_path, b"a good text")[1]
    assert "".join(corpora.pieces("mine")) == "a good text"
    blobs.write(f"corpora/{broken.id}/corpus.json", record)
    assert corpora.delete("mine") == broken.id
    assert corpora.all() == [whole] and blobs.paths("corpus_names") == []


@pytest.mark.parametrize("text", [None, b"a gaad text", b"a good"])
def test_uploading_again_repairs_a_lost_or_damaged_text(tmp_path: Path, text: bytes | None) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    corpus, _ = _add(corpora, tmp_path, b"a good text")
    blobs.delete(f"corpora/{corpus.id}/text")
    if text is None:
        with pytest.raises(Unavailable, match="is lost; upload it again"):
            corpora.stream(corpus.id)
    else:
        blobs.write(f"corpora/{corpus.id}/text", text)
    assert _add(corpora, tmp_path, b"a good text")[0].id == corpus.id
    assert "".join(corpora.pieces(corpus.id)) == "a good text"


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"corpus_", b"corpus_0123456789abcdef01234567"])
def test_a_name_with_a_damaged_record_is_free(tmp_path: Path, record: bytes) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    blobs.write("corpus_names/fox", record)
    for use in (corpora.get, corpora.id_of, corpora.delete, corpora.stream):
        with pytest.raises(NotFound) as refused:
            use("fox")
        assert refused.value.code == "corpus_not_found"
    assert corpora.all() == []
    corpus, is_new = _add(corpora, tmp_path, b"the fox\n", name="fox")
    assert is_new and corpora.get("fox") == corpus == corpora.all()[0]
    corpora.delete("fox")
    assert blobs.paths("corpus_names") == []


def test_a_log_is_recognized_and_its_record_has_suggested_masks(corpora: Corpora, tmp_path: Path) -> None:
    log = "".join(line + "\n" for line in syslog(300)).encode()
    corpus, _ = _add(corpora, tmp_path, log[:1000], log[1000:], name="sshd")
    assert (corpus.kind, corpus.suggested_masks) == ("log", ["timestamp", "ip", "long_numbers"])
    assert corpus.log_sample and corpus.log_sample["lines"]["timestamp"] == 300
    assert corpora.get("sshd").suggested_masks == corpus.suggested_masks
    as_bytes, _ = _add(corpora, tmp_path, log, encoding="bytes")
    assert (as_bytes.kind, as_bytes.suggested_masks, as_bytes.log_sample) == (None, [], None)
    short, _ = _add(corpora, tmp_path, b"hello\nworld\n")
    assert short.kind == "text" and "too few" in str(short.kind_reason)


def test_the_kind_of_a_corpus_that_is_deleted_meanwhile_leaves_no_record(
    corpora: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, _ = _add(corpora, tmp_path, b"hello\nworld\n")
    corpora.set_kind(corpus.id, "records")
    assert corpora.get(corpus.id).kind == "records"
    assert _add(corpora, tmp_path, b"hello\nworld\n") == (corpora.get(corpus.id), False)
    get = corpora.get

    def get_and_delete(reference: str) -> Corpus:
        found = get(reference)
        corpora.delete(reference)
        return found

    monkeypatch.setattr(corpora, "get", get_and_delete)
    with pytest.raises(NotFound):
        corpora.set_kind(corpus.id, "text")
    assert corpora.all() == [] and corpora._blobs.paths("corpora") == []


def test_a_record_from_before_kinds_were_recognized_still_loads(corpora: Corpora, tmp_path: Path) -> None:
    corpus, _ = _add(corpora, tmp_path, b"hello\nworld\n")
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
    corpus, _ = _add(corpora, tmp_path, b"a text", name="mine")
    record = json.loads(blobs.read(f"corpora/{corpus.id}/corpus.json"))
    assert not {"files", "version", "repeated_lines", "uploaded_again_at"} & set(record)
    assert (corpora.get("mine"), corpora.get("mine").version) == (corpus, 1)
    later, _ = _add(corpora, tmp_path, b"another text", name="mine")
    assert (corpora.get("mine"), later.version) == (later, 2)
    assert corpora.get("mine@1") == corpus
    assert corpora.delete("mine") == later.id
    assert corpora.get("mine") == corpus


class _Recorded(Blobs):
    """Passes calls on, and keeps what is changed, in order."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs, self.changes = blobs, list[str]()

    def __getattribute__(self, name: str) -> Any:
        if name in ("_blobs", "changes"):
            return object.__getattribute__(self, name)
        call = getattr(self._blobs, name)
        if name not in ("write", "create", "delete"):
            return call

        def noted(*arguments: Any) -> Any:
            paths = arguments if name == "delete" else arguments[:1]
            self.changes.extend(f"{name} {path.rpartition('/')[2]}" for path in paths)
            return call(*arguments)

        return noted


_Recorded.__abstractmethods__ = frozenset()  # __getattribute__ passes every call on


def test_a_text_is_stored_before_its_record_and_deleted_after_it_and_its_names(tmp_path: Path) -> None:
    blobs = _Recorded(open_blobs("memory:///"))
    corpora = Corpora(blobs)
    _add(corpora, tmp_path, b"one", name="mine")
    assert blobs.changes == ["write text", "write corpus.json", "create mine"]
    blobs.changes.clear()
    corpora.delete("mine")
    assert blobs.changes[:3] == ["delete mine", "delete corpus.json", "delete text"]
