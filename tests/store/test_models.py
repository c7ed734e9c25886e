import contextlib
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
from nextchar.models.errors import Conflict, NotFound, StorageFull, Unavailable
from nextchar.models.saved_model import Card, describe_files
from nextchar.store.blobs import Blobs
from nextchar.store.local_blobs import LocalBlobs
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


def test_concurrent_publishers_get_different_versions(blobs: Blobs) -> None:
    models = Models(blobs)
    with ThreadPoolExecutor(8) as pool:
        cards = list(pool.map(lambda n: models.publish(_card(number=n), FILES), range(8)))
    assert sorted(c.version for c in cards) == list(range(1, 9))


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


@pytest.mark.parametrize("name", ["n", "other"])
def test_a_rename_that_was_cut_short_leaves_one_version_once_the_model_is_renamed_again(name: str) -> None:
    cut_short = 0
    for call in every_call(more_than=3):
        blobs = open_blobs("memory:///")
        card = Models(blobs).publish(_card(), FILES, attempt=1)
        with call.dying():
            Models(call.blobs(blobs)).rename("m@1", "n")
        cut_short += len(_whole(Models(blobs))) == 2
        with contextlib.suppress(NotFound):  # it was complete but for its answer
            Models(blobs).rename("m@1", name)
        assert len(_whole(Models(blobs))) == 1
        assert len(blobs.paths(f"model_files/{card.id}")) == len(FILES)
    assert cut_short


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
    for at in range(7, 9):  # between the new card and the old one's end
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
