"""A disk that records what is done to it, and what may be left of that after a loss of power.

Names and contents that were not synced may be there or not, each by itself: a file may be empty though it has
its name, a name may be absent though its file is whole, and a deleted name may be back.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zlib import crc32

from nextchar.store.local_blobs import Disk


@dataclass(eq=False)
class Operation:
    """One change; `folder` is where a name changes, `inode` whose contents do."""

    kind: str  # "name", "unname", "data", "sync"
    folder: Path | None = None
    name: str = ""
    inode: int | None = None  # None with "name": a folder
    data: bytes = b""
    durable_at: int | None = None  # the number of operations after which it was synced


class RecordingDisk(Disk):
    """Changes the real disk, and records how."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.syncs = 0
        self._inodes: dict[Path, int] = {}
        self._opened: dict[int, Path] = {}

    def open_new(self, path: Path) -> int:
        descriptor = super().open_new(path)
        self._inodes[path] = len(self.operations)
        self._opened[descriptor] = path
        return descriptor

    def open_folder(self, path: Path, parent: int | None = None) -> int:
        descriptor = super().open_folder(path, parent)
        self._opened[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: bytes) -> None:
        super().write(descriptor, data)
        self._record(Operation("data", inode=self._inodes[self._opened[descriptor]], data=data))

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        self.syncs += 1
        self._record(Operation("sync"))
        path = self._opened[descriptor]
        inode = self._inodes.get(path)
        for operation in self.operations:
            of_it = operation.kind == "data" and operation.inode == inode is not None
            if operation.durable_at is None and (of_it or operation.folder == path):
                operation.durable_at = len(self.operations)

    def link(self, source: Path, folder: int, name: str) -> None:
        super().link(source, folder, name)
        self._name(source, folder, name)

    def replace(self, source: Path, folder: int, name: str) -> None:
        super().replace(source, folder, name)
        self._name(source, folder, name)

    def unlink(self, folder: int, name: str) -> None:
        super().unlink(folder, name)
        self._record(Operation("unname", self._opened[folder], name))

    def make_folder(self, path: Path, parent: int | None = None) -> None:
        super().make_folder(path, parent)
        self._record(Operation("name", path.parent, path.name))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self._record(Operation("unname", path.parent, path.name))

    def _name(self, source: Path, folder: int, name: str) -> None:
        inode = self._inodes[self._opened[folder] / name] = self._inodes[source]
        self._record(Operation("name", self._opened[folder], name, inode))

    def _record(self, operation: Operation) -> None:
        self.operations.append(operation)


class DiskThatSyncsNothing(RecordingDisk):
    """As the storage was before: nothing is ever on the disk for sure."""

    def sync(self, _: int) -> None:
        self.syncs += 1


Survives = Callable[[int, Operation], bool]
"""Whether the n-th operation, which was not synced, is on the disk all the same."""


def _survives_by_chance(seed: int, n: int, _: Operation) -> bool:
    """Draw for each operation; of some seeds most survive, of some few."""
    return crc32(b"%d %d" % (seed, n)) % 4 < 1 + seed % 3


POLICIES: dict[str, Survives] = {
    "nothing": lambda _, __: False,
    "everything": lambda _, __: True,
    "names without contents": lambda _, operation: operation.kind != "data",
    "new names without contents": lambda _, operation: operation.kind == "name",
    "deletions only": lambda _, operation: operation.kind == "unname",
    "contents only": lambda _, operation: operation.kind == "data",
} | {f"by chance {seed}": partial(_survives_by_chance, seed) for seed in range(24)}


@dataclass
class _Tree:
    files: dict[Path, int] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)


def left_after(operations: list[Operation], cut: int, survives: Survives, root: Path) -> dict[str, bytes]:
    """Return path and contents of each object below `root` when power is lost after `cut` operations."""
    tree, contents = _Tree(folders={root}), dict[int, bytes]()
    for n, operation in enumerate(operations[:cut]):
        is_durable = operation.durable_at is not None and operation.durable_at <= cut
        if operation.kind == "sync" or not (is_durable or survives(n, operation)):
            continue
        if operation.kind == "data":
            assert operation.inode is not None
            contents[operation.inode] = contents.get(operation.inode, b"") + operation.data
            continue
        assert operation.folder is not None
        path = operation.folder / operation.name
        tree.files.pop(path, None)
        tree.folders.discard(path)
        if operation.kind == "name" and operation.inode is None:
            tree.folders.add(path)
        elif operation.kind == "name":
            assert operation.inode is not None
            tree.files[path] = operation.inode
    return {
        str(path.relative_to(root)): contents.get(inode, b"")
        for path, inode in tree.files.items()
        if all(folder in tree.folders for folder in _between(path, root))
    }


def _between(path: Path, root: Path) -> Iterator[Path]:
    for folder in path.parents:
        yield folder
        if folder == root:
            return
