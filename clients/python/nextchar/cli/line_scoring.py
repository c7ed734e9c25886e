"""`nextchar score --model MODEL [FILE]…`: print the anomalous lines of a log as they come, as grep does."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import typer
from rich.text import Text

from nextchar.cli.flagged_lines import Alphabet, LineView, normalized
from nextchar.cli.formatting import format_time, printable
from nextchar.cli.session import Session, drop_output, fail, fail_for
from nextchar.errors import NextcharError
from nextchar.lines import Line, Lines, read_lines
from nextchar.options import LineOptions
from nextchar.types import Candidate

_MAX_EXPLAINED_CHARACTERS = 50_000  # of a line for which expected characters are requested
_MAX_REPORTED_LINES = 20  # that are not UTF-8, one by one
PATIENCE_S = 300.0
_MIN_INTERVAL_S = 0.05  # between batches, so that lines that trickle in are sent together
_FLAGGED, _NONE_FLAGGED, _ERROR = 0, 1, 2  # exit statuses, as those of grep


@dataclass
class Totals:
    """Counts of the lines scored so far, and the last `score.start` record of the service.

    `notify` takes sentences for the user; `patience_s` is how long lines are sent again in an outage.
    """

    notify: Callable[[str], None]
    patience_s: float
    lines: int = 0
    anomalous: int = 0
    repeated: int = 0  # further lines like flagged ones
    not_utf8: int = 0
    truncated: int = 0
    change: Mapping[str, Any] | None = None  # why more lines are rare than the false-alarm rate explains
    start: Mapping[str, Any] = field(default_factory=dict)
    one_of_each: bool = False  # whether one line of each new kind is printed, in place of flagged lines
    _scored: int = 0  # lines of the present request

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record of `Client.score_source`."""
        match record["object"]:
            case "score.start":
                if self.start and self.start["model"] != record["model"]:
                    self.notify(f"{record['model']} now scores instead of {self.start['model']}")
                self.start, self._scored = record, 0
            case "score.end":
                self._add_lines(record["lines"])
                self.repeated += record.get("repeated", 0)
                self.change = record.get("change")
            case "outage.start":
                count = f"{record['lines']:,} line{'s wait' if record['lines'] != 1 else ' waits'}"
                self.notify(f"{record['error']}; {count}, retrying for {self.patience_s:g} s")
            case "outage.end":
                self.notify(f"the service is back after {record['seconds']:.1f} s")
            case _:
                self._add_lines(record["line"] + record.get("lines", 1) - 1)
                self.anomalous += bool(record.get("anomalous"))
                self.not_utf8 += "not_utf8" in record
                self.truncated += "truncated" in record

    def _add_lines(self, scored: int) -> None:
        self.lines += scored - self._scored
        self._scored = scored


def print_anomalous_lines(
    session: Session,
    model: str,
    files: Sequence[str],
    options: LineOptions,
    *,
    show_all: bool = False,
    one_of_each: bool = False,
    patience_s: float = PATIENCE_S,
) -> None:
    """Score lines as they come and print the flagged ones, or at the end one of each new kind.

    Always raises typer.Exit, with grep's status.
    """
    is_stream = options.get("context") == "stream"
    if options.get("expected") and is_stream:
        raise typer.BadParameter("--expected needs --context line")
    if options.get("stream_id") and not is_stream:
        raise typer.BadParameter("--stream-id needs --context stream")
    totals = Totals(session.print_note, patience_s, one_of_each=one_of_each)
    try:
        _print_lines(session, model, files, options, totals, show_all=show_all)
    except KeyboardInterrupt:
        _print_totals(session, totals)
        raise
    except BrokenPipeError:
        drop_output()
    except NextcharError as error:
        raise fail(session.sentence_of(error), status=_ERROR) from None
    except OSError as error:
        raise fail_for(error, status=_ERROR) from None
    else:
        _print_totals(session, totals)
    raise typer.Exit(_FLAGGED if totals.anomalous else _NONE_FLAGGED)


def _print_lines(
    session: Session,
    model: str,
    files: Sequence[str],
    options: LineOptions,
    totals: Totals,
    *,
    show_all: bool,
) -> None:
    client = session.client
    alphabet = client.model(model)["alphabet"]
    if not show_all and not client.calibrations(model):
        raise NextcharError(
            f"{model} has no calibration, so no line can be called anomalous; make one with"
            f" `nextchar calibrate {model} FILE`, or see all lines with --all"
        )
    source = Lines(read_lines(files))
    view: LineView | None = None
    explain = session.as_json or session.out.is_terminal
    query: dict[str, Any] = {
        **options,
        "detail": "character" if show_all else "line" if explain else "none",
        "only": "all" if show_all else "anomalous",
        "echo": True,
        "explain": explain,
    }
    count = query.pop("expected", 0)  # of characters, which are asked for when a line is flagged
    scored = client.score_source(
        model, source, query, patience_s=totals.patience_s, min_interval_s=_MIN_INTERVAL_S
    )
    with _interruptible(source) as interruption, closing(scored):
        for line, score in scored:
            totals.add(score)
            if line is None:
                continue
            record = _placed(score, line)
            if totals.one_of_each:
                continue
            if count and record.get("anomalous") and record.get("spans"):
                record["expected"] = _expected(session, model, line, count, alphabet)
            _warn(session, line, record, totals)
            if session.as_json:
                if show_all or record.get("anomalous") or "error" in record:
                    session.print_json(record | ({"file": line.file} if len(files) > 1 else {}), lines=True)
                continue
            view = view or LineView(
                session.out, alphabet=alphabet, has_several_files=len(files) > 1, show_all=show_all
            )
            view.show(line, record)
        if interruption.is_set():
            raise KeyboardInterrupt


