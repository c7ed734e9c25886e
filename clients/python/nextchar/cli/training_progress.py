"""The progress of a training job: its updates as they come, and the lines that show it in a terminal.

Events report what happened, each once; only the job's record, which comes twice per second, has the place in
the queue and the time left.

The live view of a training job: progress at the bottom of the terminal, samples above it.

Without a terminal, plain lines.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nextchar.cli.fields import with_options
from nextchar.cli.formatting import format_bits, format_duration, format_integer, printable, sparkline
from nextchar.cli.report import experts_sentence, result_sentence
from nextchar.client import Client
from nextchar.connection import Outage
from nextchar.errors import NextcharError
from nextchar.types import FINAL_STATUSES, Event, Job, Progress

TICK_S = 0.125
_RECORD_EVERY_TICKS = 4
_PATIENCE_S = 60.0  # for the last record
SAMPLE_LINES = 4
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_MAX_CURVE_RATIO = 1.5  # highest value drawn, in multiples of the lowest


@dataclass(frozen=True)
class JobUpdate:
    """An event, or the job's newest record, or neither when only time has passed."""

    event: Event | None = None
    job: Job | None = None


def job_updates(client: Client, job_id: str) -> Iterator[JobUpdate]:
    """Yield updates until the job is final or paused; the last one is the record with that status.

    All events come before that last record.

    Raises:
        ServerUnreachable: the service was away for longer than the client retries.
        ServerError: the job is not known.
    """
    job = client.job(job_id)
    yield JobUpdate(job=job)
    events: queue.SimpleQueue[Event | NextcharError | None] = queue.SimpleQueue()
    threading.Thread(target=_collect, args=(client, job_id, events), daemon=True).start()
    ticks = 0
    while True:
        try:
            event = events.get(timeout=TICK_S)
        except queue.Empty:
            ticks += 1
            yield JobUpdate()
            if ticks % _RECORD_EVERY_TICKS == 0:
                try:
                    job = client.job(job_id)
                except NextcharError as error:
                    if not error.is_retryable:
                        raise
                    continue  # the collecting thread decides when to give up
                yield JobUpdate(job=job)
                if job["status"] == "paused":
                    return
            continue
        if isinstance(event, NextcharError):
            raise event
        if event is None:  # the job is final and all its events have come
            yield JobUpdate(job=_last_record(client, job_id))
            return
        yield JobUpdate(event=event)


def _last_record(client: Client, job_id: str) -> Job:
    outage = Outage(_PATIENCE_S)
    while True:
        try:
            return client.job(job_id)
        except NextcharError as error:
            time.sleep(outage.delay_s(error))


def _collect(client: Client, job_id: str, events: "queue.SimpleQueue[Event | NextcharError | None]") -> None:
    try:
        for event in client.follow(job_id):
            events.put(event)
    except NextcharError as error:
        events.put(error)
    else:
        events.put(None)


@dataclass
class TrainingProgress:
    """What is known of a running job; `time_s` values are on the caller's clock."""

    job: Job | None = None
    name: str = ""
    status: str = "queued"
    queue_position: int | None = None
    attempt: int = 1
    record: Progress = field(default_factory=Progress)
    record_at_s: float = 0.0
    curve: list[float] = field(default_factory=list)  # training bits per character, one per report
    evaluated_step: int | None = None
    evaluated_bits: float | None = None  # held-out bits per character at that step

    def update(self, update: JobUpdate, time_s: float) -> None:
        """Take over the job's newest record, or the results of an evaluation."""
        if job := update.job:
            self.job, self.name, self.status = job, job["name"], job["status"]
            self.queue_position = job.get("queue_position")
            self.attempt = job.get("attempt") or 1
            record = job["progress"]
            if record and record != self.record:
                self.record, self.record_at_s = record, time_s
                self._extend_curve(record.get("train_bits_per_character"))
        if update.event and update.event["type"] == "metrics":
            metrics = update.event["data"]
            self._extend_curve(metrics.get("train_bits_per_character"))
            measured = metrics.get("validation_bits_per_character")
            if measured is not None:
                self.evaluated_step, self.evaluated_bits = metrics.get("step"), measured

    @property
    def held_out_bits(self) -> float | None:
        """Held-out bits per character of the newest evaluation: events are ahead of the job's record."""
        if self.evaluated_bits is not None:
            return self.evaluated_bits
        return self.record.get("validation_bits_per_character")

    def fraction_done(self, time_s: float) -> float | None:
        """Return the fraction of steps done, extrapolated since the last report; None if unknown."""
        step, steps = self.record.get("step"), self.record.get("steps")
        if step is None or not steps:
            return None
        fraction = step / steps
        left_s = self.record.get("seconds_left")
        if left_s:
            fraction += (1 - fraction) * min(1.0, (time_s - self.record_at_s) / left_s)
        return min(1.0, fraction)

    def seconds_left(self, time_s: float) -> float | None:
        """Return the time left, less the time since the last report; None if unknown."""
        left_s = self.record.get("seconds_left")
        return None if left_s is None else max(0.0, left_s - (time_s - self.record_at_s))

    def _extend_curve(self, value: float | None) -> None:
        if value is not None:
            self.curve.append(value)


