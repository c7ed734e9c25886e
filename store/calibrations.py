"""The calibrations of saved models, by name: for example one per host or log source.

    model_files/<model id>/calibrations/<name>.json   one record; deleted with the model

The calibration that is made with a model, on the lines of its held-out text, is a file of the model and is
called `validation`. A call without a name uses `default` if it exists, else `validation`.
"""

import threading
import time
from dataclasses import dataclass

from models.anomaly.calibration import Calibration
from models.anomaly.calibration_format import dump, load
from models.errors import Conflict, NotFound
from models.saved_model import SavedModel
from store.blobs import Blobs
from store.ids import check_name

MODEL_FILE = "calibration.json"
"""The file of a saved model that holds its own calibration."""

VALIDATION, DEFAULT = "validation", "default"

_CACHE_S = 1.0  # a calibration from another process is visible after this long
_MAX_CACHED = 64


@dataclass(frozen=True)
class StoredCalibration:
    """A calibration with its name, creation time (Unix seconds) and a description of its source."""

    name: str
    calibration: Calibration
    created_at: int
    source: str


class Calibrations:
    """The calibrations in one storage. Safe to use from several threads."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[float, bytes | None, StoredCalibration | None]] = {}

    def save(
        self, model: SavedModel, name: str, calibration: Calibration, *, source: str
    ) -> StoredCalibration:
        """Save a calibration, replacing one of the same name.

        Raises:
            InvalidInput: `name` is not a valid name.
            Conflict: the name is `validation` (code `calibration_reserved`).
        """
        check_name(name, param="calibration")
        if name == VALIDATION:
            raise Conflict(
                f"{VALIDATION!r} was made with the model and cannot be replaced; use another name",
                code="calibration_reserved",
                param="name",
            )
        stored = StoredCalibration(name, calibration, int(time.time()), source)
        data = dump(calibration, created_at=stored.created_at, source=source)
        self._blobs.write(_path(model, name), data)
        with self._lock:
            self._cache.pop(_path(model, name), None)
        return stored

    def find(self, model: SavedModel, name: str | None) -> StoredCalibration | None:
        """Return the calibration of this name; without a name `default`, or `validation`, or None.

        Raises:
            NotFound: there is no calibration `name` (code `calibration_not_found`).
            Unavailable: it is damaged.
        """
        if name is None:
            return self._get(model, DEFAULT) or self._get(model, VALIDATION)
        stored = self._get(model, check_name(name, param="calibration"))
        if stored is None:
            raise _not_found(model, name)
        return stored

    def all(self, model: SavedModel) -> list[StoredCalibration]:
        """Return the model's calibrations by name."""
        names = {path.rsplit("/", 1)[-1].removesuffix(".json") for path in self._blobs.paths(_folder(model))}
        if MODEL_FILE in model.card.files:
            names.add(VALIDATION)
        return [stored for name in sorted(names) if (stored := self._get(model, name))]

    def delete(self, model: SavedModel, name: str) -> None:
        """Delete a calibration.

        Raises:
            NotFound: there is no such calibration.
            Conflict: it is `validation`.
        """
        if name == VALIDATION:
            raise Conflict(
                f"{VALIDATION!r} was made with the model and is deleted only with it",
                code="calibration_reserved",
            )
        path = _path(model, check_name(name, param="calibration"))
        if not self._blobs.exists(path):
            raise _not_found(model, name)
        self._blobs.delete(path)
        with self._lock:
            self._cache.pop(path, None)

    def _get(self, model: SavedModel, name: str) -> StoredCalibration | None:
        path = _path(model, name)
        now = time.monotonic()
        with self._lock:
            cached = self._cache.get(path)
        if cached and now - cached[0] < _CACHE_S:
            return cached[2]
        data = self._read(model, name, path)
        if cached and cached[1] == data:
            stored = cached[2]
        elif data is None:
            stored = None
        else:
            calibration, about = load(data, where=f"calibration {name!r} of {model.card.reference}")
            stored = StoredCalibration(name, calibration, int(about["created_at"]), str(about["source"]))
        with self._lock:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[path] = (now, data, stored)
        return stored

    def _read(self, model: SavedModel, name: str, path: str) -> bytes | None:
        if name == VALIDATION:
            return model.file(MODEL_FILE) if MODEL_FILE in model.card.files else None
        try:
            return self._blobs.read(path)
        except FileNotFoundError:
            return None


def validation_file(calibration: Calibration) -> bytes:
    """Return the contents of MODEL_FILE for the calibration made with a model."""
    return dump(calibration, created_at=int(time.time()), source="held-out text")


def _folder(model: SavedModel) -> str:
    return f"model_files/{model.card.id}/calibrations"


def _path(model: SavedModel, name: str) -> str:
    return f"{_folder(model)}/{name}.json"


def _not_found(model: SavedModel, name: str) -> NotFound:
    return NotFound(
        f"model {model.card.reference} has no calibration {name!r}",
        code="calibration_not_found",
        param="calibration",
    )
