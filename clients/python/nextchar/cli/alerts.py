"""`nextchar alerts`: list, show, acknowledge, suppress, label and export groups of flagged lines.

`nextchar targets`: where alerts and other events are reported; test messages, and messages that wait.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Unpack

import typer
from rich.text import Text
from typer import Argument, Option

from nextchar.cli.fields import date
from nextchar.cli.flagged_lines import ANOMALOUS, rarity
from nextchar.cli.formatting import format_integer, format_time, printable, sparkline
from nextchar.cli.names import ModelArgument
from nextchar.cli.session import Session, command_of, fail
from nextchar.errors import NextcharError
from nextchar.options import AlertOptions, CoveringOptions, TargetOptions
from nextchar.types import Alert, AlertExample, Delivery, NotificationTarget, Suppression, TargetKind

app = typer.Typer()

PreviewOption = Annotated[bool, Option("--preview", help="Only show what it would cover.")]
AlertArgument = Annotated[str, Argument(metavar="ALERT", help="Id of an alert, or a unique prefix of it.")]

_SHORT = 8  # characters of an id that tell an alert from the others, in most cases
_ID = re.compile(r"alert_[0-9a-f]{24}")
_WIDE_CELLS = 100  # of a terminal in which the list of alerts has room for sparklines
_SPARKLINE_CELLS = 16
_MIN_ESTIMATE = 1e-9  # an estimated p-value below this is shown as this
_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@command_of(app)
def list_open(session: Session) -> None:
    """List the open alerts of all models; list, show, acknowledge, suppress, label or export those of one.

    Example: nextchar alerts
    """
    names = dict.fromkeys(model["name"] for model in session.client.models())
    found = [alert for name in names for alert in session.client.alerts(name, state="open")]
    found.sort(key=lambda alert: -alert["last_seen"])
    _print_alerts(session, found, if_empty="no alert is open", has_models=True)


@command_of(app, "list")
def list_(session: Session, model: ModelArgument, **options: Unpack[AlertOptions]) -> None:
    """List the alerts of a model, most recently seen first.

    Example: nextchar alerts list sshd --state open --severity warning
    """
    found = list(session.client.alerts(model, **options))
    empty = f"there is no such alert; `nextchar score --model {model} --alerts` records flagged lines"
    _print_alerts(session, found, if_empty=empty, has_models=False)


@command_of(app, "show")
def show(session: Session, model: ModelArgument, alert: AlertArgument) -> None:
    """Show an alert with its example lines.

    Example: nextchar alerts show sshd 7d3c9a64
    """
    _print_alert(session, session.client.alert(model, _id(session, model, alert)))


@command_of(app, "ack")
def ack(session: Session, model: ModelArgument, alert: AlertArgument) -> None:
    """Acknowledge an alert: mark it as being handled.

    Example: nextchar alerts ack sshd 7d3c9a64
    """
    changed = session.client.acknowledge_alert(model, _id(session, model, alert))
    session.print_result(changed, f"acknowledged {changed['id']}")


@command_of(app, "label")
def label(
    session: Session,
    model: ModelArgument,
    alert: AlertArgument,
    label: Annotated[
        Literal["normal", "incident", "none"],
        Argument(help="normal: score such lines lower from now on. none: withdraw the label."),
    ],
    preview: PreviewOption = False,
    **covering: Unpack[CoveringOptions],
) -> None:
    """Label an alert as normal or as an incident; normal are the lines like that in its title.

    Example: nextchar alerts label sshd 7d3c9a64 normal --preview
    """
    wanted = None if label == "none" else label
    found = _id(session, model, alert)
    if wanted == "normal":
        _print_coverage(session, model, found, covering, is_result=preview)
    if not preview:
        changed = session.client.label_alert(model, found, wanted, **covering)
        session.print_result(changed, f"labeled {found} {label}")
        if wanted and not session.as_json:
            session.print_note(f"undo: nextchar alerts label {model} {found} none")


@command_of(app, "suppress")
def suppress(
    session: Session,
    model: ModelArgument,
    alert: Annotated[str | None, Argument(metavar="ALERT", help="An alert; or give --template.")] = None,
    until: Annotated[
        str | None, Option(metavar="DATE", help="Date of the end, such as 2026-12-31 or 2026-12-31T18:00.")
    ] = None,
    duration: Annotated[
        str | None, Option("--for", metavar="DURATION", help="Duration, such as 30m, 12h, 7d or 2w.")
    ] = None,
    template: Annotated[
        str | None,
        Option(metavar="PATTERN", help="All alerts whose template matches; * stands for any text."),
    ] = None,
    span: Annotated[
        str | None, Option(metavar="PATTERN", help="With --template: pattern of the anomalous word.")
    ] = None,
    preview: PreviewOption = False,
    list_: Annotated[bool, Option("--list", help="List the model's suppressions.")] = False,
    delete: Annotated[
        str | None, Option(metavar="SUPPRESSION", help="End the suppression with this id.")
    ] = None,
    **covering: Unpack[CoveringOptions],
) -> None:
    """Count matching alerts until a date, but do not report them: of an alert those like its title.

    Example: nextchar alerts suppress sshd 7d3c9a64 --for 7d
    """
    client = session.client
    if list_:
        _print_suppressions(session, model)
    elif delete is not None:
        client.delete_suppression(model, delete)
        deleted = {"object": "suppression", "id": delete, "deleted": True}
        session.print_result(deleted, f"deleted {delete}")
    elif (alert is None) == (template is None):
        raise typer.BadParameter("give an alert, or --template")
    else:
        until_s = None if preview else _until(until, duration)
        found = alert and _id(session, model, alert)
        if found:
            _print_coverage(session, model, found, covering, is_result=preview)
        if until_s is None:
            return
        if found:
            made = client.suppress_alert(model, found, until=until_s, **covering)
        else:
            runbook = covering.get("runbook")
            made = client.suppress(model, template=template or "", span=span, until=until_s, runbook=runbook)
        session.print_result(made, f"suppressed until {format_time(made['until'])}: {made['id']}")
        if made["warning"] and not session.as_json:
            session.print_note(made["warning"])


@command_of(app, "export")
def export(
    session: Session,
    model: ModelArgument,
    to: Annotated[
        Path | None, Option(metavar="FILE", help="File to write. Default: MODEL-alerts.json or .csv.")
    ] = None,
    csv: Annotated[bool, Option("--csv", help="As a table of alerts.")] = False,
) -> None:
    """Save all alerts of a model, with acknowledgements, labels and suppressions.

    Example: nextchar alerts export sshd --csv
    """
    kind: Literal["csv", "json"] = "csv" if csv else "json"
    file = to or Path(f"{model}-alerts.{kind}")
    content = session.client.export_alerts(model, kind)  # before the file is opened: the model may be unknown
    file.write_bytes(content)
    session.print_result({"model": model, "file": str(file)}, str(file))


def _print_coverage(
    session: Session, model: str, alert: str, covering: CoveringOptions, *, is_result: bool
) -> None:
    """Show which lines a decision covers and which not: as the result, or before it takes effect."""
    found = session.client.preview_alert(model, alert, **covering)
    if is_result and session.as_json:
        session.print_json(found)
        return
    for what, values in (("covers", found["covered"]), ("stays", found["others"])):
        for one in values:
            shown = printable(one["line"], inline=True)
            times = f"{format_integer(one['count'])} line{'s' if one['count'] > 1 else ''}"
            p = max(one["estimated_p_value"], _MIN_ESTIMATE)
            session.print_note(f"{what} {one['value'] or 'all values'}: {times}, {rarity(p)}: {shown}")
    if found["other_lines"]:
        session.print_note(f"stays: {format_integer(found['other_lines'])} lines with other values")


def _print_alerts(session: Session, found: list[Alert], *, if_empty: str, has_models: bool) -> None:
    has_room = not session.out.is_terminal or session.out.width >= _WIDE_CELLS
    columns: dict[str, Callable[[Alert], str]] = {
        "alert": lambda alert: alert["id"].removeprefix("alert_")[:_SHORT],
        **({"model": lambda alert: alert["model"]} if has_models else {}),
        "severity": lambda alert: alert["severity"],
        "state": lambda alert: alert["label"] or alert["state"],
        "lines": lambda alert: format_integer(alert["count"]),
        **({"over time": lambda a: sparkline(a["counts"], _SPARKLINE_CELLS)} if has_room else {}),
        "last seen": lambda alert: format_time(alert["last_seen"]),
        "template": lambda alert: alert["template"],
    }
    session.print_list(found, columns, if_empty=if_empty)


def _print_alert(session: Session, alert: Alert) -> None:
    suppressed = alert["suppressed_until"]
    fields = [
        ("alert", alert["id"]),
        ("title", alert.get("title")),
        ("template", alert["template"]),
        ("anomalous", alert["span"] or "–"),
        ("severity", f"{alert['severity']}, {_rarity(alert)}"),
        ("state", alert["state"]),
        ("label", alert["label"] or "–"),
        ("lines", format_integer(alert["count"])),
        ("over time", sparkline(alert["counts"], len(alert["counts"]))),
        ("first seen", format_time(alert["first_seen"])),
        ("last seen", format_time(alert["last_seen"])),
        ("sources", ", ".join(alert["sources"]) or None),
        ("suppressed", f"until {format_time(suppressed)}" if suppressed else None),
    ]
    session.print_record(alert, fields)
    for example in () if session.as_json else alert["examples"]:
        session.out.print(_highlighted(example), soft_wrap=True)


def _rarity(alert: Alert) -> str:
    """Return how rare its rarest line is; an estimate where the calibration has too few lines."""
    estimated = alert.get("estimated_p_value", alert["p_value"])  # of an earlier service there is none
    if estimated >= alert["p_value"]:
        return f"{rarity(alert['p_value'])} normal lines"
    times = float(f"{1 / max(estimated, _MIN_ESTIMATE):.0e}")  # no more digits than it deserves
    return f"{rarity(1 / times)} normal lines, estimated"


def _highlighted(example: AlertExample) -> Text:
    # Each character is replaced by one character, so positions stay.
    text = Text(printable(example["line"], inline=True))
    for span in example["spans"]:
        text.stylize(ANOMALOUS, span["start"], span["end"])
    return text


def _print_suppressions(session: Session, model: str) -> None:
    columns: dict[str, Callable[[Suppression], str]] = {
        "suppression": lambda one: one["id"],
        "until": lambda one: format_time(one["until"]) if one["is_active"] else "ended",
        "template": lambda one: one["template"],
        "anomalous": lambda one: one["span"],
        "by": lambda one: one["created_by"] or "–",
    }
    found = list(session.client.suppressions(model))
    session.print_list(found, columns, if_empty="there is no suppression")


def _id(session: Session, model: str, text: str) -> str:
    """Return the id of the alert that `text` begins, with or without `alert_`."""
    if _ID.fullmatch(text):
        return text
    beginning = f"alert_{text.removeprefix('alert_')}"
    found = [alert["id"] for alert in session.client.alerts(model) if alert["id"].startswith(beginning)]
    if len(found) != 1:
        many = f"{len(found)} alerts" if found else "no alert"
        raise NextcharError(
            f"model {model} has {many} whose id begins with {text!r}; `nextchar alerts list {model} --json`"
            " prints whole ids"
        )
    return str(found[0])


def _until(until: str | None, duration: str | None) -> float:
    """Return the end of a suppression in Unix seconds; dates are in the local time zone."""
    if (until is None) == (duration is None):
        raise typer.BadParameter("give --until DATE or --for DURATION")
    if until is not None:
        return date(until)
    match = re.fullmatch(r"(\d{1,6})([mhdw])", duration or "")
    if not match:
        raise typer.BadParameter(f"{duration!r} is not a duration such as 30m, 12h, 7d or 2w")
    return time.time() + int(match[1]) * _UNITS_S[match[2]]


targets = typer.Typer()

TargetArgument = Annotated[str, Argument(metavar="TARGET", help="Id of a target.")]


@command_of(targets)
def list_targets(session: Session) -> None:
    """List where alerts and other events are reported; add, test or delete a target.

    Example: nextchar targets
    """
    columns: dict[str, Callable[[NotificationTarget], str]] = {
        "target": lambda one: one["id"],
        "kind": lambda one: one["kind"],
        "url": lambda one: one["url"],
        "events": lambda one: ", ".join(one["events"]),
        "waiting": lambda one: str(one["waiting"]),
        "given up": lambda one: str(one["dead"]),
        "last success": lambda one: format_time(at) if (at := one["last_success_at"]) else "never",
    }
    empty = "there is no target; add one with `nextchar targets add URL`"
    session.print_list(list(session.client.notification_targets()), columns, if_empty=empty)


@command_of(targets, "add")
def add_target(
    session: Session,
    url: Annotated[str, Argument(metavar="URL", help="URL of the webhook or Alertmanager.")],
    kind: Annotated[TargetKind, Option(help="Kind of target.")] = "webhook",
    **options: Unpack[TargetOptions],
) -> None:
    """Report alerts or other events from now on. Prints the secret that signs the messages, once.

    Example: nextchar targets add https://example.org/hook --event job.succeeded --event job.failed
    """
    made = session.client.add_notification_target(kind, url, **options)
    session.print_result(made, made["id"])
    if made["secret"] and not session.as_json:
        session.print_note(f"the secret, shown this once: {made['secret']}")


@command_of(targets, "test")
def test_target(session: Session, target: TargetArgument) -> None:
    """Send a signed test message to a target and print its response.

    Example: nextchar targets test target_019ac5f2b303f6a1c2d4e5
    """
    result = session.client.test_notification_target(target)
    body = f": {result['answer']}" if result["answer"] else ""
    if session.as_json:
        session.print_json(result)
    elif result["delivered"]:
        session.print_text(f"delivered in {result['seconds']:g} s, status {result['status']}{body}")
    if not result["delivered"]:
        raise fail(f"the test message was not delivered: {result['error']}")


@command_of(targets, "deliveries")
def deliveries(
    session: Session,
    target: TargetArgument,
    waiting: Annotated[bool, Option("--waiting", help="List waiting messages instead of dead ones.")] = False,
) -> None:
    """List the messages to a target that were given up.

    Example: nextchar targets deliveries target_019ac5f2b303f6a1c2d4e5
    """
    columns: dict[str, Callable[[Delivery], str]] = {
        "delivery": lambda one: one["id"],
        "created": lambda one: format_time(one["created_at"]),
        "attempts": lambda one: str(one["attempts"]),
        "error": lambda one: one["last_error"] or "–",
    }
    found = list(session.client.deliveries(target, status="waiting" if waiting else "dead"))
    session.print_list(found, columns, if_empty="no message " + ("waits" if waiting else "was given up"))


@command_of(targets, "rm")
def delete_target(session: Session, target: TargetArgument) -> None:
    """Delete a target, and the messages that wait for it.

    Example: nextchar targets rm target_019ac5f2b303f6a1c2d4e5
    """
    session.client.delete_notification_target(target)
    deleted = {"id": target, "object": "notification_target", "deleted": True}
    session.print_result(deleted, f"deleted {target}")
