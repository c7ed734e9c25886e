"""The saved-model folder: a card that says everything, and the files it names by hash.

    model.json    the card, with the format's version first
    model.keras   stock Keras layers only; states are inputs and outputs
    model.onnx    (ids (T, B), state (B, S), first) -> (logits (T - first, B, V), state (B, S))
    model.int8.npz    int8 weights of an LSTM for the kernels; there only if measured to be as good
    model.int8.onnx   in its place for other architectures
    ngram.npz         counts of the text's n-grams, which judge lines beside the network
    calibration.json  what held-out lines score

A reader refuses a format it does not know and a file whose hash differs. Nothing is ever unpickled.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.config import Mix, NetworkConfig, TrainingConfig
from models.errors import Unavailable
from models.text.vocabulary import Alphabet, Vocabulary

FORMAT_VERSION = 1


class FileEntry(BaseModel):
    """One file of a saved model."""

    bytes: int
    sha256: str


class Card(BaseModel):
    """model.json: what the network is, where it came from, how good it is."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    id: str
    name: str
    version: int = 0
    created_at: int = Field(description="Unix seconds, UTC.")
    job: str | None = None
    corpus: str | None = None
    network: NetworkConfig
    training: TrainingConfig
    started_from: str | None = Field(None, description="The model it was trained on from, `name@version`.")
    mix: Mix | None = Field(None, description="The second text that shared its batches.")
    alphabet: Alphabet = "characters"
    masks: tuple[str, ...] = Field((), description="What was masked in its text, and is in lines it scores.")
    characters: str = Field(description="The vocabulary; the n-th character has id n.")
    parameters: int
    report: dict[str, Any] = Field(default_factory=dict, description="What the training run told of itself.")
    files: dict[str, FileEntry]
    files_folder: str = Field(
        "", pattern=r"^[A-Za-z0-9_-]*$", description="Where the storage has them, below the id's folder."
    )

    @property
    def reference(self) -> str:
        """`name@version`, by which the API knows the model."""
        return f"{self.name}@{self.version}"

    def portable(self) -> bytes:
        """Return model.json as it is downloaded: without what is true of one storage only."""
        return self.model_dump_json(indent=1, exclude={"files_folder"}).encode()


class SavedModel:
    """A card, and its files read through `read` and checked against the card's hashes."""

    def __init__(self, card: Card, read: Callable[[str], bytes]) -> None:
        self.card = card
        self.vocabulary = Vocabulary(card.characters, card.alphabet)
        self._read = read

    def file(self, name: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            KeyError: the card names no such file.
            Unavailable: the file is missing or is not what the card says (code `model_damaged`).
        """
        entry = self.card.files[name]
        try:
            data = self._read(name)
        except FileNotFoundError:
            raise Unavailable(
                f"model {self.card.reference} has lost its file {name}; restore it or delete the version",
                code="model_damaged",
            ) from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise Unavailable(
                f"file {name} of model {self.card.reference} is not what its card says: its hash differs",
                code="model_damaged",
            )
        return data


def parse_card(data: bytes, *, where: str) -> Card:
    """Return the card in `data`.

    Raises:
        Unavailable: it is not JSON, lacks a field, or is of a format this program does not know.
    """
    try:
        raw = _json_object(data)
    except ValueError:
        raise Unavailable(f"{where} is damaged: it is not a JSON object", code="model_damaged") from None
    if raw.get("format_version") != FORMAT_VERSION:
        raise Unavailable(
            f"{where} has saved-model format {raw.get('format_version')!r} and this program reads"
            f" {FORMAT_VERSION}; upgrade nextchar or train the model again",
            code="model_format_unknown",
        )
    try:
        return Card.model_validate(raw)
    except ValueError as error:
        raise Unavailable(f"{where} is damaged: {error}", code="model_damaged") from None


def describe_files(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """Return the card's `files` for the given contents."""
    return {
        name: FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }


def load_folder(folder: Path) -> SavedModel:
    """Return the model saved in a local folder, as a download of all its files leaves it."""
    card = parse_card((folder / "model.json").read_bytes(), where=str(folder / "model.json"))
    return SavedModel(card, lambda name: (folder / name).read_bytes())


def _json_object(data: bytes) -> dict[str, Any]:
    raw = json.loads(data)
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    return raw
