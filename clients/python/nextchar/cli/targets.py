"""`nextchar targets`: where alerts and other events are reported; test messages, and messages that wait."""

from collections.abc import Callable
from typing import Annotated, Unpack

import typer
from typer import Argument, Option

from nextchar.cli.formatting import format_time
from nextchar.cli.session import Session, command_of, fail
from nextchar.options import TargetOptions
from nextchar.types import Delivery, NotificationTarget, TargetKind

app = typer.Typer()

TargetArgument = Annotated[str, Argument(metavar="TARGET", help="Id of a target.")]


@command_of(app)
def list_(session: Session) -> None:
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


@command_of(app, "add")
def add(
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


@command_of(app, "test")
def test(session: Session, target: TargetArgument) -> None:
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


@command_of(app, "deliveries")
def deliveries(
    session: Session,
    target: TargetArgument,
    waiting: Annotated[bool, Option("--waiting", help="List waiting messages instead of dead ones.")] = False,
    replay: Annotated[str | None, Option(metavar="DELIVERY", help="Send this message again now.")] = None,
) -> None:
    """List the messages to a target that were given up, or send one again.

    Example: nextchar targets deliveries target_019ac5f2b303f6a1c2d4e5
    """
    if replay is not None:
        replayed = session.client.replay_delivery(target, replay)
        session.print_result(replayed, f"{replay} is sent again")
        return
    columns: dict[str, Callable[[Delivery], str]] = {
        "delivery": lambda one: one["id"],
        "created": lambda one: format_time(one["created_at"]),
        "attempts": lambda one: str(one["attempts"]),
        "error": lambda one: one["last_error"] or "–",
    }
    found = list(session.client.deliveries(target, status="waiting" if waiting else "dead"))
    session.print_list(found, columns, if_empty="no message " + ("waits" if waiting else "was given up"))


@command_of(app, "rm")
def rm(session: Session, target: TargetArgument) -> None:
    """Delete a target, and the messages that wait for it.

    Example: nextchar targets rm target_019ac5f2b303f6a1c2d4e5
    """
    session.client.delete_notification_target(target)
    deleted = {"id": target, "object": "notification_target", "deleted": True}
    session.print_result(deleted, f"deleted {target}")
