import contextlib
import errno
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import nextchar.store.blobs
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import Conflict, InvalidInput, NotFound, StorageFull, Unavailable
from nextchar.models.saved_model import Card, describe_files
from nextchar.store.blobs import Blobs
from nextchar.store.local_blobs import Disk, LocalBlobs
from nextchar.store.model_file_cache import ModelFileCache
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.every_call import Call, Interrupted, every_call
from tests.store.refusing import Refusing, unavailable

FILES = {"model.onnx": b"graph", "model.keras": b"layers"}


def _card(name: str = "m", *, number: int = 1) -> Card:
    return Card(
        id=f"model_{number:021x}",
        name=name,
        created_at=number,
        network=NetworkConfig(),
        training=TrainingConfig(),
        characters="abc",
        parameters=1,
        files=describe_files(FILES),
    )


def test_each_publication_is_the_next_version_and_the_bare_name_is_the_newest(blobs: Blobs) -> None:
    models = Models(blobs)
    published = [models.publish(_card(number=n), FILES) for n in (1, 2)]
    assert [c.reference for c in published] == ["m@1", "m@2"]
    assert models.get("m").card == published[1]
    assert models.get("m@1").card == published[0]
    assert models.get("m").file("model.onnx") == b"graph"
    assert [c.reference for c in models.all()] == ["m@2", "m@1"]


