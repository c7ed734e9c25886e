"""The calibrations of saved models, by name: for example one per host or log source.

    model_files/<model id>/calibrations/<name>.json   one record; deleted with the model

A *rolling* calibration is what ingested lines have made of another one: `rolling` of the default,
`rolling-<name>` of a named one. Its record also has the sample of lines that it was made from and what each
rebuild did (`nextchar.models.anomaly.rolling`).

The calibration that is made with a model, on the lines of its held-out text, is a file of the model and is
called `validation`. A call without a name uses `default` if it exists, else `validation`.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from nextchar.models.anomaly.calibration import MAX_BYTES, Calibration, dump, load
from nextchar.models.anomaly.line_scores import ScoreSample, dump_sample, load_sample
from nextchar.models.anomaly.rolling import Rebuild, Rolling, StoredCalibration
from nextchar.models.errors import Conflict, NotFound, Unavailable
from nextchar.models.saved_model import SavedModel
from nextchar.store.blobs import Blobs
from nextchar.store.expiring_cache import Clock, ExpiringCache
from nextchar.store.ids import check_name

MODEL_FILE = "calibration.json"
"""The file of a saved model that holds its own calibration."""

VALIDATION, DEFAULT, ROLLING = "validation", "default", "rolling"

MAX_REBUILDS = 100
"""Rebuilds of a rolling calibration that its record describes, the newest."""

log = logging.getLogger("nextchar.calibrations")

MAX_CACHED_BYTES = 256 << 20
"""Maximum size of the calibrations that a process caches. One has at most MAX_BYTES as JSON, and twice that
in arrays."""

_CACHE_S = 1.0  # a calibration from another process is visible after this long
_MAX_CACHED = 64
_SAMPLE_LINE_BYTES = 500  # the approximate memory of a line in the sample of a rolling calibration


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
            Conflict: the name is `validation`, or that of a rolling calibration (code
                `calibration_reserved`).
        """
        check_name(name, param="calibration")
        if is_rolling_name(name):
            raise Conflict(
                f"{name!r} is a name of rolling calibrations, which ingested lines make; use another",
                code="calibration_reserved",
                param="name",
            )
        if name == VALIDATION:
            raise Conflict(
                f"{VALIDATION!r} was made with the model and cannot be replaced; use another name",
                code="calibration_reserved",
                param="name",
            )
        stored = StoredCalibration(name, calibration, int(time.time()), source)
        self._write(model, stored)
        return stored

    def save_rolling(
        self,
        model: SavedModel,
        base: StoredCalibration,
        calibration: Calibration,
        sample: ScoreSample,
        rebuilds: Sequence[Rebuild],
    ) -> StoredCalibration:
        """Save the rolling calibration of a stored one. Call it from one process at a time."""
        rolling = Rolling(base.name, base.created_at, sample, tuple(rebuilds[-MAX_REBUILDS:]))
        source = f"ingested lines, from {base.name}"
        stored = StoredCalibration(rolling_name(base.name), calibration, int(time.time()), source, rolling)
        self._write(model, stored)
        return stored

    def find_rolling(self, model: SavedModel, base: StoredCalibration) -> StoredCalibration | None:
        """Return the rolling calibration of a stored one; None if there is none, or only a damaged one.

        One that began with an earlier calibration of that name counts for nothing.
        """
        try:
            stored = self.get(model, rolling_name(base.name))
        except Unavailable as error:
            log.warning("%s; it starts again", error.message)
            return None
        rolling = stored and stored.rolling
        is_of_base = rolling and (rolling.base, rolling.base_created_at) == (base.name, base.created_at)
        return stored if is_of_base else None

    def _write(self, model: SavedModel, stored: StoredCalibration) -> None:
        about: dict[str, Any] = {"created_at": stored.created_at, "source": stored.source}
        if stored.rolling:
            about["rolling"] = _dump_rolling(stored.rolling)
        path = _path(model, stored.name)
        self._blobs.write(path, dump(stored.calibration, **about))
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
        rolling = _load_rolling(about["rolling"], where=where) if "rolling" in about else None
        created_at, source = int(about["created_at"]), str(about["source"])
        return data, StoredCalibration(name, calibration, created_at, source, rolling)

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


def is_rolling_name(name: str) -> bool:
    """Return whether a name is one of rolling calibrations.

    >>> is_rolling_name("rolling"), is_rolling_name("rolling-web-1"), is_rolling_name("rollings")
    (True, True, False)
    """
    return name == ROLLING or name.startswith(f"{ROLLING}-")


def rolling_name(base: str) -> str:
    """Return the name of the rolling calibration of a stored one.

    >>> rolling_name("validation"), rolling_name("web-1"), len(rolling_name("a" * 64))
    ('rolling', 'rolling-web-1', 64)
    """
    if base in (DEFAULT, VALIDATION):
        return ROLLING
    name = f"{ROLLING}-{base}"
    return name if len(name) <= 64 else f"{name[:51]}-{hashlib.sha256(base.encode()).hexdigest()[:12]}"


def _memory_bytes(cached: _Cached) -> int:
    """Return the approximate memory of a calibration; at least so much that few are cached."""
    buckets = cached[1].calibration.buckets if cached[1] else ()
    lines = cached[1].rolling.sample.lines if cached[1] and cached[1].rolling else ()
    arrays = sum(one.statistics.nbytes + one.scores.nbytes for one in buckets)
    size = len(cached[0] or b"") + arrays + len(lines) * _SAMPLE_LINE_BYTES
    return max(size, MAX_CACHED_BYTES // _MAX_CACHED)


def _dump_rolling(rolling: Rolling) -> dict[str, Any]:
    return {
        "base": rolling.base,
        "base_created_at": rolling.base_created_at,
        "window": dump_sample(rolling.sample),
        "rebuilds": [asdict(one) for one in rolling.rebuilds],
    }


def _load_rolling(record: dict[str, Any], *, where: str) -> Rolling:
    try:
        rebuilds = (
            Rebuild(**one | {name: tuple(one[name]) for name in ("old_thresholds", "new_thresholds")})
            for one in record["rebuilds"]
        )
        sample = load_sample(record["window"])
        return Rolling(record["base"], record["base_created_at"], sample, tuple(rebuilds))
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            f"{where} is damaged ({type(error).__name__}); delete it", code="calibration_damaged"
        ) from None


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
