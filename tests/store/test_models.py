import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.config import NetworkConfig, TrainingConfig
from models.errors import InvalidInput, NotFound, StorageFull, Unavailable
from models.saved_model import Card, describe_files, load_folder
from store.blobs import Blobs, open_blobs
from store.models import Models

FILES = {"model.onnx": b"graph", "model.keras": b"layers"}


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(tmp_path.as_uri())


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


def test_publishing_a_model_twice_gives_one_version(blobs: Blobs) -> None:
    models = Models(blobs)
    assert models.publish(_card(), FILES) == models.publish(_card(), FILES)
    assert len(models.all()) == 1


def test_racing_publishers_get_versions_of_their_own(blobs: Blobs) -> None:
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


def test_on_a_full_disk_deleting_makes_room_and_ends_well(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models(blobs)
    card = models.publish(_card(), FILES)
    write = Blobs.write

    def write_if_there_is_room(self: Blobs, path: str, data: bytes | Path) -> None:
        if blobs.paths(f"model_files/{card.id}"):
            raise StorageFull("full")
        write(self, path, data)

    monkeypatch.setattr(Blobs, "write", write_if_there_is_room)
    assert models.delete("m") == "m@1"
    assert models.all() == []
    monkeypatch.undo()
    assert models.publish(_card(number=2), FILES).version == 2


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
def test_a_reference_to_nothing_is_not_found(blobs: Blobs, reference: str) -> None:
    models = Models(blobs)
    models.publish(_card(), FILES)
    with pytest.raises(NotFound):
        models.get(reference)


def test_a_damaged_file_makes_that_model_unavailable_and_no_other(blobs: Blobs) -> None:
    models = Models(blobs)
    damaged, fine = models.publish(_card(), FILES), models.publish(_card("other", number=2), FILES)
    blobs.write(f"model_files/{damaged.id}/model.onnx", b"grapx")
    with pytest.raises(Unavailable, match="hash differs") as caught:
        models.get("m").file("model.onnx")
    assert caught.value.code == "model_damaged"
    assert models.get(fine.reference).file("model.onnx") == b"graph"
    blobs.delete(f"model_files/{damaged.id}/model.onnx")
    with pytest.raises(Unavailable, match="lost its file"):
        models.get("m").file("model.onnx")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param({"format_version": 99}, "model_format_unknown", id="newer"),
        pytest.param({"surprise": 1}, "model_damaged", id="unknown field"),
        pytest.param({"characters": None}, "model_damaged", id="wrong type"),
        pytest.param(None, "model_damaged", id="no object"),
    ],
)
def test_a_card_of_another_format_or_a_damaged_one_is_refused(
    blobs: Blobs, content: dict[str, object] | None, code: str
) -> None:
    models = Models(blobs)
    card = models.publish(_card(), FILES)
    path = "model_cards/m/000001.json"
    blobs.write(path, json.dumps(content and json.loads(blobs.read(path)) | content).encode())
    with pytest.raises(Unavailable) as caught:
        models.get("m")
    assert caught.value.code == code
    assert models.all() == []
    assert models.delete(card.reference) == "m@1"


def test_a_name_that_is_none_is_refused(blobs: Blobs) -> None:
    with pytest.raises(InvalidInput):
        Models(blobs).publish(_card("a/b"), FILES)


def test_a_downloaded_folder_loads(tmp_path: Path, blobs: Blobs) -> None:
    card = Models(blobs).publish(_card(), FILES)
    folder = tmp_path / "download"
    folder.mkdir()
    (folder / "model.json").write_text(card.model_dump_json())
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    assert load_folder(folder).card == card
    assert load_folder(folder).file("model.keras") == b"layers"


def test_a_deletion_that_was_cut_short_leaves_no_ghost_in_the_list(blobs: Blobs) -> None:
    models = Models(blobs)
    card = models.publish(_card(), FILES)
    card_path = next(path for path in blobs.paths("model_cards") if path.endswith(".json"))
    blobs.write(card_path.replace(".json", ".gone"), b"1")  # and then the process was killed
    assert models.all() == []
    with pytest.raises(NotFound):
        models.get(card.reference)
