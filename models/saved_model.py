"""The saved-model folder: a model card, and the files that it lists with their hashes.

    model.json        the card; its first field is the format version
    model.keras       stock Keras layers only; states are inputs and outputs
    model.onnx        (ids (T, B), state (B, S), first) -> (logits (T - first, B, V), state (B, S))
    model.int8.npz    int8 weights of an LSTM for models/kernels; present only if measured to be as good
    model.int8.onnx   the int8 form of other architectures
    ngram.npz         n-gram counts of the training text, for anomaly scores
    word_ngram.npz    n-gram counts of its words, for anomaly scores
    templates.json    templates of its lines, for anomaly scores
    mask_values.json  what the values that it masks look like; absent: all are masked
    successors.json   what follows what in its lines, for anomalies; absent: the scores alone decide
    lines.index       the distinct lines of a corpus of records, with counts, for suggestions
    mixture.npz       the end of the text and the weights of the mixture; absent: the network predicts alone
    calibration.json  score distribution of held-out lines

An unknown format version and a file with another hash are errors. Nothing is ever unpickled.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from nextchar.models.config import Mix, NetworkConfig, Preset, PresetOption, TrainingConfig
from nextchar.models.errors import NotFound, Unavailable
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.text.vocabulary import Alphabet, Vocabulary
from nextchar.models.validation_errors import UPGRADE, is_of_newer_version, load_record

FORMAT_VERSION = 1


class FileEntry(BaseModel):
    """Size and hash of one file."""

    bytes: int
    sha256: str


class Card(BaseModel):
    """The contents of model.json: configuration, provenance, report and files of a model version."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    format_version: int = FORMAT_VERSION
    id: str
    name: str
    version: int = 0
    created_at: int = Field(description="Unix seconds, UTC.")
    job: str | None = None
    corpus: str | None = None
    preset: PresetOption | None = None
    """The preset of its job; null: the architecture has none, or not known."""
    chosen_preset: Preset | None = Field(None, description="What preset `auto` chose.")
    network: NetworkConfig
    training: TrainingConfig
    started_from: str | None = None
    """The model that training started from, `name@version`."""
    mix: Mix | None = Field(None, description="The second text of its training batches.")
    alphabet: Alphabet = "characters"
    kind: TextKind | None = None
    """What its training text is; the model of `records` begins prompts at a line's start."""
    masks: tuple[str, ...] = Field((), description="Masks of its training text and of the lines it scores.")
    characters: str = Field(description="The vocabulary; the n-th character has id n.")
    parameters: int
    report: dict[str, Any] = Field(default_factory=dict, description="The report of the training run.")
    files: dict[str, FileEntry]
    files_folder: str = Field("", pattern=r"^[A-Za-z0-9_-]*$")
    """Subfolder of its files in the storage."""

    @property
    def reference(self) -> str:
        """`name@version`, the model's name in the API; of an early model `name@job`."""
        return f"{self.name}@{self.job if self.is_early else self.version}"

    @property
    def is_early(self) -> bool:
        """Whether it completes while its job still trains the network; see `store/early_models.py`."""
        return bool(self.report.get("is_early"))

    def portable(self) -> bytes:
        """Return model.json for a download: without the fields that refer to this storage."""
        return self.model_dump_json(indent=1, exclude={"files_folder"}).encode()


Contents = bytes | memoryview
T = TypeVar("T", bytes, Contents)


class SavedModel:
    """A card and access to its files; each file that `read` returns is checked against its hash."""

    def __init__(
        self, card: Card, read: Callable[[str], bytes], map_file: Callable[[str], Contents] | None = None
    ) -> None:
        """Have a card, and what reads its files; `map_file` may return one without copying it."""
        self.card = card
        self.vocabulary = Vocabulary(card.characters, card.alphabet)
        self._read = read
        self._map: Callable[[str], Contents] = map_file or read

    def file(self, name: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            KeyError: the card lists no such file.
            Unavailable: the file is missing or its hash differs (code `model_damaged`).
        """
        return self._checked(name, self._read)

    def mapped(self, name: str) -> Contents:
        """Return the bytes of one file, mapped into memory where the storage can do so. Raises as `file`."""
        return self._checked(name, self._map)

    def _checked(self, name: str, read: Callable[[str], T]) -> T:
        entry = self.card.files[name]
        try:
            data = read(name)
        except FileNotFoundError:
            raise Unavailable(
                f"file {name} of model {self.card.reference} is missing; restore it or delete the version",
                code="model_damaged",
            ) from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise Unavailable(
                f"file {name} of model {self.card.reference} is damaged: its hash differs from its card;"
                " restore it or delete the version",
                code="model_damaged",
            )
        return data


def model_in_training(reference: str) -> NotFound:
    """Return the error of calls that an early model `name@job` cannot do."""
    return NotFound(
        f"{reference} is still being trained: until its job ends, it only completes and suggests",
        code="model_in_training",
        param="model",
    )


def parse_card(data: bytes, *, where: str) -> Card:
    """Parse a card read from `where`.

    Raises:
        Unavailable: it is not valid (code `model_damaged`), or of another format or with what only a newer
            version knows (`model_format_unknown`).
    """
    try:
        raw = load_record(data)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise Unavailable(f"{where} is damaged: it is not a JSON object", code="model_damaged")
    if raw.get("format_version") != FORMAT_VERSION:
        raise Unavailable(
            f"{where} has saved-model format {raw.get('format_version')!r} and this program reads"
            f" {FORMAT_VERSION}; upgrade nextchar or train the model again",
            code="model_format_unknown",
        )
    try:
        return Card.model_validate(raw)
    except ValueError as error:
        if is_of_newer_version(error):
            raise Unavailable(f"{where} {UPGRADE}", code="model_format_unknown") from None
        raise Unavailable(f"{where} is damaged: {error}", code="model_damaged") from None


def describe_files(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """Return `Card.files` for these contents by name."""
    return {
        name: FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }
