from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nextchar.models.errors import Conflict, DomainError, InvalidInput, NotFound, Unavailable
from nextchar.store.aliases import Aliases, Check
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


def roll_back(aliases: Aliases) -> int | None:
    newest = aliases.history("m", "champion")[0]
    before = aliases.before(newest)
    return aliases.move(
        "m", "champion", before.version, after=newest, action="rollback", restores=before
    ).version


def test_an_alias_is_the_version_that_it_was_moved_to_last(models: Models) -> None:
    for version in (2, 3, 1):
        put(models.aliases, version)
        assert models.get("m@champion").card.version == version
        assert Models(models._blobs).resolve("m@champion") == ("m", version), "in another process, too"
    assert [move.version for move in models.aliases.history("m", "champion")] == [1, 3, 2]
    assert models.resolve("m") == ("m", 3)


def test_each_rollback_goes_one_move_further_back(models: Models) -> None:
    aliases = models.aliases
    for version in (1, 2, 3):
        put(aliases, version)
    assert [roll_back(aliases), roll_back(aliases)] == [2, 1]
    with pytest.raises(Conflict) as caught:
        roll_back(aliases)
    assert caught.value.code == "alias_not_moved"
    put(aliases, 3)
    assert roll_back(aliases) == 1, "where it was before the last move"


def test_a_deleted_alias_is_unknown_until_a_rollback_restores_it(models: Models) -> None:
    aliases = models.aliases
    put(aliases, 1)
    put(aliases, 2)
    aliases.delete("m", "champion")
    assert aliases.current("m") == []
    with pytest.raises(NotFound) as caught:
        models.resolve("m@champion")
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFound):
        aliases.delete("m", "champion")
    assert roll_back(aliases) == 2
    assert models.resolve("m@champion") == ("m", 2)
    aliases.delete("m", "champion")
    put(aliases, 3)
    assert roll_back(aliases) == 2, "a deletion is nothing to go back to"


def test_of_concurrent_moves_one_wins_and_the_others_learn_where_it_is(models: Models) -> None:
    put(models.aliases, 1)
    after = models.aliases.newest("m", "champion")

    def move(version: int) -> int | Conflict:
        try:
            Aliases(models._blobs).move("m", "champion", version, after=after)
        except Conflict as conflict:
            return conflict
        return version

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(move, [2, 3] * 8))
    [won] = [result for result in results if isinstance(result, int)]
    lost = [result for result in results if isinstance(result, Conflict)]
    assert len(lost) == 15 and {error.code for error in lost} == {"alias_moved"}
    assert all(f"m@{won}" in error.message for error in lost)
    assert models.resolve("m@champion") == ("m", won)


