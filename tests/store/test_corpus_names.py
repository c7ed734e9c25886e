"""Names of corpora: another text under a name is its next version."""

from functools import partial

import pytest

from nextchar.store.blobs import Blobs
from nextchar.store.corpus_names import CorpusNames
from nextchar.store.open_blobs import open_blobs
from tests.every_call import every_call

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


def test_of_two_uploads_at_the_same_time_both_get_a_version() -> None:
    for call in every_call(more_than=2):
        blobs = open_blobs("memory:///")
        for corpus in (A, B, C):
            blobs.write(f"corpora/{corpus}/corpus.json", b"{}")
        other = CorpusNames(blobs)
        other.assign("log", A)
        version = CorpusNames(call.blobs(blobs, partial(other.assign, "log", B))).assign("log", C)
        if not call.has_come:
            other.assign("log", B)
        assert version in (2, 3), call
        assert {other.resolve("log@2"), other.resolve("log@3")} == {B, C}, call


def test_the_version_that_a_corpus_would_get_is_told_and_nothing_is_written() -> None:
    blobs = open_blobs("memory:///")
    names = CorpusNames(blobs)
    for corpus in (A, B, C):
        blobs.write(f"corpora/{corpus}/corpus.json", b"{}")
    assert [names.next_version("log", corpus) for corpus in (A, B)] == [1, 1]
    assert [names.assign("log", corpus) for corpus in (A, B)] == [1, 2]
    before = blobs.paths("corpus_versions") + blobs.paths("corpus_names")
    assert [names.next_version("log", corpus) for corpus in (A, B, C)] == [3, 2, 3]
    assert blobs.paths("corpus_versions") + blobs.paths("corpus_names") == before
    assert before == ["corpus_versions/log/000000002", "corpus_names/log"]


def test_versions_of_a_name_whose_corpora_are_gone_stay_taken() -> None:
    blobs = open_blobs("memory:///")
    names = CorpusNames(blobs)
    for corpus in (A, B, C):
        blobs.write(f"corpora/{corpus}/corpus.json", b"{}")
    assert [names.assign("log", corpus) for corpus in (A, B)] == [1, 2]
    for corpus in (A, B):
        blobs.delete(f"corpora/{corpus}/corpus.json")
    assert names.next_version("log", C) == 3 == names.assign("log", C)


def test_versions_are_in_order_of_their_numbers() -> None:
    blobs = open_blobs("memory:///")
    names = CorpusNames(blobs)
    for corpus in (A, B):
        blobs.write(f"corpora/{corpus}/corpus.json", b"{}")
    assert [names.assign("log", corpus) for corpus in (A, B) * 6] == list(range(1, 13))
    assert names.resolve("log") == names.resolve("log@12") == B and names.resolve("log@11") == A
    assert list(names.all()) == ["log", *(f"log@{number}" for number in range(2, 13))]
