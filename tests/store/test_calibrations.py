import numpy as np
import pytest

from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.errors import Conflict, InvalidInput, NotFound, Unavailable
from nextchar.models.saved_model import SavedModel, describe_files
from nextchar.store import calibrations as module
from nextchar.store.blobs import Blobs
from nextchar.store.calibrations import MODEL_FILE, Calibrations, validation_file
from nextchar.store.open_blobs import open_blobs
from tests.models.anomaly.surprisals import random_lines
from tests.models.runtime.networks import saved_model
from tests.store.clock import Clock

NORMAL = calibrate(random_lines(np.random.default_rng(0), 40))
OTHER = calibrate(random_lines(np.random.default_rng(1), 50))


@pytest.fixture
def model() -> SavedModel:
    """A model with a calibration of its own."""
    plain = saved_model()
    files = {name: plain.file(name) for name in plain.card.files} | {MODEL_FILE: validation_file(NORMAL)}
    return SavedModel(plain.card.model_copy(update={"files": describe_files(files)}), files.__getitem__)


def test_the_validation_calibration_is_used_until_there_is_a_default(blobs: Blobs, model: SavedModel) -> None:
    known = Calibrations(blobs)
    assert (found := known.find(model, None)) and (found.name, found.calibration.lines) == ("validation", 40)
    known.save(model, "default", OTHER, source="lines")
    assert (found := known.find(model, None)) and (found.name, found.calibration.lines) == ("default", 50)
    assert (found := known.find(model, "validation")) and found.calibration.lines == 40
    assert [one.name for one in known.all(model)] == ["default", "validation"]
    known.delete(model, "default")
    assert (found := known.find(model, None)) and found.name == "validation"


def test_names_that_are_not_there_or_not_to_be_had(blobs: Blobs, model: SavedModel) -> None:
    known = Calibrations(blobs)
    with pytest.raises(NotFound, match="no calibration 'web-1'"):
        known.find(model, "web-1")
    with pytest.raises(NotFound):
        known.delete(model, "web-1")
    with pytest.raises(InvalidInput):
        known.find(model, "../etc")
    for verb in (
        lambda: known.save(model, "validation", OTHER, source="x"),
        lambda: known.delete(model, "validation"),
    ):
        with pytest.raises(Conflict):
            verb()


def test_damaged_records_are_named(blobs: Blobs, model: SavedModel) -> None:
    known = Calibrations(blobs)
    known.save(model, "web-1", OTHER, source="lines")
    [path] = blobs.paths("model_files")
    blobs.write(path, b"{")
    with pytest.raises(Unavailable, match="calibration 'web-1' of random@1 is damaged"):
        known.find(model, "web-1")


def test_of_a_huge_record_no_more_is_read_than_a_calibration_may_have(
    blobs: Blobs, model: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Calibrations(blobs)
    known.save(model, "usual", OTHER, source="lines")
    path = f"model_files/{model.card.id}/calibrations/usual.json"
    data = blobs.read(path)
    monkeypatch.setattr(module, "MAX_BYTES", len(data))
    assert Calibrations(blobs).find(model, "usual")
    blobs.write(path, data + b" ")  # JSON all the same
    read: list[int] = []
    load = module.load
    monkeypatch.setattr(module, "load", lambda data, where: read.append(len(data)) or load(data, where=where))
    assert Calibrations(blobs).find(model, "usual")
    blobs.write(path, b" " * len(data) + data)
    with pytest.raises(Unavailable, match="is damaged"):
        Calibrations(blobs).find(model, "usual")
    assert read == [len(data) + 1] * 2


def test_cached_calibrations_are_bounded_by_their_memory_and_their_number(
    blobs: Blobs, model: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        Calibrations(blobs).save(model, f"web-{number}", OTHER, source="lines")
    arrays = sum(one.statistics.nbytes + one.scores.nbytes for one in OTHER.buckets)
    size = arrays + len(blobs.read(f"model_files/{model.card.id}/calibrations/web-0.json"))
    loaded: list[str] = []
    load, everything = module.load, module.MAX_CACHED_BYTES
    monkeypatch.setattr(module, "load", lambda data, where: loaded.append(where) or load(data, where=where))
    for max_bytes, max_number in ((3 * size + 100, 64), (everything, 3)):
        monkeypatch.setattr(module, "MAX_CACHED_BYTES", max_bytes)
        monkeypatch.setattr(module, "_MAX_CACHED", max_number)
        known = Calibrations(blobs, clock=Clock())
        loaded.clear()
        for number in (0, 1, 2, 0, 1, 2, 3, 3, 0):  # the fourth takes the place of the others
            assert known.find(model, f"web-{number}")
        assert [where.split("'")[1] for where in loaded] == ["web-0", "web-1", "web-2", "web-3", "web-0"]


@pytest.fixture
def memory() -> Blobs:
    return open_blobs("memory:///")


def test_a_calibration_of_another_process_is_used_after_a_second(memory: Blobs, model: SavedModel) -> None:
    clock = Clock()
    ours, theirs = Calibrations(memory, clock=clock), Calibrations(memory)
    assert ours.get(model, "default") is None
    first = theirs.save(model, "default", OTHER, source="lines")
    clock.now_s += 0.75
    assert ours.get(model, "default") is None, "not yet read again"
    clock.now_s += 0.25
    assert (found := ours.get(model, "default")) and found.created_at == first.created_at
    clock.now_s += 1.0
    assert ours.get(model, "default") is found, "not parsed again while it is the same"
    theirs.delete(model, "default")
    clock.now_s += 0.75
    assert ours.get(model, "default") is found
    clock.now_s += 0.25
    assert ours.get(model, "default") is None


def test_what_a_process_saves_or_deletes_it_sees_at_once(memory: Blobs, model: SavedModel) -> None:
    known = Calibrations(memory, clock=Clock())
    assert known.get(model, "default") is None
    saved = known.save(model, "default", OTHER, source="lines")
    assert (found := known.get(model, "default")) and found.calibration.lines == 50
    assert (found.name, found.source, found.created_at) == (saved.name, "lines", saved.created_at)
    known.save(model, "default", NORMAL, source="others")
    assert (found := known.get(model, "default")) and (found.calibration.lines, found.source) == (
        40,
        "others",
    )
    known.delete(model, "default")
    assert known.get(model, "default") is None


def test_the_reserved_name_is_refused_with_a_reason(memory: Blobs, model: SavedModel) -> None:
    known = Calibrations(memory)
    with pytest.raises(Conflict) as caught:
        known.save(model, "validation", OTHER, source="lines")
    assert (caught.value.code, caught.value.param) == ("calibration_reserved", "name")
    known.save(model, "validations", OTHER, source="lines")
    with pytest.raises(Conflict) as caught:
        known.delete(model, "validation")
    assert caught.value.code == "calibration_reserved"
    with pytest.raises(NotFound) as missing:
        known.delete(model, "web-1")
    assert (missing.value.code, missing.value.param) == ("calibration_not_found", "calibration")
    assert [one.name for one in known.all(model)] == ["validation", "validations"]
