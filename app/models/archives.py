"""Saved models as tar archives, to move them between services.

    model.json      the card, first
    <file>          each file that the card names

An archive is an uncompressed ustar file of these entries and no others. Reading one never executes or
unpickles anything: weights are loaded by the runtime that serves them; `model.keras` is stored, not loaded.
"""

import hashlib
import io
import json
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO

from nextchar.models.errors import DomainError, InvalidInput, Unavailable
from nextchar.models.saved_model import Card, SavedModel, parse_card
from nextchar.store.ids import check_name, new_id
from nextchar.store.models import Models

MEDIA_TYPE = "application/x-tar"

CARD = "model.json"

_WEIGHTS = (
    "model.keras", "model.onnx", "model.int8.npz", "model.int8.onnx", "mixture.npz", "ngram.npz",
    "word_ngram.npz", "lines.index",
)  # fmt: skip
_JSON = ("report.json", "calibration.json", "templates.json", "mask_values.json", "successors.json")
_NOT_IMPORTED = ("report.html", "report.svg", "events.out.tfevents.nextchar")
_MAX_CARD_BYTES = 16 << 20
_MAX_JSON_BYTES = 64 << 20
_PIECE_BYTES = 1 << 20

CheckLoadable = Callable[[SavedModel], None]


def write_archive(saved: SavedModel, file: IO[bytes]) -> int:
    """Write a model's archive; return its length in bytes. One file of the model is in memory at a time.

    Raises:
        Unavailable: a file is missing or its hash differs (code `model_damaged`).
        OSError: `file` cannot be written.
    """
    card = saved.card
    _write_entry(file, CARD, card.portable(), card.created_at)
    for name in card.files:
        _write_entry(file, name, saved.file(name), card.created_at)
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    return file.tell()


def import_model(
    models: Models,
    archive: IO[bytes],
    *,
    max_bytes: int,
    check_loadable: CheckLoadable,
    check_permitted: Callable[[str], None],
    name: str | None = None,
) -> Card:
    """Publish the model in an archive as the next version of its name, or of `name`; return its card.

    `max_bytes` limits the contents of a file of arrays. `check_loadable` raises an exception if the runtime
    cannot load a model, `check_permitted` raises Forbidden for a name that the caller may not use.

    Raises:
        InvalidInput: the archive, its card or a file is invalid (code `model_archive_invalid`), or the name.
        Forbidden: as `check_permitted`.
    """
    card, files = read_archive(archive, max_bytes=max_bytes)
    name = check_name(name or card.name)
    check_permitted(name)
    card = card.model_copy(
        update={
            "id": new_id("model"),
            "name": name,
            "version": 0,
            "created_at": min(card.created_at, int(time.time())),
            "job": None,  # the job of another service
            "files": {file: card.files[file] for file in files},
        }
    )
    try:
        check_loadable(SavedModel(card, files.__getitem__))
    except Exception as error:
        reason = error.message if isinstance(error, DomainError) else type(error).__name__
        raise _invalid(f"the runtime cannot load this model: {reason}") from error
    return models.publish(card, files)


def read_archive(file: IO[bytes], *, max_bytes: int) -> tuple[Card, Mapping[str, bytes]]:
    """Return an archive's card, and its weights and JSON files, read from `file` when they are accessed.

    Raises:
        InvalidInput: the archive is invalid (code `model_archive_invalid`).
    """
    entries = _entries(file)
    card = _read_card(file, entries.pop(CARD, None))
    if unknown := card.files.keys() - {*_WEIGHTS, *_JSON, *_NOT_IMPORTED}:
        raise _invalid(f"its card names a file {min(unknown)!r}, which is not part of a saved model")
    if extra := entries.keys() - card.files.keys():
        raise _invalid(f"it has an entry {min(extra)!r} that its card does not name")
    for name, entry in card.files.items():
        if name in entries:
            _check_hash(file, name, entries[name], entry.bytes, entry.sha256)
        elif name not in _NOT_IMPORTED:
            raise _invalid(f"it lacks the file {name} that its card names")
    files = _ArchiveFiles(file, {name: entries[name] for name in card.files if name not in _NOT_IMPORTED})
    for name in files:
        _check_file(files, name, card.files[name].bytes, max_bytes)
    return card, files


