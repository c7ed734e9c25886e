"""A storage that refuses some calls, as one that is full or does not answer."""

from collections.abc import Callable, Collection
from typing import Any

from nextchar.models.errors import StorageFull, Unavailable
from nextchar.store.blobs import Blobs


def full() -> Exception:
    """Return what a full disk raises."""
    return StorageFull("the storage is full; make room")


def unavailable() -> Exception:
    """Return what a storage raises that does not answer."""
    return Unavailable("the storage does not work: no answer", code="storage_unavailable")


class Refusing(Blobs):
    """Passes calls on to another storage, but for those below some prefixes, which raise `error()`."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        read: Collection[str] = (),
        write: Collection[str] = (),
        error: Callable[[], Exception] = full,
    ) -> None:
        self.blobs = blobs
        self.refused = {
            "read": set(read),
            "read_record": set(read),
            "stream": set(read),
            "read_range": set(read),
            "write": set(write),
            "create": set(write),
        }
        self.error = error
        self.refusals = 0  # so far

    def refuse_writes(self, *prefixes: str) -> None:
        """From now on refuse to write below these prefixes alone."""
        self.refused["write"] = self.refused["create"] = set(prefixes)

    def __getattribute__(self, name: str) -> Any:
        mine = ("blobs", "refused", "error", "refusals", "refuse_writes")
        if name.startswith("__") or name in mine:
            return object.__getattribute__(self, name)
        call = getattr(self.blobs, name)

        def guarded(*arguments: Any, **options: Any) -> Any:
            refused = self.refused.get(name, ())
            if arguments and any(str(arguments[0]).startswith(prefix) for prefix in refused):
                self.refusals += 1
                raise self.error()
            return call(*arguments, **options)

        return guarded


Refusing.__abstractmethods__ = frozenset()  # __getattribute__ passes every call on
