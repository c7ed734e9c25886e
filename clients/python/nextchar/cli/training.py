"""`nextchar train`: upload a file if need be, queue a training job, and show its progress."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Unpack, get_args

import typer
from typer import Argument, Option

from nextchar.cli import corpora, jobs
from nextchar.cli.fields import with_options
from nextchar.cli.names import complete_corpus, with_suggestion
from nextchar.cli.session import Session, command
from nextchar.errors import ServerError
from nextchar.options import BudgetOptions, TrainingOptions
from nextchar.training import job_request
from nextchar.types import Corpus, MaskName

Encoding = Literal["bytes"] | None
MASK_NAMES: tuple[str, ...] = get_args(MaskName)


@command
def train(
    session: Session,
    source: Annotated[
        str,
        Argument(
            metavar="FILE|CORPUS",
            help="A UTF-8 text file, which is uploaded first (- is standard input), or the name or id of a"
            " corpus. If both exist, the corpus is taken; write ./NAME for the file.",
            autocompletion=complete_corpus,
        ),
    ],
    name: Annotated[
        str | None,
        Option(help="Name of the model; each job adds a version. Default: that of the file or corpus."),
    ] = None,
    follow: Annotated[bool, Option("--follow/--no-follow", help="Show progress until the job ends.")] = True,
    **options: Unpack[TrainingOptions],
) -> None:
    """Train a model on a file or a corpus, and show its progress. Ctrl-C ends the view; training continues.

    Example: nextchar train notes.txt --seconds 300
    """
    if sum(unit in options for unit in BudgetOptions.__annotations__) > 1:
        raise typer.BadParameter("give at most one of --seconds, --epochs and --steps")
    if "corpus" not in (options.get("mix") or {"corpus": ""}):
        raise typer.BadParameter("--teacher, --targets and --mix-fraction need --mix CORPUS")
    file = _file_of(session, source)
    encoding: Encoding = "bytes" if options.get("alphabet") == "bytes" else None
    name = name or _name_of(session, source, file, encoding=encoding)
    corpus = _upload(session, file, encoding=encoding) if file else source
    request = job_request(options) | {"name": name, "corpus": corpus}
    if masks := options.get("masks"):
        request["masks"] = "auto" if masks == ["auto"] else parse_masks(masks)
        if request["masks"] != "auto":
            _note_unknown_masks(session, request["masks"])
    job = session.client.create_job(request)
    if follow:
        jobs.follow(session, job["id"])
    else:
        session.print_result(job, job["id"])
        if (sentence := job.get("masked_by_default")) and not session.as_json:
            session.print_note(with_options(sentence))


def parse_masks(options: Sequence[str]) -> list[str]:
    """Return the masks of --masks options: each is a name, names separated by commas, or an expression.

    >>> parse_masks(["timestamp,ip", "id=[a-z]{3,5}"]), parse_masks(["none"])
    (['timestamp', 'ip', 'id=[a-z]{3,5}'], [])
    """
    masks = []
    for option in options:
        names = option.split(",")
        masks += names if all(map(_is_word, names)) else [option]
    return [] if masks == ["none"] else masks


def _note_unknown_masks(session: Session, masks: Sequence[str]) -> None:
    for mask in masks:
        if _is_word(mask) and mask not in MASK_NAMES:
            session.print_note(
                f"{mask!r} is not the name of a mask, so it is used as an expression and masks this word;"
                f" the names are {', '.join(MASK_NAMES)}"
            )


def _is_word(mask: str) -> bool:
    return mask.replace("_", "").isalpha()


def _file_of(session: Session, source: str) -> Path | None:
    """Return the file to upload; None where `source` is the name or id of a corpus.

    What contains a slash, or dots only, is a file. Any other word is one if it exists and no corpus has its
    name.
    """
    if not source:  # Path("") is the current folder
        raise typer.BadParameter("the name of the file or corpus is empty")
    file = Path(source)
    if source == "-" or os.sep in source or not source.strip("."):
        return file
    if not file.exists():
        return None
    try:
        session.client.corpus(source)
    except ServerError as error:
        if error.code != "corpus_not_found":
            raise
        return file
    session.print_note(
        f"{source} is both a corpus and a file; using the corpus (write ./{source} for the file)"
    )
    return None


def _name_of(session: Session, source: str, file: Path | None, *, encoding: Encoding) -> str:
    name = corpora.default_name(file, encoding=encoding) if file else _corpus_of(session, source)["name"]
    if name is None:
        raise typer.BadParameter("name the model with --name")
    return name


def _corpus_of(session: Session, source: str) -> Corpus:
    try:
        return session.client.corpus(source)
    except ServerError as error:
        if error.code != "corpus_not_found":
            raise
        advice = with_suggestion(error, session.client)
        raise typer.BadParameter(f"there is no file {source!r}, and {advice}") from None


def _upload(session: Session, file: Path, *, encoding: Encoding) -> str:
    """Upload a file; return the id of its corpus, which is named after the file if the key permits that."""
    try:
        return corpora.upload(session, file, encoding=encoding)["id"]
    except ServerError as error:
        if error.code != "corpus_name_not_permitted":
            raise
        session.print_note(f"{error}; uploading {file} again without a name")
        return corpora.upload(session, file, encoding=encoding, is_named=False)["id"]
