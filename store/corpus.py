"""The record of a corpus."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from nextchar.models.text.kind_detection import TextKind
from nextchar.store.corpus_names import reference_of
from nextchar.store.corpus_statistics import Encoding


@dataclass(frozen=True)
class Corpus:
    """The record of a corpus. Lengths are in characters after NFC, except `bytes`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    id: str
    name: str | None
    sha256: str
    created_at: int
    bytes: int
    characters: int
    distinct_characters: int
    lines: int
    longest_line: int
    sample: str
    warnings: list[str]
    encoding: Encoding = "utf-8"
    kind: TextKind | None = None  # None: bytes, or an older record
    kind_reason: str | None = None  # a clause; None like the kind, and for texts of older records
    suggested_masks: list[str] = field(default_factory=list)
    log_sample: dict[str, Any] | None = None  # of a log: the rest of its LogDetection
    files: int | None = None  # that were joined to this text; None: it was uploaded as one
    version: int | None = None  # of `name`
    repeated_lines: int | None = None  # that were removed from it; None: none was looked for
    uploaded_again_at: int | None = None  # the last time, to the day; Unix seconds

    @property
    def reference(self) -> str | None:
        """Its first name, with the version unless that is 1."""
        return reference_of(self.name, self.version or 1) if self.name else None


_CORPUS = TypeAdapter(Corpus)


def dump_corpus(corpus: Corpus) -> bytes:
    """Return a record as JSON, without fields new to earlier releases that have their default."""
    defaults = {
        "files": None,
        "version": corpus.name and 1,
        "repeated_lines": None,
        "uploaded_again_at": None,
    }
    record = asdict(corpus)
    return json.dumps({k: v for k, v in record.items() if k not in defaults or v != defaults[k]}).encode()


def load_corpus(data: bytes) -> Corpus:
    """Read what `dump_corpus` returned. Raises pydantic.ValidationError: it cannot be read."""
    corpus = _CORPUS.validate_json(data)
    is_older = corpus.name is not None and corpus.version is None  # than versions
    return replace(corpus, version=1) if is_older else corpus
