"""The registry of saved models: names, versions, files.

    model_cards/<name>/<version>.json              the card; written last, so that a listed model is whole
    model_cards/<name>/<version>.gone              a tombstone: the version is deleted, its number stays taken
    model_files/<model id>/attempt-<n>/<file>      what the card names, by hash; the card names the folder too
    model_files/<model id>/<file>                  the same, of models published without an attempt

Storage creates a card and a tombstone once. So of several publishers of one model, or of several who delete
or rename one version at the same time, one wins; nothing else guards them.
"""

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from models.errors import Conflict, DomainError, InvalidInput, NotFound, StorageFull, Unavailable
from models.saved_model import Card, SavedModel, parse_card
from store.blobs import Blobs
from store.ids import check_name

log = logging.getLogger("nextchar.store")

_ATTEMPT = "attempt-"


@dataclass(frozen=True)
class DamagedModel:
    """A version whose card cannot be read, and why."""

    reference: str
    code: str
    reason: str


class Models:
    """The saved models in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
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
        """Keep a model under the next free version of its name; return the card with that version.

        A model is published once: of all who publish its id the first wins, the others get its card, and
        what they have written goes.

        Each `attempt` at a job has files of its own, so that a process that stood still cannot overwrite
        those of the one that took its place. `is_still_ours` says whether the caller may publish yet; it is
        asked right before the card is written.

        Raises:
            Conflict: `is_still_ours` denied it (code `publish_superseded`); nothing of the attempt is left.
            StorageFull: nothing of the attempt is left.
        """
        check_name(card.name)
        folder = f"{_ATTEMPT}{attempt}" if attempt else ""
        try:
            published = self._published(card)
            if published is None:
                self._write_files(card.id, folder, files)
                published = self._publish(card.model_copy(update={"files_folder": folder}), is_still_ours)
        except (Conflict, StorageFull):
            with contextlib.suppress(DomainError):
                if folder and self._published(card) is None:
                    self._delete_folder(card.id, folder)
            raise
        if not folder:
            return published
        if published.files_folder != folder:
            self._delete_folder(card.id, folder)
            return published
        if list(self._listed_ids()).count(card.id) == 1:
            for other in self._blobs.folders(f"model_files/{card.id}"):
                if other.startswith(_ATTEMPT) and other != folder:  # of an attempt that was killed in here
                    self._delete_folder(card.id, other)
        return published

    def rename(self, reference: str, name: str) -> Card:
        """Move one version to the next free version of another name; return its card. The files stay.

        A process that dies in between leaves the model under both names, and either can be deleted.

        Raises:
            NotFound: there is no such model, or it is deleted or renamed by somebody else meanwhile.
            InvalidInput: `name` cannot be one.
            Unavailable: its card is damaged or of a newer format.
        """
        check_name(name)
        card = self.get(reference).card
        if name == card.name:
            return card
        while True:
            moved = _versioned(card.model_copy(update={"name": name}), self._numbers(name))
            if self._create(moved):
                break
        if not self._bury(card.name, card.version):
            self._bury(moved.name, moved.version)
            raise _no_such_model(reference)
        return moved

    def get(self, reference: str) -> SavedModel:
        """Return the model `name@version`, or the newest version of `name`.

        Raises:
            NotFound: there is none (code `model_not_found`).
            Unavailable: its card is damaged or of a newer format.
        """
        name, version = self.resolve(reference)
        path = _card_path(name, version)
        try:
            card = parse_card(self._blobs.read(path), where=path)
        except FileNotFoundError:
            raise _no_such_model(reference) from None
        return SavedModel(card, lambda file: self._blobs.read(_file_path(card.id, card.files_folder, file)))

    def resolve(self, reference: str) -> tuple[str, int]:
        """Return the name and version that a reference means now. Raises NotFound."""
        name, at, wanted = reference.partition("@")
        try:
            versions = _listed(self._numbers(check_name(name)))
        except InvalidInput:
            raise _no_such_model(reference) from None
        if at:
            if not (wanted.isascii() and wanted.isdecimal() and len(wanted) < 10 and int(wanted) in versions):
                raise _no_such_model(reference)
            return name, int(wanted)
        if not versions:
            raise _no_such_model(reference)
        return name, versions[-1]

    def all(self) -> list[Card]:
        """Return the cards of all versions of all models, newest first; damaged ones are left out."""
        return self.survey()[0]

    def survey(self) -> tuple[list[Card], list[DamagedModel]]:
        """Return what `all` does, and the versions whose cards are damaged or of a newer format.

        One damaged card does not hide the others; each is logged once. Cards that have been read before come
        from memory.
        """
        with self._lock:
            known = self._cards
        cards: dict[str, Card] = {}
        damaged = []
        for path in self._listed_paths():
            with contextlib.suppress(FileNotFoundError):  # deleted concurrently
                card = known.get(path) or self._readable(path)
                if isinstance(card, Card):
                    cards[path] = card
                else:
                    damaged.append(card)
        with self._lock:
            self._cards = cards
        newest_first = sorted(cards.values(), key=lambda c: (c.created_at, c.name, c.version), reverse=True)
        return newest_first, damaged

    def delete(self, reference: str) -> str:
        """Delete one version (the newest, for a bare name); return its `name@version`. Raises NotFound."""
        name, version = self.resolve(reference)
        if not self._bury(name, version):
            raise _no_such_model(reference)
        return f"{name}@{version}"

    def _publish(self, card: Card, is_still_ours: Callable[[], bool]) -> Card:
        """Write the card of an id that has none under the next free version; return the one it has then.

        Why one model never gets two versions: who reads the numbers, finds the id under none, and is told
        that the model is still theirs, tries the number that a successor would take or has taken. If that
        number is gone again, `_create` notices.
        """
        while True:
            numbers = self._numbers(card.name)
            if known := self._published(card):
                return known
            if not is_still_ours():
                raise Conflict(
                    f"the model of {card.job or card.id} is published by another attempt at its job, or not"
                    " at all; this one ends without",
                    code="publish_superseded",
                )
            versioned = _versioned(card, numbers)
            if self._create(versioned):
                # Another one if a successor had that number, and its model has been renamed since.
                return self._published(card) or versioned

    def _published(self, card: Card) -> Card | None:
        """Return the card that a model's id has, under whichever name, if any."""
        return next((known for known in self.all() if known.id == card.id), None)

    def _create(self, card: Card) -> bool:
        """Write a card with its version, if that is free; return whether it was done."""
        path = _card_path(card.name, card.version)
        if not self._blobs.create(path, card.model_dump_json(indent=1).encode()):
            return False
        with contextlib.suppress(FileNotFoundError):
            buried = _model_id(self._blobs.read(_tombstone(path)))
            self._blobs.delete(path)  # the number was given and deleted while this process stood still
            return buried == card.id
        return True

    def _bury(self, name: str, version: int) -> bool:
        """Delete a version, and its files if nothing else has them; return False if somebody else does it.

        The tombstone comes first and decides who deletes. It is at first a copy of the card, which takes no
        room on a full disk.
        """
        path = _card_path(name, version)
        try:
            if not self._blobs.copy(path, _tombstone(path)):
                return False
            model_id = _model_id(self._blobs.read(_tombstone(path)))
        except FileNotFoundError:
            return False
        self._blobs.delete(path)
        if model_id and not self._is_listed(model_id):  # it is if it is being renamed
            self._blobs.delete(*self._blobs.paths(f"model_files/{model_id}"))
        with contextlib.suppress(StorageFull):  # then the copy stays, which does as well
            tombstone = {"model": model_id, "deleted_at": int(time.time())}
            self._blobs.write(_tombstone(path), json.dumps(tombstone).encode())
        return True

    def _write_files(self, model_id: str, folder: str, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self._blobs.write(_file_path(model_id, folder, name), data)

    def _delete_folder(self, model_id: str, folder: str) -> None:
        self._blobs.delete(*self._blobs.paths(f"model_files/{model_id}/{folder}"))

    def _readable(self, path: str) -> Card | DamagedModel:
        """Return a card, or what is wrong with it, which is logged once. Raises FileNotFoundError."""
        try:
            return parse_card(self._blobs.read(path), where=path)
        except Unavailable as error:
            _, name, number = path.split("/")
            reference = f"{name}@{int(number.removesuffix('.json'))}"
            damaged = DamagedModel(reference, error.code, error.message)
        with self._lock:
            is_new = damaged not in self._logged
            self._logged.add(damaged)
        if is_new:
            log.warning("model %s is passed over: %s", damaged.reference, damaged.reason)
        return damaged

    def _listed_paths(self) -> list[str]:
        paths = self._blobs.paths("model_cards")
        gone = {path for path in paths if path.endswith(".gone")}
        return [path for path in paths if path.endswith(".json") and _tombstone(path) not in gone]

    def _listed_ids(self) -> Iterator[str | None]:
        for path in self._listed_paths():
            with contextlib.suppress(FileNotFoundError):
                yield _model_id(self._blobs.read(path))

    def _is_listed(self, model_id: str) -> bool:
        """Look twice: a model that is renamed during one look may be seen under neither name."""
        return model_id in self._listed_ids() or model_id in self._listed_ids()

    def _numbers(self, name: str) -> list[tuple[int, str]]:
        """Return the versions of a name, each with what is known of it: `json` or `gone`."""
        stems = (path.rsplit("/", 1)[-1].split(".") for path in self._blobs.paths(f"model_cards/{name}"))
        return [(int(number), kind) for number, kind in stems]


def _listed(numbers: list[tuple[int, str]]) -> list[int]:
    gone = {n for n, kind in numbers if kind == "gone"}
    return sorted(n for n, kind in numbers if kind == "json" and n not in gone)


def _versioned(card: Card, numbers: list[tuple[int, str]]) -> Card:
    return card.model_copy(update={"version": max((n for n, _ in numbers), default=0) + 1})


def _model_id(card: bytes) -> str | None:
    """Return the model's id in a card or a tombstone, even one that is damaged or of a newer format."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json.loads(card)
        found = told["id"] if "id" in told else told["model"]
        if re.fullmatch(r"model_[A-Za-z0-9_-]+", found):
            return str(found)
    return None


def _card_path(name: str, version: int) -> str:
    return f"model_cards/{name}/{version:06d}.json"


def _tombstone(card_path: str) -> str:
    return card_path.removesuffix(".json") + ".gone"


def _file_path(model_id: str, folder: str, name: str) -> str:
    return f"model_files/{model_id}/{folder}/{name}" if folder else f"model_files/{model_id}/{name}"


def _no_such_model(reference: str) -> NotFound:
    return NotFound(f"there is no model {reference!r}", code="model_not_found", param="model")