def frame(progress: TrainingProgress, time_s: float, *, width: int, ascii_only: bool = False) -> Group:
    """Return the lines to show at the bottom of the terminal, each at most `width` cells wide."""
    if progress.status != "running" or progress.record.get("step") is None:
        spinner = "|/-\\" if ascii_only else _SPINNER
        line = Text(spinner[int(time_s * 8) % len(spinner)] + " ", style="cyan")
        line.append(status_sentence(progress), style="default")
        line.truncate(width)
        return Group(Text(), line)
    lines = (
        _bar_line(progress, time_s, width, ascii_only=ascii_only),
        _join_fitting(speed_parts(progress.record), width),
        _quality_line(progress, width, ascii_only=ascii_only),
    )
    return Group(Text(), *lines)


def _bar_line(progress: TrainingProgress, time_s: float, width: int, *, ascii_only: bool) -> Text:
    fraction = progress.fraction_done(time_s)
    left_s = progress.seconds_left(time_s)
    tail = "" if fraction is None else f"{fraction:4.0%}"
    if phase := progress.record.get("phase"):
        tail += f"  {phase}"
    else:
        tail += f"  {format_duration(left_s)} left" if left_s is not None else "  measuring the speed"
    tail = "  " + tail.lstrip()
    head = Text(printable(progress.name, inline=True), style="bold")
    head.truncate(
        max(3, min(width // 3, width - len(tail) - 10)), overflow="crop" if ascii_only else "ellipsis"
    )
    room = max(4, width - head.cell_len - len(tail) - 2)
    line = Text(no_wrap=True, overflow="crop")
    line.append_text(head)
    line.append("  ")
    line.append_text(_bar(fraction, min(room, 60), time_s, ascii_only=ascii_only))
    line.append(tail)
    line.truncate(width)
    return line


def _bar(fraction: float | None, cells: int, time_s: float, *, ascii_only: bool) -> Text:
    full, half, empty = ("=", "-", " ") if ascii_only else ("━", "╸", "─")
    bar = Text()
    if fraction is None:  # a moving mark while the number of steps is unknown
        place = int(time_s * 12) % cells
        bar.append(empty * place, style="bright_black")
        bar.append(full, style="cyan")
        bar.append(empty * (cells - place - 1), style="bright_black")
        return bar
    halves = round(fraction * cells * 2)
    bar.append(full * (halves // 2) + half * (halves % 2), style="cyan")
    bar.append(empty * (cells - halves // 2 - halves % 2), style="bright_black")
    return bar


def speed_parts(progress: Mapping[str, Any]) -> list[str]:
    """Return how far a job is and how fast: step, epoch, characters per second, as far as they are known."""
    step, steps, epoch = progress.get("step"), progress.get("steps"), progress.get("epoch")
    parts = [f"step {format_integer(step)}" + (f" of {format_integer(steps)}" if steps else "")]
    if epoch is not None:
        parts.append(f"epoch {epoch:.1f}")
    if (speed := progress.get("characters_per_second")) is not None:
        parts.append(f"{format_integer(speed)} characters/s")
    return parts


def _join_fitting(parts: Sequence[str], width: int) -> Text:
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 3 + len(part) <= width:
            line += f" · {part}"
    return Text(line[:width], no_wrap=True, overflow="crop")


def _quality_line(progress: TrainingProgress, width: int, *, ascii_only: bool) -> Text:
    line = Text(no_wrap=True, overflow="crop")
    line.append("network, bits per character  " if width >= 60 else "bits  ")
    line.append("training ")
    line.append(format_bits(progress.record.get("train_bits_per_character")), style="bold")
    line.append("  held-out ")
    line.append(format_bits(progress.held_out_bits), style="bold green")
    room = min(30, width - line.cell_len - 2)
    if room >= 8 and len(progress.curve) >= 2 and not ascii_only:
        line.append("  ")
        line.append(sparkline(progress.curve, room, max_ratio=_MAX_CURVE_RATIO), style="cyan")
    line.truncate(width)
    return line


def status_sentence(progress: TrainingProgress) -> str:
    """Return a sentence that says what a job without progress figures is doing."""
    match progress.status:
        case "queued" if progress.queue_position and progress.queue_position > 1:
            return f"{progress.name} is number {progress.queue_position} in the queue"
        case "queued":
            return f"{progress.name} is waiting for a worker"
        case "running" if progress.attempt > 1:
            return f"{progress.name} continues from its last checkpoint (attempt {progress.attempt})"
        case "running":
            return f"{progress.name} is starting to train"
    return f"{progress.name} is {progress.status}"


def sample_text(
    sample: Mapping[str, Any], progress: TrainingProgress, *, width: int, ascii_only: bool = False
) -> Text:
    """Return a sample event's step, the held-out bits per character at that step, and its first lines."""
    step = sample.get("step")
    head = f"step {format_integer(step)}"
    # The job's record, and so any other figure, may be that of the evaluation before.
    if progress.evaluated_bits is not None and step == progress.evaluated_step:
        head += f" · {format_bits(progress.evaluated_bits)} bits per character"
    text = Text("\n" + head, style="dim")
    lines = [line.rstrip() for line in printable(str(sample.get("text", ""))).expandtabs(4).splitlines()]
    for line in [line for line in lines if line][:SAMPLE_LINES]:
        text.append("\n" + ("| " if ascii_only else "│ "), style="not dim cyan")
        shown = Text(line, style="not dim default")
        shown.truncate(max(4, width - 2), overflow="ellipsis")
        text.append_text(shown)
    return text


_PLAIN_LINE_EVERY_S = 5.0
_PLAIN_WIDTH = 100


def follow(client: Client, job_id: str, console: Console) -> Job:
    """Show a job until it is final or paused; return its last record. Raises NextcharError."""
    if console.is_terminal and not console.is_dumb_terminal:
        return _follow_in_terminal(client, job_id, console)
    return _follow_in_plain_lines(client, job_id, console)


def outcome(client: Client, job: Job) -> Text:
    """Return lines about a finished job: its model, and held-out bits per character of it and its experts."""
    progress = job["progress"] or Progress()
    report: dict[str, Any] = {**progress}  # of the last weights, not of the best
    with contextlib.suppress(NextcharError):  # the model may have been deleted
        report |= client.model(str(job["model"]))["report"]
    measured_alone = experts_sentence(job["network"], report)
    line = Text()
    line.append(printable(str(job["model"]), inline=True), style="bold green")
    line.append(f" is trained: {result_sentence(job['network'], report)}")
    if (epoch := progress.get("epoch")) is not None:
        line.append(f", after {epoch:.1f} epochs")
    if measured_alone:
        line.append(f"\n{measured_alone}", style="dim")
    return line


def _follow_in_terminal(client: Client, job_id: str, console: Console) -> Job:
    progress = TrainingProgress()
    ascii_only = console.options.ascii_only
    with Live(console=console, auto_refresh=False) as live:
        for update in job_updates(client, job_id):
            now = time.monotonic()
            progress.update(update, now)
            if text := _permanent_text(update, progress, width=console.width - 1, ascii_only=ascii_only):
                console.print(text)
            live.update(frame(progress, now, width=console.width - 1, ascii_only=ascii_only), refresh=True)
        live.transient = True  # only an error leaves the last lines
    assert progress.job is not None
    return progress.job


def _follow_in_plain_lines(client: Client, job_id: str, console: Console) -> Job:
    progress = TrainingProgress()
    ascii_only = console.options.ascii_only
    printed_at_s, printed_status, printed_bits = 0.0, "", None
    for update in job_updates(client, job_id):
        now = time.monotonic()
        progress.update(update, now)
        if progress.status != printed_status and progress.status not in FINAL_STATUSES:
            printed_status, printed_at_s = progress.status, now
            console.print(Text(status_sentence(progress)), soft_wrap=True)
        if text := _permanent_text(update, progress, width=_PLAIN_WIDTH, ascii_only=ascii_only):
            console.print(text, soft_wrap=True)
        if update.event and update.event["type"] == "metrics":
            measured = update.event["data"].get("validation_bits_per_character")
            if measured not in (None, printed_bits) or now - printed_at_s >= _PLAIN_LINE_EVERY_S:
                printed_at_s, printed_bits = now, measured or printed_bits
                console.print(Text(_metrics_line(progress, update.event)), soft_wrap=True)
    assert progress.job is not None
    return progress.job


def _permanent_text(
    update: JobUpdate, progress: TrainingProgress, *, width: int, ascii_only: bool
) -> Text | None:
    """Return what an event leaves on the screen: a sample, a message, or nothing."""
    if update.event is None:
        return None
    data = update.event["data"]
    if update.event["type"] == "sample":
        return sample_text(data, progress, width=width, ascii_only=ascii_only)
    if update.event["type"] == "message":
        return Text(printable(with_options(str(data.get("text", "")))), style="yellow")
    return None


def _metrics_line(progress: TrainingProgress, event: Event) -> str:
    metrics = {name: value for name, value in event["data"].items() if value is not None}
    is_later = (progress.record.get("step") or 0) > (metrics.get("step") or 0)  # of a job that has ended
    known: dict[str, Any] = metrics if is_later else {**progress.record, **metrics}
    training_bits = format_bits(known.get("train_bits_per_character"))
    held_out_bits = format_bits(known.get("validation_bits_per_character"))
    # Of the network alone: the mixture is measured at the end.
    bits = f"network: training {training_bits}, held-out {held_out_bits} bits per character"
    parts = [*speed_parts(known), bits]
    if (left_s := known.get("seconds_left")) is not None:
        parts.append(f"{format_duration(left_s)} left")
    return " · ".join(parts)
