"""The view of a training job: the lines at the bottom of the terminal, and what stays above them."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from nextchar import Client
from nextchar.cli import training_progress
from nextchar.cli import training_progress as live_view
from nextchar.cli.training_progress import TrainingProgress
from nextchar.types import Progress
from tests.clients.python.fake_server import FakeServer, FakeTraining
from tests.clients.python.terminal import Terminal, run_in_terminal

_PROGRESS = Progress(
    step=812,
    steps=2400,
    epoch=1.7,
    characters_per_second=61200,
    seconds_left=66.0,
    train_bits_per_character=2.11,
    validation_bits_per_character=2.19,
)


def _lines(
    progress: TrainingProgress, width: int, *, time_s: float = 0.0, ascii_only: bool = False
) -> list[str]:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    with console.capture() as captured:
        console.print(training_progress.frame(progress, time_s, width=width, ascii_only=ascii_only))
    return captured.get().rstrip("\n").split("\n")


def test_the_frame_shows_all_figures() -> None:
    shown = TrainingProgress(name="nietzsche", status="running", record=_PROGRESS, curve=[3.0, 2.5, 2.11])
    text = "\n".join(_lines(shown, 99))
    for part in ("nietzsche", "34%", "1:06 left", "step 812 of 2,400", "epoch 1.7", "61,200 characters/s"):
        assert part in text
    assert "network, bits per character  training 2.11  held-out 2.19" in text
    assert "█▄▁" in text


@pytest.mark.parametrize("progress", [_PROGRESS, Progress(step=0), Progress()])
@pytest.mark.parametrize("width", [10, 24, 39, 59, 79, 199])
def test_no_line_is_wider_than_the_terminal(width: int, progress: Progress) -> None:
    shown = TrainingProgress(name="n" * 64, status="running", record=progress, curve=[3.0] * 200)
    assert max(map(cell_len, _lines(shown, width))) <= width


def test_ascii_terminals_get_ascii() -> None:
    shown = TrainingProgress(name="n", status="running", record=_PROGRESS, curve=[3.0, 2.0])
    assert "\n".join(_lines(shown, 60, ascii_only=True)).replace("·", "").isascii()


def test_samples_are_cut_and_cannot_control_the_terminal() -> None:
    text = "\x1b[2Jfirst\n\n" + "long " * 50 + "\n3\n4\n5\n6"
    shown = TrainingProgress(evaluated_step=7, evaluated_bits=2.19)
    lines = training_progress.sample_text({"step": 7, "text": text}, shown, width=40).plain.split("\n")
    assert lines[:3] == ["", "step 7 · 2.19 bits per character", "│ ␛[2Jfirst"]
    assert len(lines) == 2 + training_progress.SAMPLE_LINES
    assert max(map(cell_len, lines)) <= 40


def _follow_plainly(server: FakeServer) -> tuple[str, str]:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with Client(server.url) as client, console.capture() as captured:
        job = live_view.follow(client, "job_1", console)
    return captured.get(), job["status"]


def test_without_a_terminal_plain_lines_report_every_evaluation(server: FakeServer) -> None:
    server.training = FakeTraining(seconds=0.4, queued_s=0.2, evaluations=3)
    shown, status = _follow_plainly(server)
    assert status == "succeeded"
    assert "\x1b" not in shown
    assert "number 2 in the queue" in shown
    assert shown.count("held-out") == shown.count("│ ") == 3
    assert "the corpus is cut into 16 rows" in shown


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_following_ends_however_the_job_ends(server: FakeServer, status: str) -> None:
    server.training = FakeTraining(seconds=0.1, ends_as=status)
    assert _follow_plainly(server)[1] == status


@pytest.mark.parametrize(("columns", "no_color"), [(100, ""), (60, ""), (60, "1")])
def test_a_terminal_shows_the_bar_and_keeps_the_samples(
    server: FakeServer, columns: int, no_color: str
) -> None:
    server.training = FakeTraining(seconds=2.5, evaluations=3)
    environment = {
        "NEXTCHAR_SERVER": server.url,
        "TERM": "xterm-256color",
        "NO_COLOR": no_color,
        "COLUMNS": "",
    }
    arguments = ["-m", "nextchar", "train", "corpus_1", "--name", "fake"]
    written, status = run_in_terminal(arguments, columns=columns, environment=environment)
    terminal = Terminal(columns)
    terminal.feed(written)
    assert status == 0
    assert ("\x1b[36m" in written) is not bool(no_color)
    assert "characters/s" in written
    assert [row for row in terminal.rows if row.startswith("step")] == [
        "step 800 · 4.90 bits per character",
        "step 1,600 · 2.80 bits per character",
        "step 2,400 · 2.10 bits per character",
    ]
    assert not [row for row in terminal.rows if "characters/s" in row or "━" in row]  # the bar has gone
    assert "fake@1 is trained" in "\n".join(terminal.rows[-5:])
    assert not terminal.cursor_is_hidden