class _ArchiveFiles(Mapping[str, bytes]):
    """The contents of an archive's entries, each read when it is accessed."""

    def __init__(self, file: IO[bytes], entries: Mapping[str, tuple[int, int]]) -> None:
        self._file, self._entries = file, entries

    def __getitem__(self, name: str) -> bytes:
        offset, size = self._entries[name]
        self._file.seek(offset)
        return self._file.read(size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _write_entry(file: IO[bytes], name: str, data: bytes, modified_at: int) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.mtime = len(data), modified_at
    file.write(header.tobuf(tarfile.USTAR_FORMAT))
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _entries(file: IO[bytes]) -> dict[str, tuple[int, int]]:
    """Return the offset and size of each entry.

    Not by `tarfile.open`, which reads extended headers of any length into memory.
    """
    length = file.seek(0, 2)
    file.seek(0)
    entries: dict[str, tuple[int, int]] = {}
    while any(block := file.read(tarfile.BLOCKSIZE)):
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise _invalid(f"it is not an uncompressed tar file: {error}") from None
        name, offset = header.name.removeprefix("./"), file.tell()
        if header.type == tarfile.DIRTYPE and name in ("", "."):
            continue
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise _invalid(
                f"its entry {header.name[:100]!r} is not a plain file; write the archive with tar"
                " --format=ustar"
            )
        if name in entries:
            raise _invalid(f"it has two entries {name!r}")
        if "/" in name or not 0 <= header.size <= length - offset:
            raise _invalid(f"its entry {header.name[:100]!r} has an invalid path or size")
        entries[name] = offset, header.size
        file.seek(offset + header.size + -header.size % tarfile.BLOCKSIZE)
    return entries


def _check_hash(file: IO[bytes], name: str, entry: tuple[int, int], size: int, sha256: str) -> None:
    offset, left = entry
    digest = hashlib.sha256()
    file.seek(offset)
    while piece := file.read(min(left, _PIECE_BYTES)):
        digest.update(piece)
        left -= len(piece)
    if entry[1] != size or digest.hexdigest() != sha256:
        raise _invalid(f"its file {name} differs from its card: the size or the SHA-256 is another")


def _read_card(file: IO[bytes], entry: tuple[int, int] | None) -> Card:
    if entry is None:
        raise _invalid(f"it has no {CARD}")
    offset, size = entry
    if size > _MAX_CARD_BYTES:
        raise _invalid(f"{CARD} is larger than {_MAX_CARD_BYTES:,} bytes")
    file.seek(offset)
    try:
        return parse_card(file.read(size), where=CARD)
    except Unavailable as error:
        raise _invalid(error.message) from None


def _check_file(files: Mapping[str, bytes], name: str, size: int, max_bytes: int) -> None:
    if name.endswith(".npz"):
        _check_npz(files[name], name, max_bytes)
    elif name.endswith(".onnx") and b"location" in files[name]:  # the key of a path to external data
        raise _invalid(f"{name} refers to data outside the file")
    elif name.endswith(".json"):
        if size > _MAX_JSON_BYTES:
            raise _invalid(f"{name} is larger than {_MAX_JSON_BYTES:,} bytes")
        _check_json(files[name], name)


def _check_npz(data: bytes, name: str, max_bytes: int) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise _invalid(f"{name} is not a file of arrays: {error}") from None
    if size > max_bytes:
        raise _invalid(f"{name} would expand to {size:,} bytes; the limit is {max_bytes:,}")


def _check_json(data: bytes, name: str) -> None:
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _invalid(f"{name} is not a JSON object")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _invalid(reason: str) -> InvalidInput:
    return InvalidInput(
        f"the archive is not a model that this service exported: {reason}",
        code="model_archive_invalid",
        param="body",
    )
