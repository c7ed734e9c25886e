"""Names of corpora: another text under a name is its next version."""

import pytest

from nextchar.store.blobs import Blobs
from nextchar.store.corpus_names import CorpusNames

A, B, C = (f"corpus_{letter * 24}" for letter in "abc")


@pytest.fixture
def names(blobs: Blobs) -> CorpusNames:
    for corpus in (A, B, C):
        blobs.write(f"corpora/{corpus}/corpus.json", b"{}")
    return CorpusNames(blobs)


def test_versions_are_numbered_and_the_bare_name_is_the_newest(names: CorpusNames) -> None:
    assert [names.assign("log", corpus) for corpus in (A, B, B, A)] == [1, 2, 2, 3]
    assert names.resolve("log") == A
    assert [names.resolve(f"log@{number}") for number in range(1, 5)] == [A, B, A, None]
    assert names.assign("other", A) == 1
    assert names.all() == {"log": A, "log@2": B, "log@3": A, "other": A}
    assert names.all(lambda reference: reference.startswith("o")) == {"other": A}


def test_the_number_of_a_deleted_version_is_not_given_again(names: CorpusNames) -> None:
    for corpus in (A, B, C):
        names.assign("log", corpus)
    names.remove(["log@3", "log"])
    assert names.resolve("log") == B
    assert names.resolve("log@1") is names.resolve("log@3") is None
    assert names.assign("log", C) == 4
    names.remove(["log@2", "log@4"])
    assert names.resolve("log") is None
    assert names.all() == {}
    assert names.assign("log", C) == 1, "a name without versions is free again"


@pytest.mark.parametrize(
    "reference", ["log@0", "log@", "log@x", "log@1@1", "@1", "../x", "", "log@9999999999"]
)
def test_other_references_are_none(names: CorpusNames, reference: str) -> None:
    names.assign("log", A)
    assert names.resolve(reference) is None


def test_a_version_without_a_corpus_is_replaced(names: CorpusNames) -> None:
    names.blobs.write("corpus_names/log", b"")
    assert names.next_version("log", A) == 1
    assert names.assign("log", A) == 1
    names.blobs.delete(f"corpora/{A}/corpus.json")
    assert names.assign("log", B) == 1
    assert names.resolve("log") == B
