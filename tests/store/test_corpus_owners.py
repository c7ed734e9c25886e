import pytest

from nextchar.store.blobs import Blobs
from nextchar.store.corpus_names import CorpusOwners

ONE, TWO = "corpus_000000000001", "corpus_000000000002"


@pytest.fixture
def owners(blobs: Blobs) -> CorpusOwners:
    return CorpusOwners(blobs)


def test_a_corpus_first_uploaded_without_an_owner_never_has_a_single_owner(owners: CorpusOwners) -> None:
    owners.add(ONE, "a", is_new=False)
    assert owners.corpora_of("a") == {ONE} and not owners.is_only(ONE, "a")


@pytest.mark.parametrize("name", ["..", ".", "unknown", "key-a", "a"])
def test_key_names_cannot_collide_with_other_records(owners: CorpusOwners, name: str) -> None:
    owners.add(ONE, name, is_new=True)
    assert owners.is_only(ONE, name) and owners.corpora_of(name) == {ONE}
    assert owners.corpora_of(f"key-{name}") == owners.corpora_of(name.removeprefix("key-") + "x") == set()


def test_a_damaged_owner_record_still_counts(owners: CorpusOwners, blobs: Blobs) -> None:
    blobs.write(f"corpus_owners/{ONE}/key-a", b"")
    assert owners.uploaded_at(ONE, "a") == 0
