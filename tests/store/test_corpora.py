import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nextchar.models.errors import NotFound, StorageFull, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus, dump_corpus
from nextchar.store.open_blobs import open_blobs
from tests.every_call import Call, every_call
from tests.store.refusing import Refusing
from tests.store.uploads import add


@pytest.fixture
def corpora(blobs: Blobs) -> Corpora:
    return Corpora(blobs)


def test_bytes_are_kept_and_counted_one_by_one_and_are_another_corpus_than_the_text(
    corpora: Corpora, tmp_path: Path
) -> None:
    data = "é\n".encode() + bytes(range(256))
    corpus, _ = add(corpora, tmp_path, data, encoding="bytes", name="raw")
    assert (corpus.encoding, corpus.bytes, corpus.characters) == ("bytes", 259, 259)
    assert (corpus.distinct_characters, corpus.lines) == (256, 3)
    assert corpus.sample.startswith("é\n")
    assert "".join(corpora.pieces("raw")) == data.decode("latin-1")
    same = b"only ascii"
    as_text, _ = add(corpora, tmp_path, same)
    as_bytes, is_new = add(corpora, tmp_path, same, encoding="bytes")
    assert is_new
    assert as_text.id != as_bytes.id
    assert as_text.sha256 == as_bytes.sha256


@pytest.mark.parametrize("record", [b'{"id": "corp', b"[1]", b'{"id": 1}', b"\xff"])
def test_damaged_record_hides_no_other_corpus_and_uploading_or_deleting_mends_it(
    tmp_path: Path, record: bytes
) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    broken, _ = add(corpora, tmp_path, b"a good text", name="mine")
    whole, _ = add(corpora, tmp_path, b"another")
    blobs.write(f"corpora/{broken.id}/corpus.json", record)
    assert corpora.all() == [whole]
    for read in (corpora.get, corpora.stream, corpora.pieces):
        with pytest.raises(Unavailable, match="is damaged; upload it again") as caught:
            read("mine")
        assert caught.value.code == "corpus_damaged"
    assert add(corpora, tmp_path, b"a good text")[1]
    assert "".join(corpora.pieces("mine")) == "a good text"
    blobs.write(f"corpora/{broken.id}/corpus.json", record)
    assert corpora.delete("mine") == broken.id
    assert corpora.all() == [whole] and blobs.paths("corpus_names") == []


@pytest.mark.parametrize("newer", [{"of_a_later_release": 1}, {"kind": "table"}, {"encoding": "utf-16"}])
def test_a_record_of_a_newer_version_says_so_and_is_not_replaced(
    tmp_path: Path, newer: dict[str, object]
) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    corpus, _ = add(corpora, tmp_path, b"a good text", name="mine")
    whole, _ = add(corpora, tmp_path, b"another")
    path = f"corpora/{corpus.id}/corpus.json"
    record = json.dumps(json.loads(blobs.read(path)) | newer).encode()
    blobs.write(path, record)
    uses = (corpora.get, corpora.stream, corpora.pieces, lambda _: add(corpora, tmp_path, b"a good text"))
    for use in uses:
        with pytest.raises(Unavailable, match="newer version of nextchar; upgrade this process") as caught:
            use("mine")
        assert caught.value.code == "corpus_format_unknown"
    assert blobs.read(path) == record
    assert corpora.all() == [whole]
    assert corpora.delete("mine") == corpus.id


@pytest.mark.parametrize("text", [None, b"a gaad text", b"a good"])
def test_uploading_again_repairs_a_lost_or_damaged_text(tmp_path: Path, text: bytes | None) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    corpus, _ = add(corpora, tmp_path, b"a good text")
    blobs.delete(f"corpora/{corpus.id}/text")
    if text is None:
        with pytest.raises(Unavailable, match="is lost; upload it again"):
            corpora.stream(corpus.id)
    else:
        blobs.write(f"corpora/{corpus.id}/text", text)
    assert add(corpora, tmp_path, b"a good text")[0].id == corpus.id
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
    corpus, is_new = add(corpora, tmp_path, b"the fox\n", name="fox")
    assert is_new and corpora.get("fox") == corpus == corpora.all()[0]
    corpora.delete("fox")
    assert blobs.paths("corpus_names") == []


