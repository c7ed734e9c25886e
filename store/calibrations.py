"""The calibrations of saved models, by name: for example one per host or log source.

    model_files/<model id>/calibrations/<name>.json   one record; deleted with the model

The calibration that is made with a model, on the lines of its held-out text, is a file of the model and is
called `validation`. A call without a name uses `default` if it exists, else `validation`.
"""

import time
from collections.abc import Iterator

from nextchar.models.anomaly.calibration import MAX_BYTES, Calibration, dump, load
from nextchar.models.anomaly.line_scores import StoredCalibration
from nextchar.models.errors import Conflict, InvalidInput, NotFound
from nextchar.models.saved_model import SavedModel
from nextchar.store.blobs import Blobs
from nextchar.store.expiring_cache import Clock, ExpiringCache
from nextchar.store.ids import check_name

MODEL_FILE = "calibration.json"
"""The file of a saved model that holds its own calibration."""

VALIDATION, DEFAULT = "validation", "default"

MAX_CACHED_BYTES = 256 << 20
"""Maximum size of the calibrations that a process caches. One has at most MAX_BYTES as JSON, and twice that
in arrays."""

_CACHE_S = 1.0  # a calibration from another process is visible after this long
_MAX_CACHED = 64


_Cached = tuple[bytes | None, StoredCalibration | None]  # the JSON, and what it holds


class Calibrations:
    """The calibrations in one storage. Safe to use from several threads."""

    def __init__(self, blobs: Blobs, *, clock: Clock = time.monotonic) -> None:
        self._blobs = blobs
        self._cache = ExpiringCache(_CACHE_S, clock=clock, max_size=MAX_CACHED_BYTES, size_of=_memory_bytes)

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
        self._write(model, stored)
        return stored

    def _write(self, model: SavedModel, stored: StoredCalibration) -> None:
        path = _path(model, stored.name)
        self._blobs.write(path, dump(stored.calibration, created_at=stored.created_at, source=stored.source))
        self._cache.forget(path)

    def find(self, model: SavedModel, name: str | None) -> StoredCalibration | None:
        """Return the calibration of this name; without a name `default`, or `validation`, or None.

        Raises:
            NotFound: there is no calibration `name` (code `calibration_not_found`).
            Unavailable: it is damaged.
        """
        if name is None:
            return self.get(model, DEFAULT) or self.get(model, VALIDATION)
        stored = self.get(model, check_name(name, param="calibration"))
        if stored is None:
            raise _not_found(model, name)
        return stored

    def required(
        self, model: SavedModel, name: str | None = None, *, param: str | None = None, advice: str = ""
    ) -> StoredCalibration:
        """Return what `find` does, and raise as it does, also InvalidInput if there is none.

        The error names `param`; `advice` says what else to do than to make one.
        """
        if stored := self.find(model, name):
            return stored
        raise InvalidInput(
            f"model {model.card.reference} has no calibration, so none of its lines can be flagged; make one"
            f" with POST …/calibrate{advice}",
            code="no_calibration",
            param=param,
        )

    def of_pack(self, model: SavedModel, name: str | None) -> Calibration | None:
        """Return the calibration that a packed model scores by: that of a name, or of a log the usual one.

        Other models need the name, since what scores lines is as large as the rest of their files. Raises as
        `find`.
        """
        stored = self.find(model, name) if name or model.card.kind == "log" else None
        return stored.calibration if stored else None

    def all(self, model: SavedModel) -> Iterator[StoredCalibration]:
        """Yield the model's calibrations by name, one after the other: together they may be large."""
        names = {path.rsplit("/", 1)[-1].removesuffix(".json") for path in self._blobs.paths(_folder(model))}
        if MODEL_FILE in model.card.files:
            names.add(VALIDATION)
        return (stored for name in sorted(names) if (stored := self.get(model, name)))

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
        self._cache.forget(path)

    def get(self, model: SavedModel, name: str) -> StoredCalibration | None:
        """Return the calibration of this name, None if there is none. Raises Unavailable: it is damaged."""
        path = _path(model, name)
        return self._cache.get(path, lambda cached: self._load(model, name, path, cached))[1]

    def _load(self, model: SavedModel, name: str, path: str, cached: _Cached | None) -> _Cached:
        data = self._read(model, name, path)
        if cached and cached[0] == data:
            return cached
        if data is None:
            return None, None
        where = f"calibration {name!r} of {model.card.reference}"
        calibration, about = load(data, where=where)
        created_at, source = int(about["created_at"]), str(about["source"])
        return data, StoredCalibration(name, calibration, created_at, source)

    def _read(self, model: SavedModel, name: str, path: str) -> bytes | None:
        if name == VALIDATION:
            return model.file(MODEL_FILE) if MODEL_FILE in model.card.files else None
        try:
            return self._blobs.read_record(path, max_bytes=MAX_BYTES)
        except FileNotFoundError:
            return None


def validation_file(calibration: Calibration) -> bytes:
    """Return the contents of MODEL_FILE for the calibration made with a model."""
    return dump(calibration, created_at=int(time.time()), source="held-out text")


def _memory_bytes(cached: _Cached) -> int:
    """Return the approximate memory of a calibration; at least so much that few are cached."""
    buckets = cached[1].calibration.buckets if cached[1] else ()
    arrays = sum(one.statistics.nbytes + one.scores.nbytes for one in buckets)
    size = len(cached[0] or b"") + arrays
    return max(size, MAX_CACHED_BYTES // _MAX_CACHED)


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
