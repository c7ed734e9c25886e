"""`nextchar jobs`: list, show, follow, cancel, pause and resume training jobs."""

from collections.abc import Callable
from typing import Annotated

import typer
from typer import Option

from nextchar.cli import training_progress
from nextchar.cli.formatting import format_bits, format_integer, format_network, format_time, printable
from nextchar.cli.names import JobArgument
from nextchar.cli.session import Session, command_of, fail
from nextchar.cli.training_progress import job_updates
from nextchar.types import Job, Progress

app = typer.Typer()

_USES: dict[str | None, str] = {
    "text": 'complete {} "…"',
    "records": 'suggest {} "…"',
    "log": "score --model {} FILE",
}
"""What is done first with a model, by the kind of its text."""


@command_of(app)
def list_(session: Session) -> None:
    """List training jobs, newest first; show, follow, cancel, pause or resume one.

    Example: nextchar jobs
    """
    columns: dict[str, Callable[[Job], str]] = {
        "id": lambda job: job["id"],
        "name": lambda job: job["name"],
        "status": status_of,
        "network bits/char": lambda job: format_bits(
            (job["progress"] or {}).get("validation_bits_per_character")
        ),
        "created": lambda job: format_time(job["created_at"]),
    }
    empty = "there is no job yet; start one with `nextchar train FILE`"
    session.print_list(list(session.client.jobs()), columns, if_empty=empty)


@command_of(app, "show")
def show(session: Session, job: JobArgument) -> None:
    """Show a job's configuration and progress.

    Example: nextchar jobs show job_0123456789abcdef
    """
    _print_job(session, session.client.job(job))


@command_of(app, "follow")
def follow_job(session: Session, job: JobArgument) -> None:
    """Show a job's progress until it ends. Ctrl-C ends the view; training continues.

    Example: nextchar jobs follow job_0123456789abcdef
    """
    follow(session, job)


@command_of(app, "cancel")
def cancel(
    session: Session,
    job: JobArgument,
    keep_best: Annotated[
        bool, Option("--keep-best", help="Publish the best model so far before the job ends.")
    ] = False,
) -> None:
    """Cancel a job, without a model or with the best one so far.

    Example: nextchar jobs cancel job_0123456789abcdef --keep-best
    """
    _print_request(session, session.client.cancel_job(job, keep_best=keep_best), "end")


@command_of(app, "pause")
def pause(session: Session, job: JobArgument) -> None:
    """Pause a job at a checkpoint.

    Example: nextchar jobs pause job_0123456789abcdef
    """
    _print_request(session, session.client.pause_job(job), "pause")


@command_of(app, "resume")
def resume(session: Session, job: JobArgument) -> None:
    """Queue a paused or failed job again; it continues from its checkpoint.

    Example: nextchar jobs resume job_0123456789abcdef
    """
    _print_request(session, session.client.resume_job(job), "resume")


def follow(session: Session, job_id: str) -> None:
    """Show a job's progress until it ends, then its outcome. Ends with status 1 where there is no model."""
    try:
        if session.as_json:
            job = _print_events(session, job_id)
        else:
            job = training_progress.follow(session.client, job_id, session.out)
    except KeyboardInterrupt:
        session.print_note(f"training continues; follow it again with `nextchar jobs follow {job_id}`")
        raise
    resume_command = f"`nextchar jobs resume {job_id}`"
    match job["status"]:
        case "succeeded" if not session.as_json:
            session.out.print()
            outcome = training_progress.outcome(session.client, job)
            session.out.print(outcome, soft_wrap=not session.out.is_terminal)
            use = _USES.get(job.get("kind"), _USES["text"])
            session.print_note(f"try it: nextchar {use.format(job['model'])}")
        case "succeeded":
            pass
        case "failed" if job["error"]:
            raise fail(
                f"the job failed ({job['error']['code']}): {job['error']['message']};"
                f" retry from its checkpoint with {resume_command}"
            )
        case "paused" if reason := job.get("pause_reason"):
            raise fail(
                f"the job is paused ({reason['code']}): {reason['message']}; retry now with {resume_command}"
            )
        case "paused":
            raise fail(f"the job is paused; continue it with {resume_command}")
        case status if job["model"]:
            session.print_note(f"the job was {status}; its best model so far is {job['model']}")
        case status:
            raise fail(f"the job was {status}; there is no model")


def status_of(job: Job) -> str:
    """Return a job's status, with how far it is while it runs and its place while it is queued."""
    progress = job["progress"] or {}
    step, steps = progress.get("step"), progress.get("steps")
    match job["status"]:
        case "running" if progress.get("waiting_for_storage"):
            return "running, waiting for storage"
        case "running" if step is not None and steps:
            return f"running, {step / steps:.0%}"
        case "queued" if job["queue_position"]:
            return f"queued, number {job['queue_position']}"
    return job["status"]


def _print_events(session: Session, job_id: str) -> Job:
    job = session.client.job(job_id)
    for update in job_updates(session.client, job_id):
        if update.event:
            session.print_json(update.event, lines=True)
        job = update.job or job
    session.print_json(job, lines=True)
    return job


def _print_request(session: Session, job: Job, action: str) -> None:
    """Print a job after a request to change it; a running one does so at its next step."""
    outcome = f"will {action} at its next step" if job["status"] == "running" else f"is {job['status']}"
    session.print_result(job, f"{job['id']} {outcome}")


def _print_job(session: Session, job: Job) -> None:
    progress, budgets = job["progress"] or Progress(), job["training"]["budget"]
    training_bits = format_bits(progress.get("train_bits_per_character"))
    held_out_bits = format_bits(progress.get("validation_bits_per_character"))
    steps = f"{format_integer(progress.get('step'))} of {format_integer(progress.get('steps'))}"
    error, reason = job["error"], job.get("pause_reason")
    fields = [
        ("id", job["id"]),
        ("name", job["name"]),
        ("status", status_of(job)),
        ("corpus", job["corpus"]),
        ("network", format_network(job)),
        ("budget", next((f"{v:g} {k}" for k, v in budgets.items() if v is not None), "–")),
        ("masks", ", ".join(printable(mask, inline=True) for mask in job.get("masks", ())) or "none"),
        ("created", format_time(job["created_at"])),
        ("mixture", "none, the network predicts alone" if job.get("mixture") is False else None),
    ]
    if progress.get("step") is not None:
        fields += [
            ("step", steps),
            ("training", f"{training_bits} bits per character, network alone"),
            ("held-out", f"{held_out_bits} bits per character, network alone"),
        ]
    fields += [
        ("early stopping", progress.get("ended_early")),
        ("early model", early["model"] if (early := job.get("early")) else None),
        ("model", job["model"]),
        ("error", f"{error['code']}: {error['message']}" if error else None),
        ("paused", f"{reason['code']}: {reason['message']}" if reason else None),
        ("waiting", progress.get("waiting_for_storage")),
    ]
    session.print_record(job, fields)