@pytest.mark.parametrize("alias", ["4", "3a", "v3", "V12", "latest", "", "a b", "-a", "a/b", "..", "x" * 33])
def test_an_alias_does_not_look_like_a_version_or_a_path(models: Models, alias: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        models.aliases.move("m", alias, 1, after=None)
    assert caught.value.code == "invalid_alias"
    assert models.aliases.newest("m", alias) is None
    if alias:
        with pytest.raises(NotFound):
            models.resolve(f"m@{alias}")


def test_a_version_with_an_alias_is_deleted_or_renamed_only_if_forced(models: Models) -> None:
    put(models.aliases, 2)
    put(models.aliases, 2, "stable")
    for change in (lambda: models.delete("m@2"), lambda: models.rename("m@2", "other")):
        with pytest.raises(Conflict) as caught:
            change()
        assert caught.value.code == "model_has_alias"
        assert "champion and stable" in caught.value.message
    models.delete("m@3")  # another version
    models.rename("m@2", "other", force=True)
    with pytest.raises(NotFound) as missing:
        models.resolve("m@champion")
    assert missing.value.code == "alias_target_deleted"
    assert models.resolve("other") == ("other", 1)


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


def test_an_alias_of_no_model_is_unknown(models: Models) -> None:
    for reference in ("m@champion", "n@champion", "../m@champion", "m@", "@champion"):
        with pytest.raises(DomainError) as caught:
            models.resolve(reference)
        assert caught.value.code == "model_not_found"


def test_moves_say_what_happened_and_why(models: Models) -> None:
    aliases = models.aliases
    check = Check(name="max_bits", value=1.5, limit=2.0)
    first = aliases.move("m", "champion", 1, after=None, by="ann", checks=(check,))
    assert (first.sequence, first.action, first.previous, first.moved_by) == (0, "set", None, "ann")
    assert (first.target, first.checks) == ("m@1", (check,))
    second = aliases.move("m", "champion", 2, after=first)
    assert (second.sequence, second.previous, second.moved_by, second.checks) == (1, 0, None, ())
    deleted = aliases.delete("m", "champion", by="bob")
    assert (deleted.sequence, deleted.action, deleted.version, deleted.target) == (2, "delete", None, None)
    assert (deleted.previous, deleted.moved_by) == (1, "bob")
    again = aliases.move("m", "champion", 3, after=deleted)
    assert (again.sequence, again.previous) == (3, 1)
    assert Aliases(models._blobs).history("m", "champion") == [again, deleted, second, first]


def test_who_comes_too_late_learns_that_the_alias_is_deleted(models: Models) -> None:
    put(models.aliases, 1)
    after = models.aliases.newest("m", "champion")
    models.aliases.delete("m", "champion")
    with pytest.raises(Conflict, match="by another request and is deleted now") as caught:
        models.aliases.move("m", "champion", 2, after=after)
    assert (caught.value.code, caught.value.param) == ("alias_moved", "alias")
    with pytest.raises(Conflict, match="is deleted now"):
        models.aliases.move("m", "champion", 2, after=None)


def test_aliases_of_all_names_are_listed_in_order(models: Models) -> None:
    models.publish(card("n", number=4), FILES)
    for model, alias in (("n", "b"), ("m", "z"), ("n", "a")):
        models.aliases.move(model, alias, 1, after=None)
    assert [(one.model, one.alias) for one in models.aliases.current()] == [
        ("m", "z"),
        ("n", "a"),
        ("n", "b"),
    ]
    assert [one.alias for one in models.aliases.current("n")] == ["a", "b"]
    models.aliases.delete("n", "a")
    assert [one.alias for one in models.aliases.current("n")] == ["b"]
    models.aliases.move("n", "b", 7, after=models.aliases.newest("n", "b"))
    assert [one.version for one in models.aliases.current("n")] == [7]


def test_an_alias_that_never_was_and_one_that_is_deleted_are_not_found(models: Models) -> None:
    for call in (models.aliases.get, models.aliases.history):
        with pytest.raises(NotFound, match="model m has no alias 'champion'") as caught:
            call("m", "champion")
        assert (caught.value.code, caught.value.param) == ("alias_not_found", "alias")
    put(models.aliases, 1)
    assert models.aliases.get("m", "champion").version == 1
    models.aliases.delete("m", "champion")
    with pytest.raises(NotFound):
        models.aliases.get("m", "champion")
    assert len(models.aliases.history("m", "champion")) == 2
    for name in ("../m", ""):
        assert models.aliases.newest(name, "champion") is None


def test_aliases_are_not_skipped_while_the_storage_does_not_answer(models: Models, blobs: Blobs) -> None:
    put(models.aliases, 1)
    with pytest.raises(Unavailable) as caught:
        Aliases(Refusing(blobs, read=("aliases",), error=unavailable)).current()
    assert caught.value.code == "storage_unavailable"


@pytest.mark.parametrize("alias", ["a", "Z", "x" * 32, "v", "v3a", "latest-2", "a.b_c-d", "version"])
def test_names_of_aliases(models: Models, alias: str) -> None:
    models.aliases.move("m", alias, 2, after=None)
    assert models.resolve(f"m@{alias}") == ("m", 2)
