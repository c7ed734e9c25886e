"""`nextchar models`: list, show, rename, delete, download, export and import models; aliases of versions."""

import hashlib
import json
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Unpack

import typer
from typer import Argument, Option

from nextchar.cli.formatting import format_integer, format_network, format_size, format_time
from nextchar.cli.names import ModelArgument, complete_model
from nextchar.cli.offline_page import offline_page
from nextchar.cli.report import experts_sentence, result_sentence
from nextchar.cli.session import Session, command, command_of, fail
from nextchar.options import AliasOptions
from nextchar.types import Alias, Model, ModelSummary

app = typer.Typer()

AliasArgument = Annotated[
    str, Argument(metavar="NAME@ALIAS", help="An alias of a model's versions.", autocompletion=complete_model)
]
Force = Annotated[
    bool,
    Option(
        "--force",
        help="Proceed even if an alias points to the version or an unfinished job needs it; calls of that"
        " alias, and the job, then fail.",
    ),
]

_CARD = "model.json"
_SPOOL_BYTES = 1 << 24  # an archive up to this size stays in memory


@command_of(app)
def list_(session: Session) -> None:
    """List models, newest first; show, rename, delete, download, export or import one, or move an alias.

    Example: nextchar models
    """
    models = list(session.client.models())
    damaged = session.client.damaged_models()
    columns: dict[str, Callable[[ModelSummary], str]] = {
        "model": lambda model: model["id"],
        "network": lambda model: f"{model['network']['layers']} x {model['network']['units']}",
        "parameters": lambda model: format_integer(model["parameters"]),
        "created": lambda model: format_time(model["created_at"]),
        "aliases": lambda model: ", ".join(model.get("aliases", [])),
    }
    empty = "there is no model yet; train one with `nextchar train FILE`"
    session.print_list(models, columns, if_empty=empty, damaged=damaged)
    for model in () if session.as_json else damaged:
        restore = "restore its card from a backup, or " if model["code"] == "model_damaged" else ""
        session.print_note(
            f"{model['id']} cannot be used: {model['message']}; {restore}delete it with"
            f" `nextchar models rm {model['id']}`"
        )


@command_of(app, "show")
def show(session: Session, model: ModelArgument) -> None:
    """Show a model's network, corpus, results and files.

    Example: nextchar models show nietzsche@2
    """
    _print_model(session, session.client.model(model))


@command_of(app, "rename")
def rename(
    session: Session,
    model: ModelArgument,
    name: Annotated[str, Argument(metavar="NAME", help="The new name.")],
    force: Force = False,
) -> None:
    """Rename one version of a model: it becomes the next version of the new name.

    Example: nextchar models rename nietzsche@2 zarathustra
    """
    renamed = session.client.rename_model(model, name, force=force)
    session.print_result(renamed, renamed["id"])


@command_of(app, "rm")
def rm(session: Session, model: ModelArgument, force: Force = False) -> None:
    """Delete one version of a model; a bare name means its newest version.

    Example: nextchar models rm nietzsche@1
    """
    deleted = session.client.delete_model(model, force=force)
    session.print_result(deleted, f"deleted {deleted['id']}")


@command_of(app, "aliases")
def aliases(
    session: Session,
    model: Annotated[
        str,
        Argument(
            metavar="NAME",
            help="A model's name; or NAME@ALIAS for the alias's history.",
            autocompletion=complete_model,
        ),
    ],
) -> None:
    """List the aliases of a model, or all moves of one.

    Example: nextchar models aliases nietzsche
    """
    name, _, alias = model.partition("@")
    columns: dict[str, Callable[[Alias], str]] = {
        "alias": lambda one: f"{one['model']}@{one['id']}",
        "version": lambda one: one["target"] or "deleted",
        "moved": lambda one: format_time(one["moved_at"]),
        "by": lambda one: one["moved_by"] or "–",
        "action": lambda one: one["action"],
    }
    found = session.client.alias(name, alias)["history"] if alias else list(session.client.aliases(name))
    empty = f"{name} has no alias; make one with `nextchar models alias {name}@champion VERSION`"
    session.print_list(found, columns, if_empty=empty)