def test_the_kind_of_a_corpus_that_is_deleted_meanwhile_leaves_no_record(
    corpora: Corpora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, _ = add(corpora, tmp_path, b"hello\nworld\n")
    corpora.set_kind(corpus.id, "records")
    assert corpora.get(corpus.id).kind == "records"
    assert add(corpora, tmp_path, b"hello\nworld\n") == (corpora.get(corpus.id), False)
    get = corpora.get

    def get_and_delete(reference: str) -> Corpus:
        found = get(reference)
        corpora.delete(reference)
        return found

    monkeypatch.setattr(corpora, "get", get_and_delete)
    with pytest.raises(NotFound):
        corpora.set_kind(corpus.id, "text")
    assert corpora.all() == [] and corpora._blobs.paths("corpora") == []


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
    add(corpora, tmp_path, b"one", name="mine")
    assert blobs.changes == ["write text", "write corpus.json", "create mine"]
    blobs.changes.clear()
    corpora.delete("mine")
    assert blobs.changes[:3] == ["delete mine", "delete corpus.json", "delete text"]


def _change(corpora: Corpora, corpus: Corpus, folder: Path, change: str) -> None:
    with contextlib.suppress(NotFound):
        match change:
            case "upload":
                add(corpora, folder, b"text")
            case "kind":
                corpora.set_kind(corpus.id, "log")
            case "names":
                corpora.remove_names(corpus.id, ["mine"])
            case "delete":
                corpora.delete(corpus.id)


def _assert_is_whole_or_deleted(blobs: Blobs, call: Call) -> None:
    left = [path.rpartition("/")[2] for path in blobs.paths("corpora")]
    assert left in ([], ["corpus.json", "text"]), call


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ("upload", ()),
        ("upload", ("text",)),
        ("upload", ("corpus.json",)),
        ("upload", ("corpus.json", "text")),
        ("kind", ()),
        ("names", ()),
    ],
)
@pytest.mark.parametrize("is_deletion_interrupted", [False, True])
def test_a_corpus_that_is_deleted_while_it_is_changed_is_whole_or_deleted(
    tmp_path: Path, change: str, lost: tuple[str, ...], is_deletion_interrupted: bool
) -> None:
    outer, inner = ("delete", change) if is_deletion_interrupted else (change, "delete")
    for call in every_call(more_than=1):
        blobs = open_blobs("memory:///")
        corpus, _ = add(Corpora(blobs), tmp_path, b"text", name="mine")
        blobs.delete(*(f"corpora/{corpus.id}/{file}" for file in lost))
        meanwhile = partial(_change, Corpora(blobs), corpus, tmp_path, inner)
        _change(Corpora(call.blobs(blobs, meanwhile)), corpus, tmp_path, outer)
        _assert_is_whole_or_deleted(blobs, call)


@pytest.mark.parametrize("change", ["kind", "names"])
def test_a_change_that_has_read_the_record_before_a_deletion_leaves_no_record_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    for call in every_call(more_than=5):
        blobs = open_blobs("memory:///")
        corpus, _ = add(Corpora(blobs), tmp_path, b"text", name="mine")
        late = Corpora(blobs)
        monkeypatch.setattr(late, "_read", lambda _, corpus=corpus: corpus)
        meanwhile = partial(_change, late, corpus, tmp_path, change)
        Corpora(call.blobs(blobs, meanwhile)).delete(corpus.id)
        _assert_is_whole_or_deleted(blobs, call)


def test_a_corpus_is_deleted_unless_it_is_used_or_uploaded_meanwhile(tmp_path: Path) -> None:
    corpora = Corpora(open_blobs("memory:///"))
    corpus, _ = add(corpora, tmp_path, b"text", name="mine")

    def use(corpus_id: str) -> bool:
        assert corpora.all() == [] and corpus_id == corpus.id
        return True

    def upload(_: str) -> bool:
        add(corpora, tmp_path, b"text")
        return False

    for is_used in (use, upload):
        assert not corpora.delete_unless(corpus, is_used, corpora.names())
        assert corpora.get("mine").id == corpus.id
        assert "".join(corpora.pieces("mine")) == "text"
    assert corpora.delete_unless(corpus, lambda _: False, corpora.names())
    assert corpora._blobs.paths("corpora") == [] and corpora.names() == {}


