"""`nextchar corpus`: upload, list, show, change and delete corpora."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Unpack

import typer
from rich.text import Text
from typer import Argument, Option

from nextchar.cli.fields import with_options
from nextchar.cli.formatting import format_integer, format_size, format_time, printable
from nextchar.cli.names import CorpusArgument
from nextchar.cli.session import Session, command_of, standard_input
from nextchar.errors import NextcharError
from nextchar.options import CorpusOptions
from nextchar.types import Corpus, TextKind
from nextchar.upload import archive_format, folder_archive, folder_files, gunzip

_NOTE_EVERY_S = 2.0  # while a folder is listed

app = typer.Typer(
    no_args_is_help=True,
    help="Upload, list, show, change and delete corpora: the texts that models are trained on.\n\n"
    "Example: nextchar corpus add notes.txt",
)


@command_of(app, "add", without=("archive", "deduplicate", "encoding"))
def add(
    session: Session,
    file: Annotated[
        str,
        Argument(
            metavar="FILE",
            help="A UTF-8 text file, also compressed as .gz; a folder, or a .tar, .tar.gz or .zip file, whose"
            " files become one text;"
            " a URL or pattern such as s3://logs/*.gz, which the service reads; - is standard input.",
        ),
    ],
    as_bytes: Annotated[
        bool, Option("--bytes", help="The file is not UTF-8 text: each byte is a character.")
    ] = False,
    is_distinct: Annotated[
        bool, Option("--deduplicate", help="Leave out each line that occurred before.")
    ] = False,
    **options: Unpack[CorpusOptions],
) -> None:
    """Upload a text. Uploading the same bytes again, under any name, gives the same corpus.

    Example: nextchar corpus add notes.txt --name notes
    """
    if not file:  # Path("") is the current folder
        raise typer.BadParameter("the file's name is empty")
    if as_bytes:
        options["encoding"] = "bytes"
    if is_distinct:
        options["deduplicate"] = "lines"
    if "://" in file:
        corpus = session.client.import_corpus(file, **options)
    else:
        corpus = upload(session, Path(file), **options)
    _print_corpus(session, corpus)


@command_of(app, "list")
def list_(session: Session) -> None:
    """List all corpora, newest first.

    Example: nextchar corpus list
    """
    columns: dict[str, Callable[[Corpus], str]] = {
        "name": lambda corpus: _name(corpus) or "",
        "id": lambda corpus: corpus["id"],
        "characters": lambda corpus: format_integer(corpus["characters"]),
        "kind": lambda corpus: corpus.get("kind") or "",
        "distinct": lambda corpus: format_integer(corpus["distinct_characters"]),
        "created": lambda corpus: format_time(corpus["created_at"]),
    }
    empty = "there is no corpus yet; upload one with `nextchar corpus add FILE`"
    session.print_list(list(session.client.corpora()), columns, if_empty=empty)


@command_of(app, "show")
def show(session: Session, corpus: CorpusArgument) -> None:
    """Show a corpus's statistics, warnings and first characters.

    Example: nextchar corpus show notes
    """
    found = session.client.corpus(corpus)
    _print_corpus(session, found)
    if session.out.is_terminal and not session.as_json:
        session.out.print()
        session.out.print(Text(printable(found["sample"])), style="dim")


@command_of(app, "set")
def set_(
    session: Session,
    corpus: CorpusArgument,
    kind: Annotated[TextKind, Option(help="What the text is; the lines of records are independent.")],
) -> None:
    """Correct the kind of a corpus, if the service detected the wrong one.

    Example: nextchar corpus set names --kind records
    """
    _print_corpus(session, session.client.set_corpus_kind(corpus, kind))


@command_of(app, "rm")
def rm(session: Session, corpus: CorpusArgument) -> None:
    """Delete a corpus. Models that were trained on it stay.

    Example: nextchar corpus rm notes
    """
    deleted = session.client.delete_corpus(corpus)
    session.print_result(deleted, f"deleted {deleted['id']}")


def upload(
    session: Session, file: Path, *, is_named: bool = True, **options: Unpack[CorpusOptions]
) -> Corpus:
    """Upload a file, the files of a folder or archive, or standard input for `-`.

    A file named `*.gz` is decompressed, unless it is uploaded as bytes. Without a name it has the file's, if
    `is_named`. Raises OSError.
    """
    encoding = options.get("encoding")
    if is_named and not options.get("name") and str(file) != "-":
        options["name"] = default_name(file, encoding=encoding)
    add = partial(session.client.add_corpus, **options)
    if str(file) == "-":
        return add(standard_input())
    if file.is_dir():
        return add(folder_archive(file, _files_of(session, file)), archive="tar")
    if _is_compressed(file, encoding):
        return add(gunzip(file))
    with file.open("rb") as text:
        return add(text, archive=archive_format(file))


def _files_of(session: Session, folder: Path) -> list[Path]:
    """Return the files of a folder to upload; say how many there are, also while that takes long."""
    resolved = folder.resolve()
    if resolved == Path(resolved.anchor):
        raise NextcharError(f"{folder} is the whole file system; name a folder of texts")
    files: list[Path] = []
    next_note_s = time.monotonic() + _NOTE_EVERY_S
    for file in folder_files(folder):
        files.append(file)
        if time.monotonic() >= next_note_s:
            count = format_integer(len(files))
            session.print_note(f"listing {folder}: {count} files so far, now in {file.parent}")
            next_note_s += _NOTE_EVERY_S
    if not files:
        raise NextcharError(f"{folder} has no files, or hidden ones only; put the texts into it")
    size = format_size(sum(file.stat().st_size for file in files))
    session.print_note(f"reading {format_integer(len(files))} files in {folder}, {size}")
    return files


def default_name(file: Path, *, encoding: str | None = None) -> str | None:
    """Return the name of a corpus or model that is made from a file or folder; None if it can have none."""
    if file.is_dir():
        return name_of(file.resolve())
    return name_of(file.with_suffix("") if _is_compressed(file, encoding) else file)


def _is_compressed(file: Path, encoding: str | None) -> bool:
    """Return whether a file is decompressed when it is uploaded with this encoding."""
    return file.suffix.lower() == ".gz" and archive_format(file) is None and encoding is None


def name_of(file: Path) -> str | None:
    """Return a corpus name made from a file's name; None when nothing usable is left of it.

    >>> name_of(Path("My notes (2).txt")), name_of(Path("logs.tar.gz")), name_of(Path("…"))
    ('My-notes-2', 'logs', None)
    """
    stem = file.stem.removesuffix(".tar")
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else " " for c in stem)
    return "-".join(kept.split()).strip("._-")[:64] or None


def _print_corpus(session: Session, corpus: Corpus) -> None:
    characters, distinct = format_integer(corpus["characters"]), format_integer(corpus["distinct_characters"])
    lines, longest = format_integer(corpus["lines"]), format_integer(corpus["longest_line"])
    removed, masks = corpus.get("repeated_lines"), corpus.get("suggested_masks") or ()
    fields = [
        ("name", _name(corpus) or "–"),
        ("id", corpus["id"]),
        ("characters", f"{characters}, {distinct} of them distinct"),
        ("lines", f"{lines}, the longest has {longest} characters"),
        ("size", _size(corpus)),
        ("repeated", None if removed is None else f"{format_integer(removed)} lines were removed"),
        ("created", format_time(corpus["created_at"])),
        ("kind", ": ".join(filter(None, (corpus.get("kind"), corpus.get("kind_reason")))) or None),
        ("masks", f"{', '.join(masks)} (default for this log)" if masks else None),
        *(("warning", with_options(warning)) for warning in corpus["warnings"]),
    ]
    session.print_record(corpus, fields)


def _name(corpus: Corpus) -> str | None:
    name, version = corpus["name"], corpus.get("version") or 1
    return f"{name}@{version}" if name and version > 1 else name


def _size(corpus: Corpus) -> str:
    size, files = format_size(corpus["bytes"]), corpus.get("files")
    return f"{size}, of {format_integer(files)} files" if files else size