@command_of(app, "alias")
def alias(
    session: Session,
    alias: AliasArgument,
    version: Annotated[int, Argument(metavar="VERSION", help="Version that the alias will point to.")],
    share: Annotated[
        tuple[int, float] | None,
        Option(metavar="VERSION FRACTION", help="Another version, and the fraction of clients that get it."),
    ] = None,
    **options: Unpack[AliasOptions],
) -> None:
    """Create an alias of a model, or move it to another version.

    Example: nextchar models alias nietzsche@champion 4 --max-regression 0.02
    """
    moved = session.client.set_alias(*_name_and_alias(alias), version, share=share, **options)
    shared = moved.get("share")
    other = (
        f", and {moved['model']}@{shared['version']} for {shared['fraction']:.0%} of clients"
        if shared
        else ""
    )
    session.print_result(moved, f"{alias} is {moved['target']}{other}")
    for check in () if session.as_json else moved["checks"]:
        if check["note"]:
            session.print_note(check["note"])


@command_of(app, "rollback")
def rollback(session: Session, alias: AliasArgument) -> None:
    """Move an alias back to its previous version; repeat to go further back.

    Example: nextchar models rollback nietzsche@champion
    """
    moved = session.client.roll_back_alias(*_name_and_alias(alias))
    session.print_result(moved, f"{alias} is {moved['target']}")


@command_of(app, "unalias")
def unalias(session: Session, alias: AliasArgument) -> None:
    """Delete an alias; `models rollback` restores it.

    Example: nextchar models unalias nietzsche@champion
    """
    deleted = session.client.delete_alias(*_name_and_alias(alias))
    session.print_result(deleted, f"deleted {alias}")


@command_of(app, "download")
def download(
    session: Session,
    model: ModelArgument,
    to: Annotated[
        Path | None, Option(metavar="FOLDER", help="Folder to create. Default: the model's name@version.")
    ] = None,
) -> None:
    """Download a model's files: its card, its .keras file, its ONNX graph and others.

    Example: nextchar models download nietzsche --to nietzsche
    """
    found = session.client.model(model)
    folder = to or Path(found["id"])
    folder.mkdir(parents=True, exist_ok=True)
    for file in (_CARD, *found["files"]):
        _download_file(session, found, file, folder)
    session.print_result({**found, "folder": str(folder)}, str(folder))


@command_of(app, "export")
def export(
    session: Session,
    model: ModelArgument,
    to: Annotated[
        Path | None, Option(metavar="FILE", help="Archive to write. Default: name@version.tar.")
    ] = None,
) -> None:
    """Save a model as one tar archive, which `nextchar models import` reads on another service.

    Example: nextchar models export nietzsche
    """
    reference = session.client.model(model)["id"]
    file = to or Path(f"{reference}.tar")
    with _written_whole(file) as archive:
        for piece in session.client.export_model(reference):
            archive.write(piece)
    session.print_result({"model": reference, "file": str(file)}, str(file))


@command
def pack(
    session: Session,
    model: ModelArgument,
    to: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="File to write. Default: name.nextchar.")
    ] = None,
    limit_bytes: Annotated[
        int | None,
        Option(
            "--limit",
            metavar="BYTES",
            min=1,
            help="The largest file: the beginning of the known text is left out to fit.",
        ),
    ] = None,
    tables: Annotated[
        bool, Option("--tables", help="Add the tables of the known text: some times as large, opens at once.")
    ] = False,
    calibration: Annotated[
        str | None,
        Option(help="Score lines by this calibration. Default: of a model of a log, its usual one."),
    ] = None,
    html: Annotated[
        Path | None,
        Option(
            metavar="FILE", help="Write a page with the model in it instead, which opens from a disk, too."
        ),
    ] = None,
) -> None:
    """Save a model as one file, which completes without a server: in a page, or by `nextchar-run`.

    Example: nextchar pack nietzsche -o nietzsche.nextchar
    """
    reference = session.client.model(model)["id"]
    file = html or to or Path(f"{reference.partition('@')[0]}.nextchar")
    pieces = session.client.pack_model(
        reference, limit_bytes=limit_bytes, tables=tables, calibration=calibration
    )
    data = b"".join(pieces)
    with _written_whole(file) as out:
        out.write(offline_page(data).encode() if html else data)
    size = file.stat().st_size
    result: dict[str, Any] = {"model": reference, "file": str(file), "bytes": size}
    line = f"{file}, {format_size(size)}"
    if limit_bytes is not None:
        known, of, bits = cost_of_limit(data)
        result |= {"known_characters": known, "limit_bits_per_character": round(bits, 4)}
        line += f"; knows {known:,} of {of:,} characters, which costs {bits:.3f} bits per character"
    session.print_result(result, line)


