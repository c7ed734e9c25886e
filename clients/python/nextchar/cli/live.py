"""Watching a job train: a bar that moves, numbers that fall, samples that turn into words.

In a terminal the bar stands at the bottom and samples scroll by above it; anywhere else, plain lines.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from nextchar.answers import FINAL_STATUSES, Event, Job, Progress
from nextchar.cli.render import bits, clock, visible, whole
from nextchar.cli.screen import Screen
from nextchar.cli.watch import Update, watch
from nextchar.client import Client
from nextchar.errors import ClientError

SAMPLE_LINES = 4
_PLAIN_EVERY_S = 5.0
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CURVE_TOP = 1.5  # times the lowest value
_BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Picture:
    """All that is known of a job and drawn; `time_s` values are on the caller's clock."""

    name: str = ""
    status: str = "queued"
    queue_position: int | None = None
    attempt: int = 1
    progress: Progress = field(default_factory=Progress)
    progress_at_s: float = 0.0
    curve: list[float] = field(default_factory=list)  # training bits per character, one for each report

    def take_job(self, job: Job, time_s: float) -> None:
        """Take the job's newest record."""
        self.name = job["name"]
        self.status = job["status"]
        self.queue_position = job.get("queue_position")
        self.attempt = job.get("attempt") or 1
        progress = job["progress"]
        if progress and progress != self.progress:
            self.progress, self.progress_at_s = progress, time_s
            self._add_to_curve(progress.get("train_bits_per_character"))

    def take_metrics(self, event: Event) -> None:
        """Take what an evaluation found."""
        self._add_to_curve(event["data"].get("train_bits_per_character"))
        measured = event["data"].get("validation_bits_per_character")
        if measured is not None:  # the record follows within a second; the sample should not wait for it
            self.progress = {**self.progress, "validation_bits_per_character": measured}

    def _add_to_curve(self, value: float | None) -> None:
        if value is not None:
            self.curve.append(value)

    def share_done(self, time_s: float) -> float | None:
        """Return how much of the training is done, 0 to 1, moved on by the time since the last report."""
        step, steps = self.progress.get("step"), self.progress.get("steps")
        if step is None or not steps:
            return None
        share = step / steps
        left_s = self.progress.get("seconds_left")
        if left_s:
            share += (1 - share) * min(1.0, (time_s - self.progress_at_s) / left_s)
        return min(1.0, share)

    def seconds_left(self, time_s: float) -> float | None:
        """Return the time left, less the time since the last report."""
        left_s = self.progress.get("seconds_left")
        return None if left_s is None else max(0.0, left_s - (time_s - self.progress_at_s))


def follow(client: Client, job_id: str, console: Console) -> Job:
    """Show a job until it is final or paused, and return it as it is then. Raises ClientError."""
    if console.is_terminal and not console.is_dumb_terminal:
        return _follow_live(client, job_id, console)
    return _follow_plain(client, job_id, console)


def _follow_live(client: Client, job_id: str, console: Console) -> Job:
    picture = Picture()
    last: Job | None = None
    with Screen(console) as screen:
        for update in watch(client, job_id):
            now = time.monotonic()
            _take(picture, update, now)
            last = update.job or last
            said = _said(update, picture, width=console.width - 1, ascii_only=console.options.ascii_only)
            if said:
                screen.print_above(said)
            screen.draw(frame(picture, now, width=console.width - 1, ascii_only=console.options.ascii_only))
        screen.clear()
    assert last is not None
    return last


def _follow_plain(client: Client, job_id: str, console: Console) -> Job:
    picture = Picture()
    last: Job | None = None
    told_at, told_status, told_bits = 0.0, "", None
    for update in watch(client, job_id):
        now = time.monotonic()
        _take(picture, update, now)
        last = update.job or last
        if picture.status != told_status and picture.status not in FINAL_STATUSES:
            told_status, told_at = picture.status, now
            console.print(_waiting_or_running(picture), soft_wrap=True)
        if said := _said(update, picture, width=100, ascii_only=console.options.ascii_only):
            console.print(said, soft_wrap=True)
        if update.event and update.event["type"] == "metrics":
            measured = update.event["data"].get("validation_bits_per_character")
            if measured not in (None, told_bits) or now - told_at >= _PLAIN_EVERY_S:
                told_at, told_bits = now, measured or told_bits
                console.print(Text(_numbers_in_words(picture, update.event)), soft_wrap=True)
    assert last is not None
    return last