def test_listing_reads_each_card_once(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(blobs)
    for number in (1, 2, 3):
        models.publish(_card(number=number), FILES)
    models.all()
    reads: list[str] = []
    read = blobs.read_record

    def count(path: str) -> bytes:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(blobs, "read_record", count)
    models.delete("m@2")
    Models(blobs).publish(_card(number=4), FILES)
    reads.clear()
    for _ in range(2):
        assert [card.reference for card in models.all()] == ["m@4", "m@3", "m@1"]
    assert reads == ["model_cards/m/000004.json"]


def test_publishing_a_model_twice_gives_one_version(blobs: Blobs) -> None:
    models = Models(blobs)
    assert models.publish(_card(), FILES) == models.publish(_card(), FILES)
    assert len(models.all()) == 1


def test_concurrent_publishers_get_different_versions(blobs: Blobs) -> None:
    models = Models(blobs)
    with ThreadPoolExecutor(8) as pool:
        cards = list(pool.map(lambda n: models.publish(_card(number=n), FILES), range(8)))
    assert sorted(c.version for c in cards) == list(range(1, 9))


def test_a_deleted_version_is_gone_and_its_number_is_not_given_again(blobs: Blobs) -> None:
    models = Models(blobs)
    for n in (1, 2):
        models.publish(_card(number=n), FILES)
    assert models.delete("m") == "m@2"
    assert models.get("m").card.version == 1
    with pytest.raises(NotFound):
        models.get("m@2")
    assert blobs.paths(f"model_files/{_card(number=2).id}") == []
    assert models.publish(_card(number=3), FILES).version == 3


@pytest.mark.parametrize("blobs", ["file"], indirect=True)
def test_deleting_works_on_a_full_disk_and_frees_space(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(blobs)
    card = models.publish(_card(), FILES)
    write = LocalBlobs._put_once

    def write_if_there_is_room(self: LocalBlobs, *arguments: Any) -> bool:
        if blobs.paths(f"model_files/{card.id}"):
            raise StorageFull("full")
        return write(self, *arguments)

    monkeypatch.setattr(LocalBlobs, "_put_once", write_if_there_is_room)
    with pytest.raises(StorageFull):
        blobs.create("x", b"")
    assert models.delete("m") == "m@1"
    assert models.all() == []
    monkeypatch.undo()
    assert models.publish(_card(number=2), FILES).version == 2


def test_on_a_disk_that_stays_full_deleting_ends_well(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(blobs)
    models.publish(_card(), FILES)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Disk, "write", refuse)
    assert models.delete("m") == "m@1"
    assert models.all() == [] and blobs.paths("model_files") == []
    monkeypatch.undo()
    assert models.publish(_card(number=2), FILES).version == 2


@pytest.mark.parametrize(
    ("first", "second"), [("delete", "delete"), ("delete", "a"), ("a", "delete"), ("a", "a"), ("a", "b")]
)
def test_of_two_concurrent_deletions_or_renames_of_a_version_one_succeeds(first: str, second: str) -> None:
    for call in every_call(more_than=3):
        blobs, done = open_blobs("memory:///"), []
        card = Models(blobs).publish(_card(), FILES, attempt=1)

        def change(blobs: Blobs, what: str, done: list[str] = done) -> None:
            with contextlib.suppress(NotFound):
                Models(blobs).delete("m@1") if what == "delete" else Models(blobs).rename("m@1", what)
                done.append(what)

        change(call.blobs(blobs, partial(change, blobs, second)), first)
        [winner] = done
        names = [reference.partition("@")[0] for reference in _whole(Models(blobs))]
        assert names == ([] if winner == "delete" else [winner])
        assert len(blobs.paths(f"model_files/{card.id}")) == (0 if winner == "delete" else len(FILES))


def test_model_that_is_renamed_twice_at_once_keeps_its_files(tmp_path: Path) -> None:
    class ListedByName(Interrupted):
        def paths(self, prefix: str) -> list[str]:
            names = ("a", "m", "z") if prefix == "model_cards" else ()
            by_name = [super(ListedByName, self).paths(f"{prefix}/{name}") for name in names]
            return list(itertools.chain(*by_name)) if names else super().paths(prefix)

    for call in every_call(more_than=5):
        blobs = open_blobs((tmp_path / str(call.at)).as_uri())
        Models(blobs).publish(_card(), FILES)

        def rename_again(blobs: Blobs = blobs) -> None:
            with contextlib.suppress(NotFound):
                Models(blobs).rename("z", "a")

        call.meanwhile = rename_again
        with contextlib.suppress(NotFound):
            Models(ListedByName(blobs, call)).rename("m", "z")
        assert len(_whole(Models(blobs))) == 1, call


def test_concurrent_renames_and_deletions_leave_only_complete_models(blobs: Blobs) -> None:
    models = Models(blobs)
    with ThreadPoolExecutor(2) as pool:
        for number in range(12):
            reference = models.publish(_card(number=number + 1), FILES).reference
            both = [
                pool.submit(models.delete, reference),
                pool.submit(models.rename, reference, f"renamed-{number}"),
            ]
            errors = [error for one in both if (error := one.exception())]
            assert len(errors) == 1 and isinstance(errors[0], NotFound)
    assert len(_whole(models)) * len(FILES) == len(blobs.paths("model_files"))


def test_a_new_name_that_is_deleted_while_it_is_given_takes_the_files_along(blobs: Blobs) -> None:
    for at in range(5, 7):  # between the new card and the old one's end
        Models(blobs).publish(_card(number=at), FILES)
        reference = Models(blobs).all()[0].reference
        call = Call(at, partial(Models(blobs).delete, f"new-{at}"))
        Models(call.blobs(blobs)).rename(reference, f"new-{at}")
        assert call.has_come
        assert Models(blobs).all() == [] and blobs.paths("model_files") == []


def _whole(models: Models) -> list[str]:
    """Return the references that are listed; all their files must be what their cards say."""
    for card in models.all():
        for name in card.files:
            models.get(card.reference).file(name)
    return [card.reference for card in models.all()]


def test_a_version_number_used_and_deleted_concurrently_is_not_reused(blobs: Blobs) -> None:
    def publish_and_delete() -> None:
        Models(blobs).publish(_card(number=2), FILES)
        Models(blobs).delete("m@1")

    class Stalled(Interrupted):
        def create(self, path: str, data: bytes) -> bool:
            self.call.is_armed = True  # it has read the numbers, and stands still before it writes its card
            return super().create(path, data)

    call = Call(0, publish_and_delete)
    call.is_armed = False
    card = Models(Stalled(blobs, call)).publish(_card(number=1), FILES)
    assert card.reference == "m@2"
    assert Models(blobs).all() == [card]


def test_a_renamed_version_is_the_next_of_its_new_name_with_its_files(blobs: Blobs) -> None:
    models = Models(blobs)
    for n in (1, 2):
        models.publish(_card(number=n), FILES)
    models.publish(_card("other", number=3), FILES)
    assert models.rename("m@1", "other").reference == "other@2"
    assert models.get("other").file("model.onnx") == b"graph"
    with pytest.raises(NotFound):
        models.get("m@1")
    assert models.publish(_card(number=4), FILES).version == 3  # a number is not given again
    assert models.rename("m@2", "m").reference == "m@2"
    with pytest.raises(InvalidInput):
        models.rename("m", "not a name")


def test_of_two_names_of_one_model_either_can_be_deleted(blobs: Blobs) -> None:
    models = Models(blobs)
    card = models.publish(_card(), FILES)
    # What a rename leaves that is cut short.
    blobs.create(
        "model_cards/other/000001.json", card.model_copy(update={"name": "other"}).model_dump_json().encode()
    )
    models.delete("m")
    assert models.get("other").file("model.onnx") == b"graph"
    models.delete("other")
    assert blobs.paths(f"model_files/{card.id}") == []


@pytest.mark.parametrize(
    "reference", ["none", "m@9", "m@x", "m@", "../x", "", "@1", "m@١", "m@" + 5000 * "1"]
)
def test_an_unknown_reference_is_not_found(blobs: Blobs, reference: str) -> None:
    models = Models(blobs)
    models.publish(_card(), FILES)
    with pytest.raises(NotFound):
        models.get(reference)


def test_of_a_file_that_is_larger_than_its_card_says_no_more_is_read(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Models(blobs).publish(_card(), FILES)
    blobs.write(f"model_files/{card.id}/model.onnx", b"graph" * 100)
    read: list[int] = []

    def read_limited(chunks: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
        for chunk in nextchar.store.blobs.read_limited(chunks, max_bytes):
            read.append(len(chunk))
            yield chunk

    monkeypatch.setattr("nextchar.store.model_file_cache.read_limited", read_limited)
    for cache in (None, ModelFileCache(tmp_path / "cache", max_bytes=1000)):
        read.clear()
        with pytest.raises(Unavailable) as caught:
            Models(blobs, cache=cache).get("m").file("model.onnx")
        assert caught.value.code == "model_damaged"
        assert read and set(read) == {len(b"graph") + 1}


def test_a_damaged_file_makes_that_model_unavailable_and_no_other(blobs: Blobs) -> None:
    models = Models(blobs)
    damaged, fine = models.publish(_card(), FILES), models.publish(_card("other", number=2), FILES)
    assert bytes(models.get("other").mapped("model.onnx")) == FILES["model.onnx"]
    blobs.write(f"model_files/{damaged.id}/model.onnx", b"grapx")
    with pytest.raises(Unavailable, match="its hash differs"):
        models.get(damaged.reference).mapped("model.onnx")
    with pytest.raises(Unavailable, match="hash differs") as caught:
        models.get("m").file("model.onnx")
    assert caught.value.code == "model_damaged"
    assert models.get(fine.reference).file("model.onnx") == b"graph"
    blobs.delete(f"model_files/{damaged.id}/model.onnx")
    with pytest.raises(Unavailable, match="is missing"):
        models.get("m").file("model.onnx")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param({"format_version": 99}, "model_format_unknown", id="newer"),
        pytest.param({"surprise": 1}, "model_format_unknown", id="unknown field"),
        pytest.param({"network": {"architecture": "later"}}, "model_format_unknown", id="unknown value"),
        pytest.param({"surprise": 1, "characters": None}, "model_damaged", id="unknown field and wrong type"),
        pytest.param({"characters": None}, "model_damaged", id="wrong type"),
        pytest.param(None, "model_damaged", id="no object"),
    ],
)
def test_a_card_of_another_format_or_a_damaged_one_is_refused(
    blobs: Blobs, content: dict[str, object] | None, code: str
) -> None:
    card = Models(blobs).publish(_card(), FILES)
    path = "model_cards/m/000001.json"
    blobs.write(path, json.dumps(content and json.loads(blobs.read(path)) | content).encode())
    models = Models(blobs)
    with pytest.raises(Unavailable) as caught:
        models.get("m")
    assert caught.value.code == code
    assert ("upgrade" in caught.value.message) == (code == "model_format_unknown")
    assert models.all() == []
    assert models.delete(card.reference) == "m@1"


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format_version": 99}'])
def test_a_damaged_card_blocks_neither_its_name_nor_the_others(
    blobs: Blobs, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    models = Models(blobs)
    first = models.publish(_card(), FILES)
    second = models.publish(_card(number=2), FILES)
    blobs.write("model_cards/m/000002.json", damage)
    models = Models(blobs)
    assert models.publish(_card(number=3), FILES, attempt=1).reference == "m@3"
    assert models.rename("m@1", "other").id == first.id
    assert models.rename("other", "m").reference == "m@4"
    cards, [damaged] = models.scan()
    assert [card.reference for card in cards] == ["m@3", "m@4"]
    assert damaged.reference == "m@2" and "model_cards/m/000002.json" in damaged.reason
    models.scan()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(Unavailable):
        models.rename("m@2", "elsewhere")
    assert models.delete("m@2") == "m@2"
    assert models.scan()[1] == []
    assert blobs.paths(f"model_files/{second.id}")  # for nobody can tell any more whose they are


def test_of_a_card_of_a_newer_format_the_files_go_with_it(blobs: Blobs) -> None:
    models = Models(blobs)
    card = models.publish(_card(), FILES)
    newer = card.model_dump(mode="json") | {"format_version": 99}
    blobs.write("model_cards/m/000001.json", json.dumps(newer).encode())
    models.delete("m@1")
    assert blobs.paths("model_files") == [] and models.all() == []


def test_attempts_have_separate_files_and_the_winner_deletes_the_others(blobs: Blobs) -> None:
    models = Models(blobs)
    for attempt in (1, 2):
        blobs.write(f"model_files/{_card().id}/attempt-{attempt}/model.onnx", b"half")  # killed in the middle
    blobs.write(f"model_files/{_card().id}/calibrations/default.json", b"{}")
    card = models.publish(_card(), FILES, attempt=3)
    folder = f"model_files/{card.id}"
    assert blobs.paths(folder) == [f"{folder}/attempt-3/{name}" for name in sorted(FILES)] + [
        f"{folder}/calibrations/default.json"
    ]
    assert models.publish(_card(), {"model.onnx": b"other"}, attempt=4) == card
    assert _whole(models) == ["m@1"] and len(blobs.paths(folder)) == 3
    models.delete("m")
    assert blobs.paths("model_files") == []


def test_a_resumed_attempt_deletes_no_files_of_a_successor_whose_model_was_renamed(tmp_path: Path) -> None:
    for call in every_call(more_than=len(FILES)):
        blobs = open_blobs((tmp_path / str(call.at)).as_uri())
        owners = [1]

        def succeed(blobs: Blobs = blobs, owners: list[int] = owners) -> None:
            owners.append(2)
            published = Models(blobs).publish(
                _card(), FILES, attempt=2, is_still_ours=lambda: owners[-1] == 2
            )
            Models(blobs).rename(published.reference, "new")

        card = Models(call.blobs(blobs, succeed)).publish(
            _card(), FILES, attempt=1, is_still_ours=lambda owners=owners: owners[-1] == 1
        )
        if not call.has_come:
            continue
        assert _whole(Models(blobs)) == ["new@1"], call
        assert len(blobs.paths("model_files")) == len(FILES), call
        assert blobs.paths("model_cards") == ["model_cards/m/000001.gone", "model_cards/new/000001.json"]
        assert card.reference in ("m@1", "new@1")


@pytest.mark.parametrize("blobs", ["file"], indirect=True)
def test_a_full_disk_leaves_nothing_of_a_publication(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    models, put = Models(blobs), LocalBlobs._put_once

    def refuse_cards(self: LocalBlobs, target: Path, *arguments: Any) -> bool:
        if target.suffix == ".json":
            raise StorageFull("full")
        return put(self, target, *arguments)

    monkeypatch.setattr(LocalBlobs, "_put_once", refuse_cards)
    with pytest.raises(StorageFull):
        models.publish(_card(), FILES, attempt=1)
    assert blobs.paths("model_files") == blobs.paths("model_cards") == []
    monkeypatch.undo()
    assert models.publish(_card(), FILES, attempt=1).reference == "m@1"


@pytest.mark.parametrize("attempt", [None, 1])
@pytest.mark.parametrize("full_at", ["model.onnx", "model.keras"])
def test_a_model_whose_files_fill_the_disk_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str, attempt: int | None
) -> None:
    blobs = open_blobs(tmp_path.as_uri())
    put = LocalBlobs._put_once

    def refuse_one(self: LocalBlobs, target: Path, *arguments: Any) -> bool:
        if target.name == full_at:
            raise StorageFull("full")
        return put(self, target, *arguments)

    monkeypatch.setattr(LocalBlobs, "_put_once", refuse_one)
    with pytest.raises(StorageFull):
        Models(blobs).publish(_card(), FILES, attempt=attempt)
    assert blobs.paths("model_files") == []


def test_a_card_from_before_attempts_is_read(blobs: Blobs) -> None:
    models = Models(blobs)
    card = models.publish(_card(), FILES)
    old = card.model_dump(mode="json", exclude={"files_folder"})
    blobs.write("model_cards/m/000001.json", json.dumps(old).encode())
    assert models.get("m").file("model.onnx") == b"graph"
    assert models.get("m").card == card
    blobs.write("model_cards/m/000001.json", json.dumps(old | {"files_folder": "../x"}).encode())
    with pytest.raises(Unavailable, match="files_folder"):
        models.get("m")


def test_a_name_that_is_none_is_refused(blobs: Blobs) -> None:
    with pytest.raises(InvalidInput):
        Models(blobs).publish(_card("a/b"), FILES)


def test_a_name_is_listed_deleted_or_unknown() -> None:
    models = Models(open_blobs("memory:///"))
    assert not models.is_listed("m") and not models.is_deleted("m") and models.renamed_to("m") is None
    for number in (1, 2):
        models.publish(_card(number=number), FILES)
    assert [models.is_listed("m", version) for version in (None, 1, 2, 3)] == [True, True, True, False]
    models.delete("m@1")
    assert [models.is_listed("m", version) for version in (None, 1, 2)] == [True, False, True]
    assert [models.is_deleted("m", version) for version in (None, 1, 2, 3)] == [False, True, False, False]
    assert not models.is_deleted("m") and models.renamed_to("m") is None
    moved = models.rename("m@2", "n")
    assert models.is_deleted("m") and not models.is_listed("m") and not models.is_deleted("n")
    assert models.renamed_to("m") == moved and models.renamed_to("n") is None
    models.delete("n")
    assert models.renamed_to("m") is None and models.is_deleted("n")


def test_what_the_newest_deleted_version_was_renamed_to_is_told() -> None:
    models = Models(open_blobs("memory:///"))
    for number in (1, 2):
        models.publish(_card(number=number), FILES)
    old = models.rename("m@1", "old")
    assert models.renamed_to("m") == old
    new = models.rename("m@2", "new")
    assert models.renamed_to("m") == new


def test_the_newest_deletion_need_not_be_of_the_highest_version() -> None:
    models = Models(open_blobs("memory:///"))
    for number in (1, 2):
        models.publish(_card("a", number=number), FILES)
        models.publish(_card("b", number=10 + number), FILES)
    models.delete("a@2")
    renamed = models.rename("a@1", "other")
    assert models.renamed_to("a") == renamed
    models.rename("b@2", "other")
    models.delete("b@1")
    assert models.is_deleted("b") and models.renamed_to("b") is None


@pytest.mark.parametrize("times", [(5, 5), (5, None), (4, 5.5)])
def test_of_two_deletions_at_the_same_second_that_by_a_renaming_is_the_newest(
    times: tuple[float, float | None],
) -> None:
    """Older versions stored whole seconds; a tombstone that is still a copy of the card has no time."""
    blobs = open_blobs("memory:///")
    models = Models(blobs)
    for number in (1, 2):
        models.publish(_card(number=number), FILES)
    copies = [blobs.read(f"model_cards/m/{number:06d}.json") for number in (1, 2)]
    renamed = models.rename("m@1", "n")
    models.delete("m@2")
    for number, deleted_at in zip((2, 1), times, strict=True):
        tombstone = json.dumps({"model": _card(number=number).id, "deleted_at": deleted_at}).encode()
        path = f"model_cards/m/{number:06d}.gone"
        blobs.write(path, copies[number - 1] if deleted_at is None else tombstone)
    assert models.renamed_to("m") == renamed


def test_a_version_whose_deletion_was_cut_short_is_deleted() -> None:
    blobs = open_blobs("memory:///")
    models = Models(blobs)
    for number in (1, 2):
        models.publish(_card(number=number), FILES)
    assert blobs.copy("model_cards/m/000002.json", "model_cards/m/000002.gone")
    assert [card.reference for card in models.all()] == ["m@1"] == [models.get("m").card.reference]
    assert models.resolve("m") == ("m", 1) and not models.is_listed("m", 2)
    with pytest.raises(NotFound):
        models.delete("m@2")
    assert models.publish(_card(number=3), FILES).reference == "m@3"


def test_models_made_at_the_same_time_are_listed_in_order_of_name_and_version() -> None:
    models = Models(open_blobs("memory:///"))
    for number, name in enumerate(("a", "b", "a", "c"), 1):
        models.publish(_card(name, number=number).model_copy(update={"created_at": 5}), FILES)
    assert [card.reference for card in models.all()] == ["c@1", "b@1", "a@2", "a@1"]


def test_an_attempt_that_has_lost_its_job_publishes_nothing_and_leaves_no_files() -> None:
    blobs = open_blobs("memory:///")
    models = Models(blobs)
    with pytest.raises(Conflict) as caught:
        models.publish(_card(), FILES, attempt=1, is_still_ours=lambda: False)
    assert caught.value.code == "publish_superseded"
    assert models.all() == [] and blobs.paths("model_files") == []
    published = models.publish(_card(), FILES, attempt=2)
    assert published.files_folder == "attempt-2"
    again = models.publish(_card(), {}, attempt=1, is_still_ours=lambda: False)
    assert again == published and len(blobs.paths("model_files")) == len(FILES)


def test_a_card_that_the_storage_does_not_return_is_not_taken_for_missing() -> None:
    blobs = open_blobs("memory:///")
    Models(blobs).publish(_card(), FILES)
    failing = Models(Refusing(blobs, read=["model_cards/m/000001.json"], error=unavailable))
    with pytest.raises(Unavailable, match="no answer"):
        failing.publish(_card(), FILES)
    assert blobs.paths("model_cards") == ["model_cards/m/000001.json"], "one version of one model"
    Models(blobs).rename("m", "other")
    failing = Models(Refusing(blobs, read=["model_cards/other"], error=unavailable))
    with pytest.raises(Unavailable, match="no answer"):
        failing.renamed_to("m")


def test_a_model_of_two_cards_keeps_the_files_of_all_attempts() -> None:
    """A rename is under way: a second publication cannot know which attempt's files are used."""
    blobs = open_blobs("memory:///")
    models = Models(blobs)
    card = models.publish(_card(), FILES, attempt=2)
    blobs.write(f"model_files/{card.id}/attempt-1/model.onnx", b"half")
    other = card.model_copy(update={"name": "other"})
    assert blobs.create("model_cards/other/000001.json", other.model_dump_json().encode())
    models.publish(_card(), FILES, attempt=2)
    assert blobs.exists(f"model_files/{card.id}/attempt-1/model.onnx")
    models.delete("other")
    blobs.write(f"model_files/{card.id}/attempt-2/model.onnx", b"graph")
