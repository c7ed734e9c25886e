"""Corpora as the API shows them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from models.text.log_detection import TextKind
from models.text.masks import NAMED
from store.corpora import Encoding

EXAMPLE: dict[str, Any] = {
    "id": "corpus_98b1f0a4c2d5e6f708192a3b",
    "object": "corpus",
    "name": "nietzsche",
    "sha256": "98b1f0a4c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f",
    "created_at": 1795563600,
    "bytes": 600901,
    "characters": 600893,
    "distinct_characters": 84,
    "lines": 9935,
    "longest_line": 75,
    "sample": "PREFACE\n\n\nSUPPOSING that Truth is a woman--what then?",
    "encoding": "utf-8",
    "warnings": [],
}


class LogSampleBody(BaseModel):
    """What a sample of a log's lines tells of the masks that are suggested."""

    model_config = ConfigDict(from_attributes=True)

    sampled_lines: int
    lines: dict[str, int] = Field(description="For each suggested mask, how many of these lines it matches.")
    example: str = Field(description="One of these lines.")
    matches: dict[str, list[tuple[int, int]]] = Field(
        description="Where each mask that there is would match in the example by itself: start and end."
    )

    @computed_field(description="What stands for a match of each of these masks.")  # type: ignore[prop-decorator]
    @property
    def placeholders(self) -> dict[str, str]:
        """The character for each mask of `matches`."""
        return {name: NAMED[name][0] for name in self.matches}


class CorpusBody(BaseModel):
    """One uploaded text. All lengths are in characters after Unicode NFC, but for `bytes`."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]}, from_attributes=True)

    id: str = Field(description="Follows from the bytes: the same text always has the same id.")
    object: Literal["corpus"] = "corpus"
    name: str | None = Field(description="The name it was first uploaded under; usable wherever the id is.")
    sha256: str = Field(description="Of the uploaded bytes, after any gzip is undone; 64 hexadecimal digits.")
    created_at: int = Field(description="Unix seconds, UTC.")
    bytes: int
    characters: int
    distinct_characters: int
    lines: int
    longest_line: int
    sample: str = Field(description="Its first characters, at most 300.")
    encoding: Encoding = Field("utf-8", description="What the bytes are: a text, or not to be decoded.")
    warnings: list[str] = Field(description="What may make it learn badly.")
    kind: TextKind | None = Field(
        None,
        description="`log` if most lines carry a timestamp or a rising number, else `text`; null where it was"
        " not recognized: of bytes, and of texts uploaded before there was this field.",
    )
    suggested_masks: list[str] = Field(
        [],
        description="What changes from line to line of a log. Jobs that give no `masks` use these.",
    )
    log_sample: LogSampleBody | None = Field(None, description="Of a log: what the suggestion follows from.")
