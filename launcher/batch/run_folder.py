"""The folder that a run writes, local or in an object store: what makes it resumable.

    run.json                             what the run does, with which model, to which files; created once
    parts/<file>-<hash>-<start>-<end>.jsonl   the results of one part, written as a whole; or .parquet
    done.json                            the totals, when all parts are there

Parts are named by the range that they have read, and `run.json` fixes the ranges, so running again does only
what is missing, and doing a part twice replaces it.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextchar.launcher.batch.inputs import InputFile, Part, is_url, parts_of
from nextchar.models.errors import Conflict, InvalidInput, Unavailable
from nextchar.store.blobs import Blobs, StorageRefused
from nextchar.store.open_blobs import is_known_url, open_blobs

FORMAT_VERSION = 1

_RUN, _DONE, _PARTS = "run.json", "done.json", "parts"
_MAX_STEM = 60


@dataclass(frozen=True)
class RunFolder:
    """One output folder. It can be sent to other processes."""

    url: str
    suffix: str  # of the parts: .jsonl or .parquet

    @classmethod
    def at(cls, output: str, *, suffix: str) -> "RunFolder":
        """Return the folder at a path or URL. Raises InvalidInput for a URL of an unknown kind."""
        if not is_url(output):
            return cls(Path(output.removeprefix("file://")).expanduser().resolve().as_uri(), suffix)
        if not is_known_url(output):
            raise InvalidInput(f"{output} cannot be written; use a folder, or s3://, gs:// or az://")
        return cls(output.rstrip("/"), suffix)

    def open(self) -> Blobs:
        """Open it. Raises InvalidInput, Unavailable."""
        try:
            return open_blobs(self.url)
        except ValueError as error:
            raise InvalidInput(f"{self.url} cannot be written: {error}") from None

    def begin(self, about: dict[str, Any], files: Sequence[InputFile], part_bytes: int) -> list[Part]:
        """Begin a run, or continue the same one; return all its parts.

        Raises:
            Conflict: the folder has the results of another run (code `other_run`).
            InvalidInput: a file has changed since it began (code `input_changed`).
        """
        blobs = self.open()
        run = {
            "format_version": FORMAT_VERSION,
            **about,
            "part_bytes": part_bytes,
            "files": [asdict(file) for file in files],
        }
        content = json.dumps(run, indent=1).encode()
        try:
            is_new = blobs.create(_RUN, content)
        except Unavailable as failure:
            try:
                blobs.check()  # says more
            except StorageRefused as error:
                raise InvalidInput(f"{self.url} cannot be written: {error}") from None
            raise Unavailable(f"{self.url}: {failure.message}", code=failure.code) from None
        if is_new:
            return parts_of(files, part_bytes)
        before = json.loads(blobs.read(_RUN))
        self._check_same(before, json.loads(content))  # JSON has lists where options have tuples
        return parts_of(files, before["part_bytes"])

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """Return the parts without results."""
        written = set(self.open().paths(_PARTS))
        return [part for part in parts if self._path(part) not in written]

    def write(self, blobs: Blobs, part: Part, results: Path) -> None:
        """Write the results of a part from a local file. Raises StorageFull, Unavailable."""
        blobs.write(self._path(part), results)

    def finish(self, totals: dict[str, Any]) -> None:
        """Record that all parts are there."""
        self.open().write(_DONE, json.dumps(totals).encode())

    def _path(self, part: Part) -> str:
        name = part.file.name
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition("/")[2])[-_MAX_STEM:].lstrip(".") or "file"
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        return f"{_PARTS}/{stem}-{digest}-{part.start:015d}-{part.end:015d}{self.suffix}"

    def _check_same(self, before: dict[str, Any], run: dict[str, Any]) -> None:
        ignored = {"files", "part_bytes"}
        for key in sorted((before.keys() | run.keys()) - ignored):
            if before.get(key) != run.get(key):
                raise Conflict(
                    f"{self.url} has the results of a run with another {key.replace('_', ' ')}"
                    f" ({_format_value(before.get(key))}, and now {_format_value(run.get(key))}): choose"
                    " another output, or repeat that run to complete it",
                    code="other_run",
                )
        files = {file["name"]: file for file in before["files"]}
        for file in run["files"]:
            if file["name"] in files and file != files[file["name"]]:
                raise InvalidInput(
                    f"{file['name']} has changed since the run began; choose another output",
                    code="input_changed",
                )
        if files.keys() != {file["name"] for file in run["files"]}:
            raise Conflict(
                f"{self.url} has the results of a run over {len(files):,} files, and now there are"
                f" {len(run['files']):,}: name the same files to complete it, or choose another output",
                code="other_run",
            )


def _format_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:200]
