"""Corpora as the API shows them."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, computed_field

from nextchar.app.http.schemas import RequestBody, Shape, with_examples
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.text.masks import NAMED
from nextchar.store.corpus import Encoding

EXAMPLE: dict[str, Any] = {
    "id": "corpus_98b1f0a4c2d5e6f708192a3b", "object": "corpus", "name": "nietzsche", "version": 1,
    "sha256": "98b1f0a4c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f", "created_at": 1795563600,
    "bytes": 600901, "characters": 600893, "distinct_characters": 84, "lines": 9935, "longest_line": 75,
    "sample": "PREFACE\n\n\nSUPPOSING that Truth is a woman--what then?", "encoding": "utf-8", "warnings": [],
    "kind": "text", "kind_reason": "empty lines divide it into parts",
}  # fmt: skip


class LogSampleBody(Shape):
    """How the suggested masks match a sample of a log's lines."""

    model_config = ConfigDict(from_attributes=True)

    sampled_lines: int
    lines: dict[str, int]
    """For each suggested mask, the number of these lines that it matches."""
    example: str = Field(description="One of these lines.")
    matches: dict[str, list[tuple[int, int]]]
    """For every mask, where it alone would match in the example: start and end."""

    @computed_field(description="The character that replaces a match of each of these masks.")  # type: ignore[prop-decorator]
    @property
    def placeholders(self) -> dict[str, str]:
        """The replacement of each mask in `matches`."""
        return {name: NAMED[name][0] for name in self.matches}


class CorpusBody(Shape):
    """One uploaded text. All lengths are in characters after Unicode NFC, except `bytes`."""

    model_config = with_examples(EXAMPLE, from_attributes=True)

    id: str = Field(description="Derived from the bytes: the same text always has the same id.")
    object: Literal["corpus"] = "corpus"
    name: str | None
    """The name under which it was first uploaded; usable instead of the id, as is `name@version`."""
    version: int | None = None
    """The version of that name: another text under a name is its next version, and the bare name means the
    newest. Null without a name."""
    sha256: str = Field(description="Hash of the uploaded bytes, after decompression; 64 hexadecimal digits.")
    created_at: int = Field(description="Unix seconds, UTC.")
    bytes: int
    characters: int
    distinct_characters: int
    lines: int
    longest_line: int
    sample: str = Field(description="Its first characters, at most 300.")
    encoding: Encoding = "utf-8"
    """`utf-8` for text, `bytes` for bytes that are not decoded."""
    files: int | None = None
    """How many files of an archive were joined to this text; null: it was uploaded as one."""
    repeated_lines: int | None = None
    """How many repeated lines were removed; null: the upload did not ask for it."""
    warnings: list[str] = Field(description="Problems that may impair training.")
    kind: TextKind | None = None
    """What the text is. `records`: each line stands alone, as in a list of names, terms or requests; training
    shuffles the lines. `log`: lines in order of time, with timestamps or increasing numbers. `code`, and
    `text` for all else or in doubt. Detected from a sample of the lines unless a request has set it; null if
    not determined: for bytes, and for texts uploaded before this field existed, which are trained on like
    `text`."""
    kind_reason: str | None = Field(None, description="Why it has this kind, as a clause.")
    suggested_masks: list[str] = Field([])
    """Masks of the values that change from line to line of a log, the default of `masks`."""
    log_sample: LogSampleBody | None = None
    """For a log: the sample on which the suggestion is based."""


class CorpusSource(RequestBody):
    """Files in an object store that become one corpus."""

    model_config = with_examples({"url": "s3://logs/nginx/2026-*/*.log.gz", "name": "nginx"})

    url: str = Field(max_length=2000)
    """A file; with a final slash a folder; or a pattern: `*` matches within a folder, `**/` any folders.
    NEXTCHAR_CORPUS_SOURCES decides what may be read."""
    name: str | None = Field(None, description="As for an upload.")
    encoding: Encoding = Field("utf-8", description="As for an upload.")
    kind: TextKind | None = Field(None, description="As for an upload.")
    deduplicate: Literal["lines"] | None = Field(None, description="As for an upload.")


class CorpusChange(RequestBody):
    """What to change about a corpus."""

    model_config = with_examples({"kind": "records"})

    kind: TextKind = Field(description="What the text is; the default of a job's `kind`.")