def _placed(record: Mapping[str, Any], line: Line) -> dict[str, Any]:
    """Return a record with the line's place in its file instead of its place in the request."""
    placed = {**record, "line": line.number, "offset": line.offset}
    if "not_utf8" in record:
        offset = line.offset + record["not_utf8"]["offset"] - record["offset"]
        placed["not_utf8"] = {**record["not_utf8"], "offset": offset}
    return placed


@contextmanager
def _interruptible(source: Lines) -> Iterator[threading.Event]:
    """Make Ctrl-C end reading even while Python cannot raise an exception: in the finalizer of an object.

    Gives an event that is set by Ctrl-C.
    """
    interruption = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interruption  # another handler is set, or the signal is ignored
        return
    report = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        interruption.set()
        source.close()
        signal.default_int_handler(number, frame)

    def report_unless_interrupted(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            report(unraisable)

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = report_unless_interrupted
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = report


def _expected(
    session: Session, model: str, line: Line, count: int, alphabet: Alphabet
) -> list[list[Candidate]] | None:
    """Return the most probable characters at each place of a flagged line; None where they are not known."""
    try:
        text = line.data.decode() if alphabet == "bytes" else normalized(line)
    except UnicodeDecodeError:  # JSON cannot express it
        return None
    text = text.removesuffix("\r")
    if len(text) > _MAX_EXPLAINED_CHARACTERS:
        return None
    try:
        response = session.client.score(model, [text], expected=count)
    except NextcharError as error:
        if getattr(error, "param", None) == "expected":
            raise
        return None  # the line is shown without them
    lines = response["lines"] or []
    return lines[0]["expected"] if lines else None


def _warn(session: Session, line: Line, record: Mapping[str, Any], totals: Totals) -> None:
    """Say what is wrong with a line; of many lines that are not UTF-8, only of the first."""
    if session.as_json:
        return
    where = "line" if line.file == "-" else f"{line.file}, line"
    invalid = record.get("not_utf8")
    if invalid and totals.not_utf8 <= _MAX_REPORTED_LINES:
        more = "; further such lines are only counted" if totals.not_utf8 == _MAX_REPORTED_LINES else ""
        session.print_note(
            f"{where} {line.number:,} is not UTF-8: byte {invalid['byte']} at offset {invalid['offset']:,}"
            f"{more}"
        )
    if record.get("truncated"):
        session.print_note(
            f"{where} {line.number:,} is very long; only its first 50,000 characters were scored"
        )


def _print_totals(session: Session, totals: Totals) -> None:
    try:
        _print_counts(session, totals)
    except BrokenPipeError:
        drop_output()


def _print_counts(session: Session, totals: Totals) -> None:
    start = totals.start
    if session.as_json:
        change = {"change": totals.change} if totals.change else {}
        about = {key: start.get(key) for key in ("model", "calibration", "false_alarms", "threshold")}
        names = ("lines", "anomalous", "repeated", "not_utf8", "truncated")
        counts = {name: getattr(totals, name) for name in names}
        session.print_json({"object": "score.end", **about, **counts, **change}, lines=True)
        return
    sentence = f"{totals.lines:,} line{'s' if totals.lines != 1 else ''}, {totals.anomalous:,} flagged"
    if totals.repeated:
        sentence += f", {totals.repeated:,} more like them"
    if totals.not_utf8:
        sentence += f", {totals.not_utf8:,} not UTF-8"
    if calibration := start.get("calibration"):
        sentence += (
            f"; {start['model']}, calibration {calibration['name']} of {calibration['lines']:,} lines,"
            f" {100 * start['false_alarms']:.4g} % false-alarm rate"
        )
    session.print_note(sentence)
    if totals.change:
        session.print_note(_sentence_of(totals.change, start["model"].partition("@")[0]))
    if totals.one_of_each:
        for kind in (totals.change or {}).get("examples", ()):
            shown = f"{kind['lines']:,} × {printable(kind['line'], inline=True)}"
            session.out.print(Text(shown), soft_wrap=True)


def _sentence_of(change: Mapping[str, Any], model: str) -> str:
    """Return what changed and the command that deals with it."""
    since = f" since {format_time(change['since'])}" if change["since"] else ""
    head, _, advice = change["sentence"].partition(": ")
    train = f"nextchar train FILE --name {model} --seconds 60"
    if change["action"] == "examples":
        shown = f"show one of each: nextchar score --model {model} FILE --one-of-each"
        return f"{head}{since}: {shown}; if they are normal, train again with them: {train}"
    return f"{head}{since}: {advice.removesuffix('.')}: {train}"