_META, _LIMITED, _TEXT_COUNT_AT = 1, 60, 16  # in a packed file: docs/reference/pack.md


def cost_of_limit(data: bytes) -> tuple[int, int, float]:
    """Return how many characters a packed file with a size limit knows, of how many, and what that costs."""
    (count,) = struct.unpack_from("<I", data, 12)
    entries = (struct.unpack_from("<IIQQ", data, 32 + 24 * i) for i in range(count))
    places = {kind: at for kind, _, at, _ in entries}
    (known,) = struct.unpack_from("<I", data, places[_META] + _TEXT_COUNT_AT)
    of, bits = struct.unpack_from("<dd", data, places[_LIMITED])
    return known, int(of), bits


@command_of(app, "import")
def import_(
    session: Session,
    source: Annotated[
        Path,
        Argument(
            metavar="FOLDER|FILE",
            help="A folder that `models download` made, or an archive that `models export` made.",
        ),
    ],
    name: Annotated[
        str | None, Option(help="Name of the imported model. Default: the name in its card.")
    ] = None,
) -> None:
    """Import a model: it becomes the next version of its name. Weights and JSON only; nothing is executed.

    Example: nextchar models import nietzsche@2.tar --name nietzsche
    """
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) if source.is_dir() else source.open("rb") as archive:
        if source.is_dir():
            _pack(source, archive)
        _print_model(session, session.client.import_model(archive, name=name))


def _name_and_alias(reference: str) -> tuple[str, str]:
    name, _, alias = reference.partition("@")
    if not name or not alias:
        raise typer.BadParameter(f"{reference!r} is not an alias such as {name or 'name'}@champion")
    return name, alias


def _print_model(session: Session, model: Model) -> None:
    report = model["report"]
    measured = report.get("validation_bits_per_character")
    fields = [
        ("model", model["id"]),
        ("network", format_network(model)),
        ("parameters", format_integer(model["parameters"])),
        ("vocabulary", f"{len(model['characters'])} characters"),
        ("corpus", model["corpus"] or "–"),
        ("job", model["job"] or "–"),
        ("created", format_time(model["created_at"])),
        ("aliases", ", ".join(model.get("aliases", [])) or None),
        ("result", None if measured is None else result_sentence(model["network"], report)),
        ("experts", experts_sentence(model["network"], report) or None),
        *(("file", f"{name}, {format_size(file['bytes'])}") for name, file in model["files"].items()),
    ]
    session.print_record(model, fields)


def _download_file(session: Session, model: Model, file: str, folder: Path) -> None:
    if file != Path(file).name:
        raise fail(f"the model names a file {file!r}, which is a path; it was not written")
    digest = hashlib.sha256()
    with _written_whole(folder / file) as out:
        for piece in session.client.download(model["id"], file):
            digest.update(piece)
            out.write(piece)
        expected = model["files"].get(file)
        if expected and digest.hexdigest() != expected["sha256"]:
            raise fail(f"{file} arrived damaged: its hash differs; download it again")


@contextmanager
def _written_whole(file: Path) -> Iterator[IO[bytes]]:
    """Give a file to write under a temporary name; rename it only when the block ends without an error."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        with partial.open("wb") as out:
            yield out
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _pack(folder: Path, archive: IO[bytes]) -> None:
    """Write the archive of a model's folder: its card, and of the files that the card names those present."""
    card = folder / _CARD
    try:
        described: Any = json.loads(card.read_bytes())
        names = list(described["files"])
    except (ValueError, KeyError, TypeError):
        raise fail(f"{card} is not a model's card") from None
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in (_CARD, *names):
            file = folder / Path(name).name
            if file.is_file():  # the service names a file that is missing
                tar.add(file.resolve(), arcname=name, filter=_without_owner)
    archive.seek(0)


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
