"""Settings of ingested lines: whether the calibration of a model follows them. Records in the blob store.

    ingest_settings/<model name>/<sequence>.json   the settings after their <sequence>-th change, by whom

A change creates the next file, which succeeds for one of several writers; the others retry. The files before
it stay as the history. Settings belong to the model's name, and follow its last version
(`nextchar.app.logs.alerts.of_model`).
"""

import contextlib
import time

from nextchar.app.logs.ingest.records import Recalibrate
from nextchar.models.errors import Conflict
from nextchar.store.blobs import Blobs
from nextchar.store.expiring_cache import Clock, ExpiringCache
from nextchar.store.history import History, number_of
from nextchar.store.records import ImmutableRecord, read_record

_CACHE_S = 2.0  # a change by another process is visible after this long
_MAX_ATTEMPTS = 10
_FOLDER = "ingest_settings"


class SettingsChange(ImmutableRecord):
    """The settings of a model's name after a change, in Unix seconds.

    `changed_by` is the name of the API key; None without keys.
    """

    recalibrate: Recalibrate
    changed_at: float
    changed_by: str | None = None


class IngestSettings:
    """The settings in one storage. Safe to use from several threads. Raises as Blobs does."""

    def __init__(self, blobs: Blobs, *, clock: Clock = time.monotonic) -> None:
        self._blobs = blobs
        self._history = History(blobs, _FOLDER, SettingsChange, digits=8, damaged="settings_damaged")
        self._newest: ExpiringCache[SettingsChange | None] = ExpiringCache(_CACHE_S, clock=clock)  # by name

    def current(self, model: str) -> SettingsChange | None:
        """Return the newest change of the settings of a model's name; None: they are the default."""
        return self._newest.get(
            model, lambda _: next(filter(None, map(self._read, reversed(self._history.paths(model)))), None)
        )

    def history(self, model: str, *, limit: int) -> list[SettingsChange]:
        """Return the newest changes of a model's name, the newest first."""
        paths = reversed(self._history.paths(model)[-limit:])
        return [found for path in paths if (found := self._read(path))]

    def change(self, model: str, recalibrate: Recalibrate, *, by: str | None) -> SettingsChange:
        """Record new settings of a model's name, if they differ; return the newest change.

        Raises:
            Conflict: other changes came first, again and again (code `settings_changed`).
        """
        for _ in range(_MAX_ATTEMPTS):
            paths = self._history.paths(model)
            newest = self._read(paths[-1]) if paths else None
            if newest and newest.recalibrate == recalibrate:
                return newest
            change = SettingsChange(recalibrate=recalibrate, changed_at=time.time(), changed_by=by)
            if self._history.create(number_of(paths[-1]) + 1 if paths else 0, change, model):
                self._newest.forget(model)
                return change
        raise Conflict(
            f"the settings of {model} are being changed by others; try again", code="settings_changed"
        )

    def models(self) -> set[str]:
        """Return the names of models that have settings."""
        return set(self._blobs.folders(_FOLDER))

    def delete_all(self, model: str) -> None:
        """Delete the settings of a model's name."""
        self._blobs.delete(*self._history.paths(model))
        self._newest.forget(model)

    def move_all(self, model: str, to: str) -> None:
        """Move the settings of a model's name to another name, whose own stay; can be repeated."""
        paths, taken = self._history.paths(model), self._history.paths(to)
        with contextlib.suppress(FileNotFoundError):  # another process has moved all and deletes them
            is_taken = bool(paths and taken) and self._blobs.read_record(paths[0]) != self._blobs.read_record(
                taken[0]
            )
            for path in () if is_taken else paths:
                self._blobs.create(self._history.path(number_of(path), to), self._blobs.read_record(path))
        self._newest.forget(to)
        self.delete_all(model)

    def _read(self, path: str) -> SettingsChange | None:
        try:
            return read_record(self._blobs, path, SettingsChange)
        except FileNotFoundError:  # deleted by another process
            return None
