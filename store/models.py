"""The registry of saved models: names, versions, files.

model_cards/<name>/<version>.json   the card; written last, so that a listed model is whole
model_files/<model id>/<file>       what the card names, by hash
model_cards/<name>/<version>.gone   a deleted version; its number is not given again
"""

import contextlib
import time
from collections.abc import Mapping

from models.errors import InvalidInput, NotFound, StorageFull, Unavailable
from models.saved_model import Card, SavedModel, parse_card
from store.blobs import Blobs
from store.ids import check_name


class Models:
    """The saved models in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def publish(self, card: Card, files: Mapping[str, bytes]) -> Card:
        """Keep a model under the next free version of its name; return the card with that version.

        Publishing the same model id again, as a task that is run twice does, returns the version it has.
        """
        check_name(card.name)
        for version in self._versions(card.name):
            known = self._card(card.name, version)
            if known and known.id == card.id:
                return known
        for name, data in files.items():
            self._blobs.write(f"model_files/{card.id}/{name}", data)
        return self._create(card)

    def rename(self, reference: str, name: str) -> Card:
        """Move one version to the next free version of another name; return its card. The files stay.

        A process that dies in between leaves the model under both names, and either can be deleted.

        Raises:
            NotFound: there is no such model.
            InvalidInput: `name` cannot be one.
            Unavailable: its card is damaged or of a newer format.
        """
        check_name(name)
        card = self.get(reference).card
        if name == card.name:
            return card
        moved = self._create(card.model_copy(update={"name": name}))
        self._bury(card.name, card.version)
        return moved

    def get(self, reference: str) -> SavedModel:
        """Return the model `name@version`, or the newest version of `name`.

        Raises:
            NotFound: there is none (code `model_not_found`).
            Unavailable: its card is damaged or of a newer format.
        """
        name, version = self.resolve(reference)
        card = self._card(name, version)
        if card is None:
            raise _no_such_model(reference)
        return SavedModel(card, lambda file: self._blobs.read(f"model_files/{card.id}/{file}"))

    def resolve(self, reference: str) -> tuple[str, int]:
        """Return the name and version that a reference means now. Raises NotFound."""
        name, at, wanted = reference.partition("@")
        try:
            versions = self._versions(check_name(name))
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
        cards = []
        paths = self._blobs.paths("model_cards")
        gone = {path.removesuffix(".gone") for path in paths if path.endswith(".gone")}
        for path in paths:
            if path.endswith(".json") and path.removesuffix(".json") not in gone:
                # One damaged card must not hide the rest; `get` says what is wrong with it.
                with contextlib.suppress(Unavailable, FileNotFoundError):
                    cards.append(parse_card(self._blobs.read(path), where=path))
        return sorted(cards, key=lambda c: (c.created_at, c.name, c.version), reverse=True)

    def delete(self, reference: str) -> str:
        """Delete one version (the newest, for a bare name); return its `name@version`. Raises NotFound."""
        name, version = self.resolve(reference)
        path = f"model_cards/{name}/{version:06d}.json"
        files = []
        with contextlib.suppress(Unavailable, FileNotFoundError):  # a damaged card can be deleted too
            card = parse_card(self._blobs.read(path), where=path)
            if [one.id for one in self.all()].count(card.id) == 1:  # two after a rename that was cut short
                files = self._blobs.paths(f"model_files/{card.id}")
        self._bury(name, version, *files)
        return f"{name}@{version}"

    def _bury(self, name: str, version: int, *files: str) -> None:
        """Delete a card, and files; its number stays taken."""
        marker, at = f"model_cards/{name}/{version:06d}.gone", str(int(time.time())).encode()
        try:
            self._blobs.write(marker, at)
        except StorageFull:
            self._blobs.delete(*files)  # which makes the room
            self._blobs.write(marker, at)
        self._blobs.delete(f"model_cards/{name}/{version:06d}.json", *files)

    def _create(self, card: Card) -> Card:
        """Write a card under the next free version of its name; return it."""
        while True:
            taken = [v for v, _ in self._numbers(card.name)]
            versioned = card.model_copy(update={"version": max(taken, default=0) + 1})
            if self._blobs.create(_card_path(versioned), versioned.model_dump_json(indent=1).encode()):
                return versioned

    def _numbers(self, name: str) -> list[tuple[int, str]]:
        stems = (path.rsplit("/", 1)[-1].split(".") for path in self._blobs.paths(f"model_cards/{name}"))
        return [(int(number), kind) for number, kind in stems]

    def _versions(self, name: str) -> list[int]:
        numbers = self._numbers(name)
        gone = {n for n, kind in numbers if kind == "gone"}
        return sorted(n for n, kind in numbers if kind == "json" and n not in gone)

    def _card(self, name: str, version: int) -> Card | None:
        path = f"model_cards/{name}/{version:06d}.json"
        try:
            return parse_card(self._blobs.read(path), where=path)
        except FileNotFoundError:
            return None


def _card_path(card: Card) -> str:
    return f"model_cards/{card.name}/{card.version:06d}.json"


def _no_such_model(reference: str) -> NotFound:
    return NotFound(f"there is no model {reference!r}", code="model_not_found", param="model")
