"""Recognizes errors of the storage and the scratch folder, after which a job can be retried."""

import errno
from pathlib import Path

from nextchar.models.errors import DomainError, StorageFull, Unavailable
from nextchar.store.blobs import as_domain_error
from nextchar.store.jobs import STORAGE_CODES

_STORAGE_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
        errno.ENODEV,
        errno.ETIMEDOUT,
    }
)


class ScratchFull(StorageFull):
    """The scratch folder has too little room for the texts of a job, of which none was read yet."""

    def __init__(self, scratch: Path, *, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"the job needs {needed_bytes:,} bytes in {scratch}, where {free_bytes:,} are free; free disk"
            " space there"
        )
        self.needed_bytes = needed_bytes


def storage_problem(error: Exception) -> DomainError | None:
    """Return a domain error if `error` is a temporary one of the storage or scratch folder, else None."""
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        error = as_domain_error(error)
    is_storage = isinstance(error, StorageFull | Unavailable) and error.code in STORAGE_CODES
    return error if is_storage else None  # type: ignore[return-value]