def _take(picture: Picture, update: Update, now: float) -> None:
    if update.job:
        picture.take_job(update.job, now)
    if update.event and update.event["type"] == "metrics":
        picture.take_metrics(update.event)


def frame(picture: Picture, time_s: float, *, width: int, ascii_only: bool = False) -> Group:
    """Return the lines at the bottom of the terminal, each at most `width` cells wide."""
    if picture.status != "running" or picture.progress.get("step") is None:
        turn = "|/-\\" if ascii_only else _SPINNER
        line = Text(turn[int(time_s * 8) % len(turn)] + " ", style="cyan")
        line.append(_waiting_or_running(picture), style="default")
        line.truncate(width)
        return Group(Text(), line)
    lines = (
        _bar_line(picture, time_s, width, ascii_only=ascii_only),
        _fitting(_speed_parts(picture.progress), width),
        _quality_line(picture, width, ascii_only=ascii_only),
    )
    return Group(Text(), *lines)


def _bar_line(picture: Picture, time_s: float, width: int, *, ascii_only: bool) -> Text:
    share = picture.share_done(time_s)
    left_s = picture.seconds_left(time_s)
    tail = ""
    if share is not None:
        tail += f"{share:4.0%}"
    tail += f"  {clock(left_s)} left" if left_s is not None else "  measuring the speed"
    tail = "  " + tail.lstrip()
    head = Text(visible(picture.name, inline=True), style="bold")
    head.truncate(
        max(3, min(width // 3, width - len(tail) - 10)), overflow="crop" if ascii_only else "ellipsis"
    )
    room = max(4, width - head.cell_len - len(tail) - 2)
    line = Text(no_wrap=True, overflow="crop")
    line.append_text(head)
    line.append("  ")
    line.append_text(_bar(share, min(room, 60), time_s, ascii_only=ascii_only))
    line.append(tail)
    line.truncate(width)
    return line


def _bar(share: float | None, cells: int, time_s: float, *, ascii_only: bool) -> Text:
    full, half, empty = ("=", "-", " ") if ascii_only else ("━", "╸", "─")
    bar = Text()
    if share is None:  # something moves while the length is not known
        place = int(time_s * 12) % cells
        bar.append(empty * place, style="bright_black")
        bar.append(full, style="cyan")
        bar.append(empty * (cells - place - 1), style="bright_black")
        return bar
    halves = round(share * cells * 2)
    bar.append(full * (halves // 2) + half * (halves % 2), style="cyan")
    bar.append(empty * (cells - halves // 2 - halves % 2), style="bright_black")
    return bar


def _speed_parts(progress: Mapping[str, Any]) -> list[str]:
    step, steps, epoch = progress.get("step"), progress.get("steps"), progress.get("epoch")
    parts = [f"step {whole(step)}" + (f" of {whole(steps)}" if steps else "")]
    if epoch is not None:
        parts.append(f"epoch {epoch:.1f}")
    if (speed := progress.get("characters_per_second")) is not None:
        parts.append(f"{whole(speed)} characters/s")
    return parts


def _fitting(parts: Sequence[str], width: int) -> Text:
    """Return as many of the parts as fit on a line."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 3 + len(part) <= width:
            line += f" · {part}"
    return Text(line[:width], no_wrap=True, overflow="crop")


def _quality_line(picture: Picture, width: int, *, ascii_only: bool) -> Text:
    progress = picture.progress
    line = Text(no_wrap=True, overflow="crop")
    line.append("bits per character  " if width >= 56 else "bits  ")
    line.append("train ")
    line.append(bits(progress.get("train_bits_per_character")), style="bold")
    line.append("  validation " if width >= 40 else "  val. ")
    line.append(bits(progress.get("validation_bits_per_character")), style="bold green")
    room = min(30, width - line.cell_len - 2)
    if room >= 8 and len(picture.curve) >= 2 and not ascii_only:
        line.append("  ")
        line.append(sparkline(picture.curve, room), style="cyan")
    line.truncate(width)
    return line


def sparkline(values: Sequence[float], cells: int) -> str:
    """Return a curve as a row of bars, the last value at its right end; long ones are averaged.

    The height of an untrained network's first values is cut, or the rest would be a flat line.

    >>> sparkline([9.0, 1.5, 1.2, 1.0], 10)
    '██▄▁'
    """
    if len(values) > cells:
        edges = [round(i * len(values) / cells) for i in range(cells + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), min(max(values), _CURVE_TOP * min(values))
    span = (high - low) or 1.0
    return "".join(_BARS[round((min(v, high) - low) / span * (len(_BARS) - 1))] for v in values)


def _waiting_or_running(picture: Picture) -> str:
    match picture.status:
        case "queued" if picture.queue_position and picture.queue_position > 1:
            return f"{picture.name} waits: number {picture.queue_position} in the queue"
        case "queued":
            return f"{picture.name} waits for a worker"
        case "running" if picture.attempt > 1:
            return f"{picture.name} goes on from its last checkpoint (attempt {picture.attempt})"
        case "running":
            return f"{picture.name} starts to train"
    return f"{picture.name} is {picture.status}"


def _said(update: Update, picture: Picture, *, width: int, ascii_only: bool) -> Text | None:
    """Return what stays on the screen of an event: a sample, a message, or nothing."""
    if update.event is None:
        return None
    data = update.event["data"]
    if update.event["type"] == "sample":
        return sample_text(data, picture.progress, width=width, ascii_only=ascii_only)
    if update.event["type"] == "message":
        return Text(visible(str(data.get("text", ""))), style="yellow")
    return None


def sample_text(
    data: Mapping[str, object], progress: Progress, *, width: int, ascii_only: bool = False
) -> Text:
    """Return a sample as it is printed: where training stood, then its first lines."""
    head = f"step {whole(_number(data.get('step')))}"
    measured = progress.get("validation_bits_per_character")
    if measured is not None:
        head += f" · {bits(measured)} bits per character"
    said = Text("\n" + head, style="dim")
    lines = [line.rstrip() for line in visible(str(data.get("text", ""))).expandtabs(4).splitlines()]
    for line in [line for line in lines if line][:SAMPLE_LINES]:
        said.append("\n" + ("| " if ascii_only else "│ "), style="not dim cyan")
        cut = Text(line, style="not dim default")
        cut.truncate(max(4, width - 2), overflow="ellipsis")
        said.append_text(cut)
    return said


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _numbers_in_words(picture: Picture, event: Event) -> str:
    known: dict[str, Any] = {**picture.progress, **{k: v for k, v in event["data"].items() if v is not None}}
    parts = _speed_parts(known)
    parts.append(f"train {bits(known.get('train_bits_per_character'))}")
    parts.append(f"validation {bits(known.get('validation_bits_per_character'))} bits per character")
    if (left_s := known.get("seconds_left")) is not None:
        parts.append(f"{clock(left_s)} left")
    return " · ".join(parts)


def outcome(client: Client, job: Job) -> Text:
    """Return one line that says what a finished job has made, with the figure of the model's best weights."""
    progress = job["progress"] or Progress()
    measured = progress.get("validation_bits_per_character")  # of the last weights
    with contextlib.suppress(ClientError):  # it may be deleted already
        measured = client.model(str(job["model"]))["report"].get("validation_bits_per_character", measured)
    line = Text()
    line.append(visible(str(job["model"]), inline=True), style="bold green")
    line.append(f" is trained: {bits(measured)} bits per character on held-out text")
    if (epoch := progress.get("epoch")) is not None:
        line.append(f", after {epoch:.1f} epochs")
    return line
