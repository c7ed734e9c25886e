"""Corpora as the API shows them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
