"""The registry of saved models: names, versions, files.

    model_cards/<name>/<version>.json              the card; written last, so that a listed model is whole
    model_cards/<name>/<version>.gone              a tombstone: the version is deleted, its number stays taken
    model_files/<model id>/attempt-<n>/<file>      the files that the card lists with their hashes
    model_files/<model id>/<file>                  the same, of models published without an attempt

`store/aliases.py` has the aliases of a name's versions, `store/early_models.py` the early models of its jobs.

The storage creates a card and a tombstone only once. So of several processes that publish one model, or
delete or rename one version, exactly one succeeds. There is no other lock.
"""

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nextchar.models.errors import Conflict, DomainError, InvalidInput, NotFound, StorageFull, Unavailable
from nextchar.models.saved_model import Card, SavedModel, model_in_training, parse_card
from nextchar.models.validation_errors import load_record
from nextchar.store.aliases import Aliases, Share
from nextchar.store.blobs import Blobs
from nextchar.store.early_models import EarlyModels, is_early
from nextchar.store.ids import check_name
from nextchar.store.jobs import STORAGE_CODES
from nextchar.store.model_file_cache import ModelFileCache, StoredFiles

log = logging.getLogger("nextchar.store")

_ATTEMPT = "attempt-"
_TOMBSTONE = ".gone"


@dataclass(frozen=True)
class DamagedModel:
    """A version whose card cannot be read, and the reason."""

    reference: str
    code: str
    reason: str


