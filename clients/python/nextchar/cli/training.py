"""`nextchar train`: upload a file if need be, queue a training job, and show its progress."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from nextchar.cli import corpora, jobs
from nextchar.cli.names import complete_corpus, complete_model, with_suggestion
from nextchar.cli.option_names import with_options
from nextchar.cli.session import Session, command
from nextchar.connection import omit_none
from nextchar.errors import ServerError
from nextchar.types import Alphabet, Corpus, MaskName, PresetOption, Purpose, TextKind

_budget_option = partial(typer.Option, rich_help_panel="Budget")
_network_option = partial(typer.Option, rich_help_panel="Network")
_optimization_option = partial(typer.Option, rich_help_panel="Optimization")
_text_option = partial(typer.Option, rich_help_panel="Vocabulary and masks")
_mix_option = partial(typer.Option, rich_help_panel="Mixing in a second corpus")

MASK_NAMES: tuple[str, ...] = get_args(MaskName)


@command
def train(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|CORPUS",
            help="A UTF-8 text file, which is uploaded first (- is standard input), or the name or id of a"
            " corpus. If both exist, the corpus is taken; write ./NAME for the file.",
            autocompletion=complete_corpus,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model; each job adds a version. Default: that of the file or corpus."),
    ] = None,
    preset: Annotated[
        PresetOption | None,
        typer.Option(
            metavar="NAME",
            help="Network and recipe to start from: tiny, small, medium or large; auto (default) takes the"
            " largest for which this machine and the seconds suffice.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show progress until the job ends.")
    ] = True,
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed gives the same model on the same machine, with --epochs or --steps."
        ),
    ] = None,
    seconds: Annotated[float | None, _budget_option(help="Training time. Default: 60.")] = None,
    epochs: Annotated[
        float | None, _budget_option(help="Number of passes over the text, instead of --seconds.")
    ] = None,
    steps: Annotated[
        int | None, _budget_option(help="Number of optimizer steps, instead of --seconds.")
    ] = None,
    architecture: Annotated[
        str | None,
        _network_option(
            metavar="NAME",
            help="An architecture of the lecture notes, such as nth_char; the error for a wrong name lists"
            " all. Default: stateful_lstm.",
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        _network_option(
            metavar="MODEL",
            help="Model whose weights and vocabulary to start from.",
            autocompletion=complete_model,
        ),
    ] = None,
    layers: Annotated[int | None, _network_option(help="Number of stacked LSTM layers.")] = None,
    units: Annotated[int | None, _network_option(help="Hidden units per layer.")] = None,
    embedding: Annotated[int | None, _network_option(help="Dimensions of a character's embedding.")] = None,
    dropout: Annotated[float | None, _network_option(help="Dropout rate after each layer.")] = None,
    context: Annotated[
        int | None, _network_option(help="Input length of a fixed-window architecture, in characters.")
    ] = None,
    rows: Annotated[
        int | None, _optimization_option(help="Batch size: parallel rows the text is cut into.")
    ] = None,
    window: Annotated[
        int | None,
        _optimization_option(help="Length of truncated back-propagation through time, in characters."),
    ] = None,
    learning_rate: Annotated[float | None, _optimization_option(help="Peak of the schedule.")] = None,
    validation_fraction: Annotated[
        float | None,
        _optimization_option(help="Fraction of the text held out: its end, or random records."),
    ] = None,
    mixture: Annotated[
        bool | None,
        typer.Option(
            "--mixture/--no-mixture",
            help="Predict with n-grams and matches, not only the network; the model then contains the end of"
            " the text. Default: yes.",
        ),
    ] = None,
    kind: Annotated[
        TextKind | None,
        _text_option(metavar="KIND", help=corpora.KIND_HELP + " Default: the corpus's."),
    ] = None,
    purpose: Annotated[
        Purpose | None,
        _text_option(
            "--for",
            metavar="PURPOSE",
            help="What the model is for: complete, anomalies or both. Values of a log that change from line"
            " to line are masked unless it is complete. Default: anomalies for a log.",
        ),
    ] = None,
    masks: Annotated[
        list[str] | None,
        _text_option(
            metavar="MASKS",
            help="What to replace by a placeholder: names, such as timestamp,ip,long_numbers, or an RE2"
            " expression; can be repeated. none: nothing. auto: what the service finds in the text. Default:"
            " auto for a log.",
        ),
    ] = None,
    alphabet: Annotated[Alphabet | None, _text_option(help="What a character is.")] = None,
    coverage: Annotated[
        float | None,
        _text_option(
            help="Fraction of the text that the vocabulary covers; the rarest characters are left out."
        ),
    ] = None,
    mix: Annotated[
        str | None,
        _mix_option(
            metavar="CORPUS",
            help="Second corpus, in a fraction of each batch's rows.",
            autocompletion=complete_corpus,
        ),
    ] = None,
    mix_fraction: Annotated[float | None, _mix_option(help="That fraction. Default: 0.25.")] = None,
    teacher: Annotated[
        str | None,
        _mix_option(
            metavar="MODEL",
            help="Model whose predictions are the targets on the second corpus.",
            autocompletion=complete_model,
        ),
    ] = None,
    targets: Annotated[
        str | None, _mix_option(help="The teacher's distribution (default), sampled or argmax.")
    ] = None,
) -> None:
    """Train a model on a file or a corpus, and show its progress. Ctrl-C ends the view; training continues.

    Example: nextchar train notes.txt --seconds 300
    """
    budget = omit_none(seconds=seconds, epochs=epochs, steps=steps)
    if len(budget) > 1:
        raise typer.BadParameter("give at most one of --seconds, --epochs and --steps")
    mixing = omit_none(corpus=mix, fraction=mix_fraction, teacher=teacher, targets=targets)
    if mixing and not mix:
        raise typer.BadParameter("--teacher, --targets and --mix-fraction need --mix CORPUS")
    file = _file_of(session, source)
    encoding = "bytes" if alphabet == "bytes" else None
    name = name or _name_of(session, source, file, encoding=encoding)
    request: dict[str, Any] = {"name": name}
    request["corpus"] = _upload(session, file, encoding=encoding) if file else source
    request |= omit_none(architecture=architecture, preset=preset)
    request |= omit_none(validation_fraction=validation_fraction, seed=seed)
    request |= omit_none(start_from=start_from, coverage=coverage, alphabet=alphabet, kind=kind)
    request |= omit_none(mixture=mixture, purpose=purpose)
    sections = {
        "budget": budget,
        "network": omit_none(
            layers=layers, units=units, embedding=embedding, dropout=dropout, context=context
        ),
        "training": omit_none(rows=rows, window=window, learning_rate=learning_rate),
        "mix": mixing,
    }
    request |= {section: options for section, options in sections.items() if options}
    if masks:
        request["masks"] = "auto" if masks == ["auto"] else parse_masks(masks)
        if request["masks"] != "auto":
            _note_unknown_masks(session, request["masks"])
    job = session.client.create_job(request)
    if follow:
        jobs.follow(session, job["id"])
    elif session.as_json:
        session.print_json(job)
    else:
        session.print_text(job["id"])
        if sentence := job.get("masked_by_default"):
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


def _name_of(session: Session, source: str, file: Path | None, *, encoding: str | None) -> str:
    """Return the name of a model after its file or corpus."""
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


def _upload(session: Session, file: Path, *, encoding: str | None) -> str:
    """Upload a file; return the id of its corpus, which is named after the file if the key permits that."""
    try:
        return corpora.upload(session, file, None, encoding=encoding)["id"]
    except ServerError as error:
        if error.code != "corpus_name_not_permitted":
            raise
        session.print_note(f"{error}; uploading {file} again without a name")
        return corpora.upload(session, file, None, encoding=encoding, is_named=False)["id"]
