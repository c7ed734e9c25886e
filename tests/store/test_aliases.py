from pathlib import Path

import pytest

from nextchar.models.errors import Conflict, InvalidInput, NotFound, Unavailable
from nextchar.store.aliases import Aliases
from nextchar.store.blobs import Blobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.store.refusing import Refusing, unavailable
from tests.store.test_models import FILES
from tests.store.test_models import _card as card


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(tmp_path.as_uri())


@pytest.fixture
def models(blobs: Blobs) -> Models:
    """A registry with three versions of m."""
    registry = Models(blobs)
    for number in (1, 2, 3):
        registry.publish(card(number=number), FILES)
    return registry


def put(aliases: Aliases, version: int, alias: str = "champion") -> None:
    aliases.move("m", alias, version, after=aliases.newest("m", alias))


@pytest.mark.parametrize("alias", ["4", "3a", "v3", "V12", "latest", "", "a b", "-a", "a/b", "..", "x" * 33])
def test_an_alias_does_not_look_like_a_version_or_a_path(models: Models, alias: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        models.aliases.move("m", alias, 1, after=None)
    assert caught.value.code == "invalid_alias"
    assert models.aliases.newest("m", alias) is None
    if alias:
        with pytest.raises(NotFound):
            models.resolve(f"m@{alias}")


def test_aliases_stay_with_the_name_when_another_version_is_renamed(models: Models) -> None:
    put(models.aliases, 1)
    models.rename("m@3", "other")
    assert models.resolve("m@champion") == ("m", 1)
    with pytest.raises(NotFound):
        models.resolve("other@champion")


def test_a_damaged_record_fails_its_alias_only(models: Models, blobs: Blobs) -> None:
    put(models.aliases, 1)
    put(models.aliases, 2, "stable")
    blobs.write("aliases/m/champion/00000000.json", b"{")
    fresh = Models(blobs)
    with pytest.raises(Unavailable) as caught:
        fresh.resolve("m@champion")
    assert caught.value.code == "alias_damaged"
    assert [move.alias for move in fresh.aliases.current()] == ["stable"]
    assert fresh.resolve("m@stable") == ("m", 2)


def test_a_rollback_to_a_move_whose_record_is_gone_is_refused(models: Models, blobs: Blobs) -> None:
    put(models.aliases, 1)
    put(models.aliases, 2)
    blobs.delete("aliases/m/champion/00000000.json")
    fresh = Models(blobs).aliases
    newest = fresh.newest("m", "champion")
    assert newest
    with pytest.raises(Conflict) as caught:
        fresh.before(newest)
    assert caught.value.code == "alias_not_moved"


def test_aliases_are_not_skipped_while_the_storage_does_not_answer(models: Models, blobs: Blobs) -> None:
    put(models.aliases, 1)
    with pytest.raises(Unavailable) as caught:
        Aliases(Refusing(blobs, read=("aliases",), error=unavailable)).current()
    assert caught.value.code == "storage_unavailable"