def test_what_is_left_of_a_corpus_is_deleted_with_its_kinds_and_owners(tmp_path: Path) -> None:
    corpora = Corpora(open_blobs("memory:///"))
    corpus, _ = add(corpora, tmp_path, b"text")
    corpora.owners.add(corpus.id, "ann", is_new=True)
    corpora.set_kind(corpus.id, "log", key_name="ann")
    corpora._blobs.delete(f"corpora/{corpus.id}/corpus.json")
    with pytest.raises(NotFound):
        corpora.get(corpus.id)
    assert corpora.delete(corpus.id) == corpus.id
    for folder in ("corpora", "corpus_kinds", "corpus_owners"):
        assert corpora._blobs.paths(folder) == []
    with pytest.raises(NotFound):
        corpora.delete(corpus.id)


def test_an_upload_whose_record_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    record = f"corpora/corpus_{hashlib.sha256(b'text').hexdigest()[:24]}/corpus.json"
    with pytest.raises(StorageFull):
        add(Corpora(Refusing(blobs, write=[record])), tmp_path, b"text")
    assert blobs.paths("corpora") == []


def test_a_damaged_corpus_that_cannot_be_replaced_keeps_its_record(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpus, _ = add(Corpora(blobs), tmp_path, b"text")
    record = f"corpora/{corpus.id}/corpus.json"
    blobs.write(record, b"damaged")
    with pytest.raises(StorageFull):
        add(Corpora(Refusing(blobs, write=[record])), tmp_path, b"text")
    assert blobs.paths("corpora") == [record, f"corpora/{corpus.id}/text"]


DAY_S = 86400


def test_the_last_upload_of_a_corpus_is_noted_to_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000_000_000]
    monkeypatch.setattr("time.time", lambda: float(now[0]))
    corpora = Corpora(open_blobs("memory:///"))
    corpus, _ = add(corpora, tmp_path, b"text")
    assert corpora.uploaded_at(corpus) == corpus.created_at == now[0]
    now[0] += DAY_S
    assert add(corpora, tmp_path, b"text") == (corpus, False)
    now[0] += 1
    again, is_new = add(corpora, tmp_path, b"text")
    assert not is_new and again == corpora.get(corpus.id) == replace(corpus, uploaded_again_at=now[0])
    assert corpora.uploaded_at(again) == now[0]
    now[0] += DAY_S
    assert add(corpora, tmp_path, b"text") == (again, False)


def test_a_corpus_that_is_deleted_while_it_is_uploaded_again_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = Corpora(open_blobs("memory:///"))
    corpus, _ = add(corpora, tmp_path, b"text")
    path = f"corpora/{corpus.id}/corpus.json"
    corpora._blobs.write(path, dump_corpus(replace(corpus, created_at=0)))

    def is_intact(_: Corpus) -> bool:
        corpora._blobs.delete(f"corpora/{corpus.id}/text")
        return True

    monkeypatch.setattr(corpora, "_is_intact", is_intact)
    with pytest.raises(NotFound) as caught:
        add(corpora, tmp_path, b"text")
    assert caught.value.code == "corpus_not_found" and corpora.all() == []


@pytest.mark.parametrize(
    ("encoding", "alphabet", "expected"),
    [
        ("utf-8", "characters", "é\n"),
        ("utf-8", "bytes", "e\u00cc\u0081\n"),
        ("bytes", "characters", "e\u00cc\u0081\n"),
        ("bytes", "bytes", "e\u00cc\u0081\n"),
    ],
)
def test_characters_are_bytes_if_the_alphabet_or_the_corpus_says_so(
    tmp_path: Path, encoding: Any, alphabet: Any, expected: str
) -> None:
    corpora = Corpora(open_blobs("memory:///"))
    corpus, _ = add(corpora, tmp_path, "e\u0301\n".encode(), encoding=encoding)
    reads: list[Callable[[], str]] = [
        lambda: "".join(corpora.pieces(corpus.id, alphabet)),
        lambda: "".join(text for _, text in corpora.chunks(corpus.id, alphabet, chunk_bytes=100)),
        lambda: corpora.chunk(corpus.id, alphabet, 0, None),
        lambda: corpora.chunk(corpus.id, alphabet, 0, 4),
    ]
    assert [read() for read in reads] == [expected] * 4
    assert (
        corpora.chunk(corpus.id, alphabet, 3, None) == "\n" and corpora.chunk(corpus.id, "bytes", 0, 1) == "e"
    )
