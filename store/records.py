"""Records that are JSON in the storage, of which a damaged one must not hide or stop the others."""

import logging
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nextchar.store.blobs import Blobs

log = logging.getLogger("nextchar.store")

Record = TypeVar("Record", bound=BaseModel)


class ImmutableRecord(BaseModel):
    """A record whose fields cannot be assigned: readers share one object of it."""

    model_config = ConfigDict(frozen=True)


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
