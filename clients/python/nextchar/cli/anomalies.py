"""The commands about odd lines: `nextchar score --model M [FILE]…`, `calibrate` and `evaluate`."""

import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.text import Text

from nextchar.answers import Candidate
from nextchar.cli import evaluation, roc
from nextchar.cli.batch_scoring import Totals, score_all
from nextchar.cli.flagged import Alphabet, View, normalized, rarity
from nextchar.cli.lines import Batches, Line
from nextchar.cli.render import moment, print_fields, print_table, visible, whole
from nextchar.cli.session import Session, command, drop_output, fail
from nextchar.errors import ClientError

_LONGEST_EXPLAINED = 50_000  # characters of a line for which the service tells expected characters
_FLAGGED, _NONE_FLAGGED, _TROUBLE = 0, 1, 2  # exit statuses, as grep's


class Context(StrEnum):
    """What the model has read before a line."""

    LINE = "line"
    STREAM = "stream"


class Split(StrEnum):
    """Which lines are judged."""

    AUTO = "auto"
    NONE = "none"
    CHRONOLOGICAL = "chronological"
    RANDOM = "random"


@dataclass(frozen=True)
class Watch:
    """How lines are scored and shown."""

    everything: bool = False
    false_alarms: float | None = None
    calibration: str | None = None
    context: Context = Context.LINE
    stream_id: str | None = None
    adapt: bool = False
    expected: int = 0
    patience_s: float = 300.0


# Lines as they come


def watch(session: Session, model: str, files: Sequence[str], how: Watch) -> None:
    """Score lines as they come and show the flagged ones. Always ends by an exit status: as grep's."""
    if how.expected and how.context is Context.STREAM:
        raise typer.BadParameter("--expected needs --context line")
    if (how.stream_id or how.adapt) and how.context is Context.LINE:
        raise typer.BadParameter("--stream-id and --adapt need --context stream")
    with _trouble_is_2():
        totals = Totals()
        try:
            _watch(session, model, files, how, totals)
        except KeyboardInterrupt:
            with _unless_nobody_reads():
                _sum_up(session, totals)
            raise
        except BrokenPipeError:
            drop_output()
        else:
            with _unless_nobody_reads():
                _sum_up(session, totals)
    raise typer.Exit(_FLAGGED if totals.anomalous else _NONE_FLAGGED)


@contextmanager
def _unless_nobody_reads() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        drop_output()


def _watch(session: Session, model: str, files: Sequence[str], how: Watch, totals: Totals) -> None:
    client = session.client
    alphabet = client.model(model)["alphabet"]
    if not how.everything and not client.calibrations(model):
        raise ClientError(
            f"{model} has no calibration, so no line can be called odd; make one with"
            f" `nextchar calibrate {model} FILE`, or see all lines with --all"
        )
    batches = Batches(files)
    with _ending_by_ctrl_c(batches), _stream_id(session, model, how) as stream_id:
        options = _options(how, stream_id, explain=session.as_json or session.out.is_terminal)
        scored = score_all(
            client, model, batches, options, totals, say=session.say, patience_s=how.patience_s
        )
        view: View | None = None
        for line, record in scored:
            if how.expected and record.get("anomalous") and record.get("spans"):
                record["expected"] = _expected(session, model, line, how.expected, alphabet)
            _warn(session, line, record)
            if session.as_json:
                _print_record(session, line, record, how, several=len(files) > 1)
                continue
            view = view or View(
                session.out, alphabet=alphabet, several=len(files) > 1, everything=how.everything
            )
            view.show(line, record)
            view.flush()