class Models:
    """The saved models in one storage."""

    def __init__(self, blobs: Blobs, *, cache: ModelFileCache | None = None) -> None:
        """Keep models in `blobs`, and copies of the files that are read in `cache`."""
        self._blobs, self._files = blobs, StoredFiles(blobs, cache)
        self.aliases, self.early = Aliases(blobs), EarlyModels(blobs, self._files)
        self._logged: set[DamagedModel] = set()
        self._cards: dict[str, Card] = {}  # by path; a card never changes after it is created
        self._lock = threading.Lock()  # guards the fields above

    def publish(
        self,
        card: Card,
        files: Mapping[str, bytes],
        *,
        attempt: int | None = None,
        is_still_ours: Callable[[], bool] = lambda: True,
    ) -> Card:
        """Save a model as the next free version of its name; return the card with that version.

        An id is published once: the first publisher succeeds, the others get its card and their files are
        deleted.

        Each `attempt` at a job has its own files, so that a process that was suspended cannot overwrite those
        of its successor. `is_still_ours` returns whether the caller still owns the job; it is
        asked right before the card is written.

        Raises:
            Conflict: `is_still_ours` returned False (code `publish_superseded`). The files are deleted.
            StorageFull: the files are deleted.
        """
        check_name(card.name)
        folder = f"{_ATTEMPT}{attempt}" if attempt else ""
        try:
            published = self._published(card)
            if published is None:
                for name, data in files.items():
                    self._blobs.write(f"{_folder_of(card.id, folder)}/{name}", data)
                published = self._publish(card.model_copy(update={"files_folder": folder}), is_still_ours)
        except (Conflict, StorageFull):
            with contextlib.suppress(DomainError):
                if self._published(card) is None:
                    self._blobs.delete(*(f"{_folder_of(card.id, folder)}/{name}" for name in files))
            raise
        if not folder:
            return published
        if published.files_folder != folder:
            self._delete_folder(card.id, folder)
            return published
        if list(self._listed_ids()).count(card.id) == 1:
            for other in self._blobs.folders(f"model_files/{card.id}"):
                # Those of attempts that were killed while they published.
                if other.startswith(_ATTEMPT) and other != folder:
                    self._delete_folder(card.id, other)
        return published

    def rename(self, reference: str, name: str, *, force: bool = False) -> Card:
        """Move one version to the next free version of another name; return its card. The files stay.

        If the process dies in between, the model has both names. Either can be deleted, and renaming one of
        them ends the other. Aliases stay with the old name.

        Raises:
            Conflict: an alias points to it (code `model_has_alias`), unless `force` is set.
            NotFound: there is no such model, or it was deleted or renamed concurrently.
            InvalidInput: `name` is not a valid name.
            Unavailable: its card is damaged or of a newer format.
        """
        check_name(name)
        card = self.get(reference).card
        if name == card.name:
            return card
        if not force:
            self._check_has_no_alias(card.name, card.version)
        # Other names of the model, from a rename that was cut short, or that loses to this one: its own new
        # name may be renamed as soon as it is written, so they are listed before that.
        others = [one for one in self._complete_list() if one.id == card.id and one != card]
        while True:
            moved = _versioned(card.model_copy(update={"name": name}), self._numbers(name))
            if self._create(moved):
                break
        if not self._delete_version(card.name, card.version):
            self._delete_version(moved.name, moved.version)
            raise _no_such_model(reference)
        for other in others:
            self._delete_version(other.name, other.version)
        return moved

    def get(self, reference: str) -> SavedModel:
        """Return the model `name@version` or `name@alias`, or the newest version of `name`.

        Raises:
            NotFound: there is none (codes as `resolve`).
            Unavailable: its card is damaged or of a newer format.
        """
        name, version = self.resolve(reference)
        path = _card_path(name, version)
        try:
            card = parse_card(self._blobs.read_record(path), where=path)
        except FileNotFoundError:
            raise _no_such_model(reference) from None
        return self._files.saved(card, _folder_of(card.id, card.files_folder))

    def resolve(self, reference: str) -> tuple[str, int]:
        """Return the name and version that a reference resolves to now.

        Raises:
            NotFound: there is no such model (code `model_not_found`), its alias points to a version that is
                deleted (`alias_target_deleted`), or it is an early one, `name@job` (`model_in_training`).
            Unavailable: the record of its alias is damaged (code `alias_damaged`).
        """
        name, version, _ = self.resolve_with_share(reference)
        return name, version

    def resolve_with_share(self, reference: str) -> tuple[str, int, Share | None]:
        """Return the same, and of an alias the existing version that some clients get instead, if any."""
        name, at, number = reference.partition("@")
        if is_early(reference) and self.early.resolve(reference) == reference:
            raise model_in_training(reference)
        try:
            check_name(name)
            # Read before the versions: an alias may be moved to a version that is published meanwhile.
            move = self.aliases.newest(name, number) if at and not number[:1].isdigit() else None
            versions = _listed(self._numbers(name))
        except InvalidInput:
            raise _no_such_model(reference) from None
        if move and move.version is not None:
            if move.version not in versions:
                raise NotFound(
                    f"{reference} points to {move.target}, which is deleted or renamed; roll the alias back,"
                    " or move it to another version",
                    code="alias_target_deleted",
                    param="model",
                )
            return name, move.version, move.share if move.share and move.share.version in versions else None
        if at:
            if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) in versions):
                raise _no_such_model(reference)
            return name, int(number), None
        if not versions:
            raise _no_such_model(reference)
        return name, versions[-1], None

    def all(self) -> list[Card]:
        """Return the cards of all versions of all models, newest first, except damaged ones."""
        return self.scan()[0]

    def names(self) -> set[str]:
        """Return the names that have versions."""
        return {path.split("/")[1] for path in self.listed_paths()}

    def scan(self) -> tuple[list[Card], list[DamagedModel]]:
        """Return the result of `all`, and the versions whose cards are damaged or of a newer format.

        One damaged card does not hide the others; each is logged once. Cards that have been read before come
        from memory.
        """
        with self._lock:
            cached = self._cards
        cards: dict[str, Card] = {}
        damaged = []
        for path in self.listed_paths():
            with contextlib.suppress(FileNotFoundError):  # deleted concurrently
                card = cached.get(path) or self._readable(path)
                if isinstance(card, Card):
                    cards[path] = card
                else:
                    damaged.append(card)
        with self._lock:
            self._cards = cards
        newest_first = sorted(cards.values(), key=lambda c: (c.created_at, c.name, c.version), reverse=True)
        return newest_first, damaged

    def delete(self, reference: str, *, force: bool = False) -> str:
        """Delete one version (the newest, for a bare name); return its `name@version`.

        Raises:
            NotFound: there is none.
            Conflict: an alias points to it (code `model_has_alias`), unless `force` is set.
        """
        name, version = self.resolve(reference)
        if not force:
            self._check_has_no_alias(name, version)
        if not self._delete_version(name, version):
            raise _no_such_model(reference)
        return f"{name}@{version}"

    def is_listed(self, name: str, version: int | None = None) -> bool:
        """Return whether a version exists, or any version of a name."""
        versions = _listed(self._numbers(name))
        return bool(versions) if version is None else version in versions

    def has_card(self, model_id: str) -> bool:
        """Return whether a card has this id. Lists twice: one listing can miss a model being renamed."""
        return model_id in self._listed_ids() or model_id in self._listed_ids()

    def is_deleted(self, name: str, version: int | None = None) -> bool:
        """Return whether a version is deleted or renamed, or all versions of a name that existed."""
        numbers = self._numbers(name)
        if version is not None:
            return (version, _TOMBSTONE[1:]) in numbers
        return bool(numbers) and not _listed(numbers)

    def renamed_to(self, name: str) -> Card | None:
        """Return what the version of a name that was deleted last was renamed to; None if it is deleted."""
        paths = [_card_path(name, n) for n, suffix in self._numbers(name) if suffix == _TOMBSTONE[1:]]
        tombstones = [self._blobs.read_record(tombstone_path(path)) for path in paths]
        # Read after the tombstones, which are made later.
        renamed = {card.id: card for card in self._complete_list()}

        def newest(tombstone: bytes) -> tuple[float, bool]:
            return deleted_at(tombstone), model_id_in(tombstone) in renamed

        return renamed.get(model_id_in(max(tombstones, key=newest)) or "") if tombstones else None

    def _check_has_no_alias(self, name: str, version: int) -> None:
        aliases = [
            move.alias
            for move in self.aliases.current(name)
            if version in (move.version, move.share and move.share.version)
        ]
        if aliases:
            raise Conflict(
                f"{name}@{version} has the alias {' and '.join(aliases)}: move or delete it first, or send"
                " force=true, after which calls of the alias fail until it is moved",
                code="model_has_alias",
                param="model",
            )

    def _publish(self, card: Card, is_still_ours: Callable[[], bool]) -> Card:
        """Write the card of an id that has none under the next free version; return the card of the id.

        An id never gets two versions: a process that read the version numbers, found the id under none, and
        still owns the model, tries to create the same number as its successor would. If that number has been
        deleted since, `_create` notices.
        """
        while True:
            numbers = self._numbers(card.name)
            if published := self._published(card):
                return published
            if not is_still_ours():
                raise Conflict(
                    f"the model of {card.job or card.id} belongs to another attempt at its job; this attempt"
                    " publishes nothing",
                    code="publish_superseded",
                )
            versioned = _versioned(card, numbers)
            if self._create(versioned):
                # Not `versioned` if a successor had created that number and renamed its model since.
                return self._published(card) or versioned

    def _published(self, card: Card) -> Card | None:
        """Return the card of a model's id, under any name, if there is one."""
        return next((published for published in self._complete_list() if published.id == card.id), None)

    def _complete_list(self) -> list[Card]:
        """Return the result of `all`. Raises Unavailable: the storage failed while a card was read."""
        cards, damaged = self.scan()
        for one in damaged:
            if one.code in STORAGE_CODES:
                raise Unavailable(one.reason, code=one.code)
        return cards

    def _create(self, card: Card) -> bool:
        """Write a card unless its version exists; return whether it was written."""
        path = _card_path(card.name, card.version)
        if not self._blobs.create(path, card.model_dump_json().encode()):
            return False
        with contextlib.suppress(FileNotFoundError):
            deleted_id = model_id_in(self._blobs.read_record(tombstone_path(path)))
            self._blobs.delete(path)  # the number was used and deleted while this process was suspended
            return deleted_id == card.id
        return True

    def _delete_version(self, name: str, version: int) -> bool:
        """Delete a version, and its files if no other card lists them; return False if it is already deleted.

        The tombstone is created first: the process that creates it deletes. At first it is a copy of the
        card, which takes no room on a full disk.
        """
        path = _card_path(name, version)
        try:
            if not self._blobs.copy(path, tombstone_path(path)):
                return False
            model_id = model_id_in(self._blobs.read_record(tombstone_path(path)))
        except FileNotFoundError:
            return False
        self._blobs.delete(path)
        if model_id and not self.has_card(model_id):  # listed while it is being renamed
            self._blobs.delete(*self._blobs.paths(f"model_files/{model_id}"))
        with contextlib.suppress(StorageFull):  # then the copy of the card stays, which works as well
            tombstone = {"model": model_id, "deleted_at": time.time()}
            self._blobs.write(tombstone_path(path), json.dumps(tombstone).encode())
        return True

    def _delete_folder(self, model_id: str, folder: str) -> None:
        self._blobs.delete(*self._blobs.paths(f"model_files/{model_id}/{folder}"))

    def _readable(self, path: str) -> Card | DamagedModel:
        """Return a card, or its damage, which is logged once. Raises FileNotFoundError."""
        try:
            return parse_card(self._blobs.read_record(path), where=path)
        except Unavailable as error:
            _, name, number = path.split("/")
            reference = f"{name}@{int(number.removesuffix('.json'))}"
            damaged = DamagedModel(reference, error.code, error.message)
        with self._lock:
            is_new = damaged not in self._logged
            self._logged.add(damaged)
        if is_new:
            log.warning("model %s is skipped: %s", damaged.reference, damaged.reason)
        return damaged

    def listed_paths(self) -> list[str]:
        """Return the paths of the cards that have no tombstone."""
        paths = self._blobs.paths("model_cards")
        tombstones = {path for path in paths if path.endswith(_TOMBSTONE)}
        return [path for path in paths if path.endswith(".json") and tombstone_path(path) not in tombstones]

    def _listed_ids(self) -> Iterator[str | None]:
        for path in self.listed_paths():
            with contextlib.suppress(FileNotFoundError):
                yield model_id_in(self._blobs.read_record(path))

    def _numbers(self, name: str) -> list[tuple[int, str]]:
        """Return the versions of a name, each with the suffix of its file: `json` or `gone`."""
        stems = (path.rsplit("/", 1)[-1].split(".") for path in self._blobs.paths(f"model_cards/{name}"))
        return [(int(number), suffix) for number, suffix in stems]


