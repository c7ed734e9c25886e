"""Calibrations of saved models, by name: one for each host or source, if lines differ between them.

    model_files/<model id>/calibrations/<name>.json   one record; goes when the model goes

The calibration made with a model, on the lines of its held-out text, is a file of the model itself and is
called `validation`. Where none is named, `default` is used, and where there is none of that name,
`validation`.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any

from models.anomaly.calibration import Calibration
from models.anomaly.calibration_format import dump, load
from models.errors import Conflict, NotFound
from models.saved_model import SavedModel
from store.blobs import Blobs
from store.ids import check_name

MODEL_FILE = "calibration.json"
"""The file of a saved model that holds its own calibration."""

VALIDATION, DEFAULT = "validation", "default"

_FRESH_S = 1.0  # a calibration made by another process counts after this long
_REMEMBERED = 64


@dataclass(frozen=True)
class StoredCalibration:
    """A calibration with its name; `created_at` in Unix seconds, `source` what it was made from."""

    name: str
    calibration: Calibration
    created_at: int
    source: str


class Calibrations:
    """The calibrations in one storage. Safe to use from several threads."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, bytes | None, StoredCalibration | None]] = {}

    def save(
        self, model: SavedModel, name: str, calibration: Calibration, *, source: str
    ) -> StoredCalibration:
        """Keep a calibration, in place of one of the same name.

        Raises:
            InvalidInput: `name` cannot be one.
            Conflict: it is the name of the model's own (code `calibration_reserved`).
        """
        check_name(name, param="calibration")
        if name == VALIDATION:
            raise Conflict(
                f"{VALIDATION!r} is the calibration made with the model and stays; use another name, or none",
                code="calibration_reserved",
                param="name",
            )
        named = StoredCalibration(name, calibration, int(time.time()), source)
        self._blobs.write(_path(model, name), dump(calibration, **_about(named)))
        with self._lock:
            self._known.pop(_path(model, name), None)
        return named

    def find(self, model: SavedModel, name: str | None) -> StoredCalibration | None:
        """Return the calibration of this name, or the one that is used where none is named, if any.

        Raises:
            NotFound: there is none of the name that was given (code `calibration_not_found`).
            Unavailable: it is damaged.
        """
        if name is None:
            return self._get(model, DEFAULT) or self._get(model, VALIDATION)
        found = self._get(model, check_name(name, param="calibration"))
        if found is None:
            raise _none(model, name)
        return found

    def all(self, model: SavedModel) -> list[StoredCalibration]:
        """Return the model's calibrations by name."""
        names = {path.rsplit("/", 1)[-1].removesuffix(".json") for path in self._blobs.paths(_folder(model))}
        if MODEL_FILE in model.card.files:
            names.add(VALIDATION)
        return [named for name in sorted(names) if (named := self._get(model, name))]

    def delete(self, model: SavedModel, name: str) -> None:
        """Delete a calibration.

        Raises:
            NotFound: there is none of this name.
            Conflict: it is the model's own.
        """
        if name == VALIDATION:
            raise Conflict(
                f"{VALIDATION!r} was made with the model and goes only with it", code="calibration_reserved"
            )
        path = _path(model, check_name(name, param="calibration"))
        if not self._blobs.exists(path):
            raise _none(model, name)
        self._blobs.delete(path)
        with self._lock:
            self._known.pop(path, None)

    def _get(self, model: SavedModel, name: str) -> StoredCalibration | None:
        path = _path(model, name)
        now = time.monotonic()
        with self._lock:
            known = self._known.get(path)
        if known and now - known[0] < _FRESH_S:
            return known[2]
        data = self._read(model, name, path)
        if known and known[1] == data:
            named = known[2]
        else:
            named = _named(data, where=f"calibration {name!r} of {model.card.reference}", name=name)
        with self._lock:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[path] = (now, data, named)
        return named

    def _read(self, model: SavedModel, name: str, path: str) -> bytes | None:
        if name == VALIDATION:
            return model.file(MODEL_FILE) if MODEL_FILE in model.card.files else None
        try:
            return self._blobs.read(path)
        except FileNotFoundError:
            return None


def validation_file(calibration: Calibration) -> bytes:
    """Return the contents of MODEL_FILE for the calibration made with a model."""
    return dump(
        calibration, **_about(StoredCalibration(VALIDATION, calibration, int(time.time()), "held-out text"))
    )


def _about(named: StoredCalibration) -> dict[str, Any]:
    return {"created_at": named.created_at, "source": named.source}


def _named(data: bytes | None, *, where: str, name: str) -> StoredCalibration | None:
    if data is None:
        return None
    calibration, about = load(data, where=where)
    return StoredCalibration(name, calibration, int(about["created_at"]), str(about["source"]))


def _folder(model: SavedModel) -> str:
    return f"model_files/{model.card.id}/calibrations"


def _path(model: SavedModel, name: str) -> str:
    return f"{_folder(model)}/{name}.json"


def _none(model: SavedModel, name: str) -> NotFound:
    return NotFound(
        f"model {model.card.reference} has no calibration {name!r}",
        code="calibration_not_found",
        param="calibration",
    )
