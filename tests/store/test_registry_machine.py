"""Random programs of publications, renamings, deletions and aliases against a plain model of the registry."""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from nextchar.models.errors import Conflict, DomainError, NotFound
from nextchar.models.saved_model import Card
from nextchar.store.aliases import AliasMove
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.state_machines import run
from tests.store.test_models import FILES, _card

NAMES = st.sampled_from(("a", "b"))
ALIASES = st.sampled_from(("champion", "challenger"))
VERSIONS = st.integers(1, 4)
PROCESS = st.integers(0, 1)


class RegistryMachine(RuleBasedStateMachine):
    """Two processes on one storage.

    The model: versions of each name, as the id of a model or None once it is deleted or renamed; and all
    moves of each alias.
    """

    ids: Bundle[int] = Bundle("ids")
    moves: Bundle[AliasMove | None] = Bundle("moves")  # what a process has read of an alias, perhaps long ago

    def __init__(self) -> None:
        super().__init__()
        self.blobs = open_blobs("memory:///")
        self.processes = [Models(self.blobs), Models(self.blobs)]
        self.versions: dict[str, dict[int, str | None]] = {"a": {}, "b": {}}
        self.renamed: dict[tuple[str, int], str] = {}  # the id that a renamed version had
        self.aliases: dict[tuple[str, str], list[AliasMove]] = {}
        self.published = 0

    # What the model says.

    def listed(self, name: str) -> dict[int, str]:
        return {number: model for number, model in self.versions[name].items() if model}

    def where(self, model_id: str) -> tuple[str, int] | None:
        places = [(n, v) for n in self.versions for v, model in self.listed(n).items() if model == model_id]
        assert len(places) < 2
        return places[0] if places else None

    def pointing(self, name: str, version: int) -> set[str]:
        return {
            alias
            for (model, alias), moves in self.aliases.items()
            if model == name and moves and moves[-1].version == version
        }

    # What is done.

    @rule(target=ids)
    def train(self) -> int:
        self.published += 1
        return self.published

    @rule(number=ids, name=NAMES, attempt=st.sampled_from((None, 1, 2)), process=PROCESS)
    def publish(self, number: int, name: str, attempt: int | None, process: int) -> None:
        card = _card(name, number=number)
        published = self.processes[process].publish(card, FILES, attempt=attempt)
        place = self.where(card.id)
        if place is None:
            place = (name, max(self.versions[name], default=0) + 1)
            self.versions[name][place[1]] = card.id
        assert (published.name, published.version, published.id) == (*place, card.id)

    @rule(number=ids, name=NAMES, process=PROCESS)
    def publish_what_another_attempt_owns(self, number: int, name: str, process: int) -> None:
        card = _card(name, number=number)
        call: Any = self.processes[process].publish
        if self.where(card.id):
            assert call(card, FILES, attempt=3, is_still_ours=lambda: False).id == card.id
        else:
            with pytest.raises(Conflict) as refused:
                call(card, FILES, attempt=3, is_still_ours=lambda: False)
            assert refused.value.code == "publish_superseded"
            assert not self.blobs.paths(f"model_files/{card.id}/attempt-3")

    @rule(name=NAMES, version=VERSIONS, force=st.booleans(), process=PROCESS)
    def delete(self, name: str, version: int, force: bool, process: int) -> None:
        def call() -> object:
            return self.processes[process].delete(f"{name}@{version}", force=force)

        if code := self.refusal(name, version, force=force):
            with pytest.raises(DomainError) as refused:
                call()
            assert refused.value.code == code
        else:
            assert call() == f"{name}@{version}"
            self.versions[name][version] = None

    @rule(name=NAMES, version=VERSIONS, to=NAMES, force=st.booleans(), process=PROCESS)
    def rename(self, name: str, version: int, to: str, force: bool, process: int) -> None:
        def call() -> Card:
            return self.processes[process].rename(f"{name}@{version}", to, force=force)

        code = self.refusal(name, version, force=force or name == to)
        if code:
            with pytest.raises(DomainError) as refused:
                call()
            assert refused.value.code == code
        elif name == to:
            assert call().version == version
        else:
            moved, number = call(), max(self.versions[to], default=0) + 1
            assert (moved.name, moved.version, moved.id) == (to, number, self.versions[name][version])
            self.versions[to][number], self.versions[name][version] = moved.id, None
            self.renamed[name, version] = moved.id

    def refusal(self, name: str, version: int, *, force: bool) -> str | None:
        if version not in self.listed(name):
            return "model_not_found"
        return "model_has_alias" if self.pointing(name, version) and not force else None

    @rule(target=moves, name=NAMES, alias=ALIASES, process=PROCESS)
    def read_alias(self, name: str, alias: str, process: int) -> AliasMove | None:
        newest = self.processes[process].aliases.newest(name, alias)
        assert newest == (self.aliases.get((name, alias)) or [None])[-1]
        return newest

    @rule(name=NAMES, alias=ALIASES, version=st.none() | VERSIONS, after=st.none() | moves, process=PROCESS)
    def move(self, name: str, alias: str, version: int | None, after: AliasMove | None, process: int) -> None:
        if after:
            name, alias = after.model, after.alias
        moves = self.aliases.setdefault((name, alias), [])
        aliases = self.processes[process].aliases
        if after == (moves[-1] if moves else None):
            moved = aliases.move(name, alias, version, after=after)
            assert (moved.sequence, moved.version) == (len(moves), version)
            moves.append(moved)
        else:
            with pytest.raises(Conflict) as refused:
                aliases.move(name, alias, version, after=after)
            assert refused.value.code == "alias_moved"

    @rule(name=NAMES, alias=ALIASES, process=PROCESS)
    def roll_back(self, name: str, alias: str, process: int) -> None:
        aliases, moves = self.processes[process].aliases, self.aliases.setdefault((name, alias), [])
        newest = aliases.newest(name, alias)
        if newest is None:
            return
        expected = moves[newest.previous] if newest.previous is not None else None
        if expected is None:
            with pytest.raises(Conflict):
                aliases.before(newest)
            return
        restored = aliases.before(newest)
        assert restored == expected and restored.version is not None
        moved = aliases.move(
            name, alias, restored.version, after=newest, action="rollback", restores=restored
        )
        assert moved.version == restored.version and moved.previous == restored.previous
        moves.append(moved)

    # What readers see.

    @invariant()
    def every_process_lists_what_the_model_lists(self) -> None:
        expected = {
            (f"{name}@{version}", model)
            for name in self.versions
            for version, model in self.listed(name).items()
        }
        for models in self.processes:
            cards, damaged = models.scan()
            assert {(card.reference, card.id) for card in cards} == expected and not damaged

    @invariant()
    def every_listed_model_is_whole_and_nothing_else_is_found(self) -> None:
        models = self.processes[1]
        for name, numbers in self.versions.items():
            listed = self.listed(name)
            assert models.is_listed(name) is bool(listed)
            assert models.is_deleted(name) is (bool(numbers) and not listed)
            for version in range(1, 6):
                if version in listed:
                    saved = models.get(f"{name}@{version}")
                    assert {file: saved.file(file) for file in saved.card.files} == FILES
                else:
                    with pytest.raises(NotFound):
                        models.get(f"{name}@{version}")
            if listed:
                assert models.resolve(name) == (name, max(listed))
            else:
                with pytest.raises(NotFound):
                    models.resolve(name)

    @invariant()
    def every_alias_points_to_where_it_was_moved_last(self) -> None:
        models = self.processes[0]
        for (name, alias), moves in self.aliases.items():
            version = moves[-1].version if moves else None
            if version in self.listed(name):
                assert models.resolve(f"{name}@{alias}") == (name, version)
            else:
                with pytest.raises(NotFound) as missing:
                    models.resolve(f"{name}@{alias}")
                expected = "model_not_found" if version is None else "alias_target_deleted"
                assert missing.value.code == expected

    def teardown(self) -> None:
        """No file is left of a model that is not listed."""
        listed = {model for name in self.versions for model in self.listed(name).values()}
        assert set(self.blobs.folders("model_files")) == listed


def test_the_registry_is_as_a_plain_model_of_it_says() -> None:
    run(RegistryMachine)