@contextmanager
def _ending_by_ctrl_c(batches: Batches) -> Iterator[None]:
    """Make Ctrl-C end the reading even where Python cannot raise it: while an object is being finalized."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # it is somebody else's to handle, or to be ignored
        return
    say = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        batches.interrupt()
        signal.default_int_handler(number, frame)

    def say_unless_interrupted(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            say(unraisable)

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = say_unless_interrupted
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = say


def _options(how: Watch, stream_id: str | None, *, explain: bool) -> dict[str, str | float | bool]:
    options: dict[str, str | float | bool | None] = {
        "detail": "character" if how.everything else "line" if explain else "none",
        "only": "all" if how.everything else "anomalous",
        "echo": True,
        "explain": explain,
        "false_alarms": how.false_alarms,
        "calibration": how.calibration,
        "context": how.context.value,
        "stream_id": stream_id,
        "adapt": how.adapt or None,
    }
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _stream_id(session: Session, model: str, how: Watch) -> Iterator[str | None]:
    """Give the name of the stream: the one asked for, or a new one that is forgotten at the end."""
    if how.context is Context.LINE or how.stream_id:
        yield how.stream_id
        return
    stream_id = f"nextchar-{uuid.uuid4().hex}"
    try:
        yield stream_id
    finally:
        with suppress(ClientError):  # it is forgotten in a day anyway
            session.client.forget_stream(model, stream_id)


def _expected(
    session: Session, model: str, line: Line, count: int, alphabet: Alphabet
) -> list[list[Candidate]] | None:
    """Ask what was likeliest at each character of a flagged line; only these are worth the time it takes."""
    try:
        text = line.data.decode() if alphabet == "bytes" else normalized(line)
    except UnicodeDecodeError:  # JSON cannot say it
        return None
    text = text.removesuffix("\r")
    if len(text) > _LONGEST_EXPLAINED:
        return None
    try:
        answer = session.client.score(model, [text], expected=count)
    except ClientError:  # the line is worth showing without
        return None
    lines = answer["lines"] or []
    return lines[0]["expected"] if lines else None


def _print_record(
    session: Session, line: Line, record: Mapping[str, Any], how: Watch, *, several: bool
) -> None:
    if how.everything or record.get("anomalous") or "error" in record:
        session.json({**record, "file": line.file} if several else record, lines=True)


def _warn(session: Session, line: Line, record: Mapping[str, Any]) -> None:
    if session.as_json:
        return
    where = "line" if line.file == "-" else f"{line.file}, line"
    if wrong := record.get("not_utf8"):
        session.say(
            f"{where} {line.number:,} is not UTF-8: byte {wrong['byte']} at offset {wrong['offset']:,}"
        )
    if record.get("truncated"):
        session.say(f"{where} {line.number:,} is very long; its first 50,000 characters were scored")


def _sum_up(session: Session, totals: Totals) -> None:
    start = totals.start
    if session.as_json:
        told = {"object": "score.end", "model": start.get("model"), "calibration": start.get("calibration")}
        told |= {"false_alarms": start.get("false_alarms"), "threshold": start.get("threshold")}
        told |= {"lines": totals.lines, "anomalous": totals.anomalous}
        session.json({**told, "not_utf8": totals.not_utf8, "truncated": totals.truncated}, lines=True)
        return
    counts = f"{totals.lines:,} line{'s' if totals.lines != 1 else ''}, {totals.anomalous:,} flagged"
    if totals.not_utf8:
        counts += f", {totals.not_utf8:,} not UTF-8"
    if known := start.get("calibration"):
        counts += (
            f"; {start['model']}, calibration {known['name']} of {known['lines']:,} lines,"
            f" {100 * start['false_alarms']:.4g} % false alarms"
        )
    session.say(counts)


@contextmanager
def _trouble_is_2() -> Iterator[None]:
    """End with status 2 where other commands end with 1, which here means that no line was flagged."""
    try:
        yield
    except ClientError as error:
        raise fail(str(error), status=_TROUBLE) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise fail(f"{where}{error.strerror or error}", status=_TROUBLE) from None


# What is normal


@command
def calibrate(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name, or name@version.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Normal lines; - or left out: standard input.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Such as a host's. Default: default, used where none is named.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Take the lines of this corpus.")] = None,
    buckets: Annotated[
        int | None, typer.Option(help="Compare lines of like length only, in so many buckets.")
    ] = None,
    false_alarms: Annotated[
        float | None, typer.Option(help="Refuse unless there are enough lines for this rate.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the model's calibrations.")] = False,
    delete: Annotated[str | None, typer.Option(metavar="NAME", help="Delete one.")] = None,
) -> None:
    """Tell a model what normal lines look like, so that it can say how rare a line is."""
    client = session.client
    if list_:
        found = client.calibrations(model)
        if session.as_json:
            session.json({"object": "list", "data": found})
            return
        rows = [
            (c["name"], whole(c["lines"]), _smallest(c), c["source"], moment(c["created_at"])) for c in found
        ]
        print_table(session.out, ("name", "lines", "rarest", "from", "made"), rows)
        if not rows:
            session.say(f"there is no calibration yet; make one with `nextchar calibrate {model} FILE`")
        return
    if delete is not None:
        client.delete_calibration(model, delete)
        if session.as_json:
            session.json({"object": "calibration", "name": delete, "deleted": True})
        else:
            session.out.print(Text(visible(f"deleted {delete}")), soft_wrap=True)
        return
    options = {"name": name, "corpus": corpus, "buckets": buckets, "false_alarms": false_alarms}
    body: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if corpus is None:
        body["lines"] = _text_lines(file)
    elif file is not None:
        raise typer.BadParameter("give a file or --corpus, not both")
    made = client.calibrate(model, **body)
    if session.as_json:
        session.json(made)
        return
    fields = [
        ("name", made["name"]),
        ("lines", whole(made["lines"])),
        ("rarest", _smallest(made)),
        ("from", made["source"]),
    ]
    if len(made["buckets"]) > 1:
        longest = (
            f"up to {b['longest']}" if b["longest"] is not None else "the rest" for b in made["buckets"]
        )
        counts = (whole(b["lines"]) for b in made["buckets"])
        fields.append(("buckets", ", ".join(f"{a}: {b} lines" for a, b in zip(longest, counts, strict=True))))
    print_fields(session.out, fields)


def _smallest(calibration: Mapping[str, Any]) -> str:
    """Say how rare a line it can call."""
    beyond = ", rarer by a fitted tail" if calibration["has_tail"] else ""
    return f"{rarity(calibration['smallest_p_value'])}{beyond}"


def _text_lines(file: Path | None) -> list[str]:
    raw = sys.stdin.buffer.read() if file is None or str(file) == "-" else file.read_bytes()
    lines = raw.decode(errors="replace").removesuffix("\n").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    if lines == [""]:
        raise ClientError("there is no line to calibrate with; the text is empty")
    return lines


# How well odd lines are found


@command
def evaluate(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name, or name@version.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="LABEL TAB TEXT, or LABEL TAB KIND TAB TEXT, a line each.")
    ],
    normal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL", help="A label of normal lines; may be given again. Default: 0, -, normal, ok …"
        ),
    ] = None,
    kind: Annotated[
        bool | None,
        typer.Option("--kind/--no-kind", help="Whether there is a column of kinds. Default: found out."),
    ] = None,
    split: Annotated[
        Split | None, typer.Option(help="Which lines are judged, and which are learned from. Default: auto.")
    ] = None,
    train_fraction: Annotated[float | None, typer.Option(help="Share of the lines to learn from.")] = None,
    false_alarms: Annotated[float | None, typer.Option(help="The rate of the threshold to judge.")] = None,
    calibration: Annotated[str | None, typer.Option(help="The calibration to judge with.")] = None,
    worst: Annotated[int, typer.Option(help="So many misses and false alarms are shown.")] = 3,
    baselines: Annotated[bool, typer.Option(help="Judge simple scores too.")] = True,
    roc_file: Annotated[
        Path | None,
        typer.Option("--roc", metavar="FILE.svg", help="Draw the ROC curves.", show_default=False),
    ] = None,
) -> None:
    """Judge a model by labelled lines, beside simple scores of the same lines."""
    raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        labelled = evaluation.read_labelled(raw.decode(errors="replace"), normal=normal or (), has_kinds=kind)
    except evaluation.NotATable as error:
        raise fail(f"{file}: {error}") from None
    given = {
        "split": split and split.value,
        "train_fraction": train_fraction,
        "false_alarms": false_alarms,
        "calibration": calibration,
    }
    options = {key: value for key, value in given.items() if value is not None}
    alphabet = session.client.model(model)["alphabet"]
    if not session.as_json and session.err.is_terminal:
        session.say(f"judging {len(labelled.lines):,} lines …")
    told = session.client.evaluate(
        model, labelled.lines, labelled.anomalous, worst=worst, baselines=baselines, **options
    )
    if session.as_json:
        session.json(told)
    else:
        evaluation.show(session.out, told, labelled, alphabet=alphabet)
    if roc_file is not None:
        simple = sorted(told["baselines"].items(), key=lambda item: -item[1]["auroc"])
        curves = {told["model"]: told["model_score"], **dict(simple)}
        title = f"{told['model']} on {file.name}, {told['lines']:,} lines, {told['anomalous']:,} anomalous"
        picture = roc.svg(
            title,
            {evaluation.name_of(name): (found["auroc"], found["roc"]) for name, found in curves.items()},
        )
        roc_file.write_text(picture, encoding="utf-8")
        if not session.as_json:
            session.say(f"the curves are in {roc_file}")
