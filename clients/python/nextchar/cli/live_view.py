"""The live view of a training job: progress at the bottom of the terminal, samples above it.

Without a terminal, plain lines.
"""

import contextlib
import time
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.text import Text

from nextchar.cli.fields import with_options
from nextchar.cli.formatting import format_bits, format_duration, printable
from nextchar.cli.report import experts_sentence
from nextchar.cli.training_progress import (
    JobUpdate,
    TrainingProgress,
    frame,
    job_updates,
    sample_text,
    speed_parts,
    status_sentence,
)
from nextchar.client import Client
from nextchar.errors import NextcharError
from nextchar.types import FINAL_STATUSES, Event, Job, Progress

_PLAIN_LINE_EVERY_S = 5.0
_PLAIN_WIDTH = 100
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_ERASE_LINE_END, _ERASE_BELOW = "\x1b[K", "\x1b[J"


def follow(client: Client, job_id: str, console: Console) -> Job:
    """Show a job until it is final or paused; return its last record. Raises NextcharError."""
    if console.is_terminal and not console.is_dumb_terminal:
        return _follow_in_terminal(client, job_id, console)
    return _follow_in_plain_lines(client, job_id, console)


def outcome(client: Client, job: Job) -> Text:
    """Return lines about a finished job: its model, and held-out bits per character of it and its experts."""
    progress = job["progress"] or Progress()
    measured = progress.get("validation_bits_per_character")  # of the last weights, not of the best
    measured_alone = ""
    with contextlib.suppress(NextcharError):  # the model may have been deleted
        report = client.model(str(job["model"]))["report"]
        measured = report.get("validation_bits_per_character", measured)
        measured_alone = experts_sentence(report)
    line = Text()
    line.append(printable(str(job["model"]), inline=True), style="bold green")
    line.append(f" is trained: {format_bits(measured)} bits per character on held-out text")
    if (epoch := progress.get("epoch")) is not None:
        line.append(f", after {epoch:.1f} epochs")
    if measured_alone:
        line.append(f"\n{measured_alone}", style="dim")
    return line


def _follow_in_terminal(client: Client, job_id: str, console: Console) -> Job:
    progress = TrainingProgress()
    ascii_only = console.options.ascii_only
    with Screen(console) as screen:
        for update in job_updates(client, job_id):
            now = time.monotonic()
            progress.update(update, now)
            if text := _permanent_text(update, progress, width=console.width - 1, ascii_only=ascii_only):
                screen.print_above(text)
            screen.draw(frame(progress, now, width=console.width - 1, ascii_only=ascii_only))
        screen.clear()
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
    parts = [*speed_parts(known), f"training {training_bits}", f"held-out {held_out_bits} bits per character"]
    if (left_s := known.get("seconds_left")) is not None:
        parts.append(f"{format_duration(left_s)} left")
    return " · ".join(parts)


class Screen:
    """The bottom lines of a terminal. A context manager, which hides the cursor meanwhile.

    Each redraw is one write that overwrites lines instead of erasing them first, which avoids flicker. When
    the terminal becomes narrower, the rows into which it wrapped the old lines are overwritten too.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bottom: list[tuple[str, int]] = []  # the lines there now, and their widths in cells

    def __enter__(self) -> Self:
        self._write(_HIDE_CURSOR)
        return self

    def __exit__(self, *_: object) -> None:
        """Keep the last lines and move to the line below them."""
        self._write(("\n" if self._bottom else "") + _SHOW_CURSOR)

    def draw(self, bottom: RenderableType) -> None:
        """Replace the bottom lines."""
        self._redraw([], self._rendered(bottom))

    def print_above(self, text: RenderableType) -> None:
        """Print permanent text above the bottom lines."""
        self._redraw(self._rendered(text), self._bottom)

    def clear(self) -> None:
        """Erase the bottom lines."""
        self._redraw([], [])

    def _redraw(self, above: list[tuple[str, int]], bottom: list[tuple[str, int]]) -> None:
        bottom = bottom[: max(1, self._console.height - 1)]
        lines = [*above, *bottom]
        out = "\r" + (f"\x1b[{up}A" if (up := self._rows_up()) else "")
        out += "\n".join(line + _ERASE_LINE_END for line, _ in lines) + ("\n" if above and not bottom else "")
        # A \n moves down and, on every terminal in its usual mode, to the first column.
        self._write(out + _ERASE_BELOW)
        self._bottom = bottom

    def _rows_up(self) -> int:
        """Return how many rows the cursor, at the end of the last line, is below the first line's row."""
        columns = self._console.width
        rows = sum(max(1, -(-width // columns)) for _, width in self._bottom)
        return max(0, rows - 1)

    def _rendered(self, what: RenderableType) -> list[tuple[str, int]]:
        """Return the lines of a renderable with their control sequences, and their widths in cells."""
        with self._console.capture() as captured:
            # One column stays free: terminals differ in where the cursor is after a full line.
            self._console.print(what, width=max(1, self._console.width - 1), end="")
        lines = captured.get().removesuffix("\n").split("\n")
        return [(line, Text.from_ansi(line).cell_len) for line in lines]

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
