"""Records that are JSON in the storage, and the history of one: numbered files, of which the newest holds.

    <folder>/<name>/…/<number>.json   the whole record after one change

A change creates the file of the next number, and the storage creates a file only once: of several concurrent
writers exactly one succeeds. There is no other lock, in a folder or in an object store.
Files never change, so the newest one of each history is remembered. A damaged record hides no others.
"""

import logging
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nextchar.models.errors import Unavailable
from nextchar.models.validation_errors import UPGRADE, is_of_newer_version
from nextchar.store.blobs import Blobs

log = logging.getLogger("nextchar.store")

Record = TypeVar("Record", bound=BaseModel)


class ImmutableRecord(BaseModel):
    """A record whose fields cannot be assigned: readers share one object of it."""

    model_config = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True, use_attribute_docstrings=True
    )


def read_record(blobs: Blobs, path: str, kind: type[Record]) -> Record | None:
    """Return the record at a path; None if it is damaged, which is logged.

    Raises:
        FileNotFoundError: there is none. And as Blobs does.
    """
    try:
        return kind.model_validate_json(blobs.read_record(path))
    except ValidationError:
        log.warning("the record %s is damaged and is ignored", path)
        return None


class History(Generic[Record]):
    """The histories of one kind of record, below one folder. Safe to use from several threads.

    Args:
        blobs: the storage. All methods raise as it does.
        folder: of all histories. One of them is known by its names below that: `"names", "champion"`.
        kind: of record.
        digits: of a number in the name of a file; zeros are put before it, so that names sort as numbers do.
        damaged: the code of the error for a record that cannot be read.
    """

    def __init__(self, blobs: Blobs, folder: str, kind: type[Record], *, digits: int, damaged: str) -> None:
        self._blobs, self._folder, self._kind = blobs, folder, kind
        self._digits, self._damaged = digits, damaged
        self._read: dict[str, tuple[str, Record | None]] = {}  # by folder: path and record; None: damaged

    def create(self, number: int, record: Record, *names: str) -> bool:
        """Write the `number`-th record of a history; return False if there is one already."""
        data = record.model_dump_json(by_alias=True).encode("utf-8", "backslashreplace")
        return self._blobs.create(self.path(number, *names), data)

    def append(self, number: int, record: Record, *names: str) -> bool:
        """Write the `number`-th record after the one before; return False if that is not the newest.

        Numbers of deleted records stay taken, and a deleted history does not come back.
        """
        return self.paths(*names)[-1:] == [self.path(number - 1, *names)] and self.create(
            number, record, *names
        )

    def remembered(self, *names: str) -> Record | None:
        """Return the newest record that this process has read of a history, without a look at the storage."""
        return self._read.get("/".join((self._folder, *names)), ("", None))[1]

    def path(self, number: int, *names: str) -> str:
        """Return the path of the `number`-th record of a history."""
        return "/".join((self._folder, *names, f"{number:0{self._digits}d}.json"))

    def paths(self, *names: str) -> list[str]:
        """Return the paths of all records of a history, oldest first; of all histories below a name."""
        return self._blobs.paths("/".join((self._folder, *names)))

    def newest_paths(self, *names: str) -> list[str]:
        """Return the path of the newest record of each history below a name, sorted."""
        newest = {path.rpartition("/")[0]: path for path in self.paths(*names)}
        if not names:
            for folder in self._read.keys() - newest.keys():  # deleted, possibly by another process
                self._read.pop(folder, None)
        return list(newest.values())

    def read(self, path: str) -> Record:
        """Return a record.

        Raises:
            FileNotFoundError: there is none.
            Unavailable: it is damaged, or of a newer version.
        """
        folder = path.rpartition("/")[0]
        before, record = self._read.get(folder, ("", None))
        if path != before or record is None:
            try:
                record = self._kind.model_validate_json(self._blobs.read_record(path))
            except ValidationError as error:
                problem = UPGRADE if is_of_newer_version(error) else "is damaged; restore it"
                raise Unavailable(f"{path} {problem}", code=self._damaged) from None
            if path >= before:
                self._read[folder] = (path, record)
        return record

    def find(self, path: str) -> Record | None:
        """Return a record; None if it was deleted meanwhile, or is damaged, which is logged once."""
        folder = path.rpartition("/")[0]
        if self._read.get(folder) == (path, None):
            return None
        try:
            return self.read(path)
        except FileNotFoundError:
            return None
        except Unavailable as error:
            if error.code != self._damaged:
                raise
            log.warning("a damaged record is ignored: %s", error.message)
            self._read[folder] = (path, None)
            return None

    def delete(self, number: int, *names: str) -> None:
        """Delete the records of a history up to the `number`-th; newer ones stay.

        That one last, so that an interrupted deletion is repeated.
        """
        last = self.path(number, *names)
        self._blobs.delete(*(path for path in self.paths(*names) if path < last))
        self._blobs.delete(last)
        self._read.pop(last.rpartition("/")[0], None)


def number_of(path: str) -> int:
    """Return the number of a record."""
    return int(path.rpartition("/")[2].removesuffix(".json"))