def _listed(numbers: list[tuple[int, str]]) -> list[int]:
    deleted = {n for n, suffix in numbers if suffix == _TOMBSTONE[1:]}
    return sorted(n for n, suffix in numbers if suffix == "json" and n not in deleted)


def _versioned(card: Card, numbers: list[tuple[int, str]]) -> Card:
    return card.model_copy(update={"version": max((n for n, _ in numbers), default=0) + 1})


def model_id_in(card: bytes) -> str | None:
    """Return the model's id in a card or a tombstone, also if it is damaged or of a newer format."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        fields = load_record(card)
        model_id = fields["id"] if "id" in fields else fields["model"]
        if re.fullmatch(r"model_[A-Za-z0-9_-]+", model_id):
            return str(model_id)
    return None


def deleted_at(tombstone: bytes) -> float:
    """Return when a version was deleted, in Unix seconds.

    Infinity for a tombstone that is still a copy of the card, as a deletion under way leaves it.
    """
    try:
        return float(load_record(tombstone)["deleted_at"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _card_path(name: str, version: int) -> str:
    return f"model_cards/{name}/{version:06d}.json"


def tombstone_path(card_path: str) -> str:
    """Return the path of the tombstone of a version, by that of its card."""
    return card_path.removesuffix(".json") + _TOMBSTONE


def _folder_of(model_id: str, folder: str) -> str:
    return f"model_files/{model_id}/{folder}" if folder else f"model_files/{model_id}"


def _no_such_model(reference: str) -> NotFound:
    message = f"there is no model {reference!r}"
    return NotFound(message, code="model_not_found", param="model", name=reference)
