"""`nextchar score --model` prints the anomalous lines of files, pipes and endless logs."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from nextchar import connection
from nextchar.cli.line_scoring import Totals
from nextchar.client import Client
from nextchar.connection import run
from nextchar.errors import ServerError
from nextchar.lines import Line, LineBuffer, Lines, read_lines
from tests.clients.python.conftest import Run, in_shell
from tests.clients.python.fake_server import FakeServer
from tests.clients.python.terminal import Terminal, run_in_terminal

LOG = b"all is well\nall is Well\r\nall is w\xffll\nroom 9\n"
_PROGRAM = [sys.executable, "-m", "nextchar"]


def test_flagged_lines_pass_through_a_pipe_as_they_came(run: Run, server: FakeServer) -> None:
    found = run("score", "--model", "fake", stdin=LOG)
    assert (found.status, found.out) == (0, "all is Well\r\nroom 9\n".replace("\r\n", "\n"))
    assert "line 3 is not UTF-8: byte 0xff at offset 33" in found.err
    assert "4 lines, 2 flagged, 1 not UTF-8; fake@2, calibration validation of 1,999 lines" in found.err


def test_exit_statuses_are_those_of_grep(run: Run, tmp_path: Path) -> None:
    assert run("score", "--model", "fake", stdin="odD\n").status == 0
    assert run("score", "--model", "fake", stdin="even\n").status == 1
    assert run("score", "--model", "nobody", stdin="odD\n").status == 2
    assert run("score", "--model", "fake", str(tmp_path / "missing")).status == 2
    assert run("score", "--model", "fake", "--server", "http://127.0.0.1:9", stdin="odD\n").status == 2
    assert run("score", "--model", "fake", "--server", "http://[::1", stdin="odD\n").status == 2
    assert run("score", "--model", "fake", "--api-key", "schlüssel", stdin="odD\n").status == 2


def test_files_are_named_where_there_are_several(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"file {name.upper()}\n")
    files = [str(tmp_path / name) for name in ("a", "b")]
    assert run("score", "-m", "fake", *files).out == f"{files[0]}:file A\n{files[1]}:file B\n"
    assert run("score", "-m", "fake", files[0]).out == "file A\n"


def test_a_file_whose_name_is_not_utf8_is_named(run: Run, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a", "b\udcff")]
    for file in files:
        Path(file).write_text("file A\n")
    found = run("score", "-m", "fake", *files)
    assert found.status == 0
    assert found.out == f"{files[0]}:file A\n{tmp_path}/b\ufffd:file A\n"


def test_json_is_one_record_per_line_and_the_totals_last(run: Run, server: FakeServer) -> None:
    found = run("score", "-m", "fake", "--json", "--expected", "1", stdin=LOG)
    first, second, end = map(json.loads, found.out.splitlines())
    assert (first["line"], first["offset"], first["text"]) == (2, 12, "all is Well\r")
    assert first["spans"] == [{"start": 7, "end": 8, "bits": 13.0, "expected": "?"}]
    assert first["expected"][7] == [{"character": "e", "probability": 0.75}]
    assert second["line"] == 4
    assert (end["object"], end["lines"], end["anomalous"], end["not_utf8"]) == ("score.end", 4, 2, 1)
    assert end["calibration"]["name"] == "validation"
    assert found.err == ""
    everything = run("score", "-m", "fake", "--json", "--all", stdin=LOG).out.splitlines()
    assert [json.loads(line).get("line") for line in everything] == [1, 2, 3, 4, None]


def test_line_numbers_and_offsets_are_those_of_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"ab\n" * 40_000 + b"cD\xff\n")
    record, end = map(
        json.loads, run("score", "-m", "fake", "--json", str(tmp_path / "log")).out.splitlines()
    )
    assert (record["line"], record["offset"], record["not_utf8"]["offset"]) == (40_001, 120_000, 120_002)
    assert end["lines"] == 40_001


def test_options_reach_the_service(run: Run, server: FakeServer) -> None:
    options = "--false-alarms 1e-4 --calibration web-1 --context stream --stream-id web/1"
    assert run("score", "-m", "fake", *options.split(), stdin="a\n").status == 1
    (query,) = server.queries
    assert query == {
        "false_alarms": "0.0001",
        "calibration": "web-1",
        "context": "stream",
        "stream_id": "web/1",
        "only": "anomalous",
        "detail": "none",  # in a pipe the reasons are not needed
        "explain": "false",
        "echo": "true",
        "more": "true",
    }


def test_the_state_of_an_unnamed_stream_is_deleted_at_its_end(run: Run, server: FakeServer) -> None:
    run("score", "-m", "fake", "--context", "stream", stdin="a\n")
    method, path, _, _ = server.requests[-1]
    assert method == "DELETE" and "/v1/models/fake/streams/nextchar-" in path


@pytest.mark.parametrize(
    "arguments",
    [
        ("score",),
        ("score", "fake", "a", "b"),
        ("score", "fake", "--false-alarms", "0.1"),
        ("score", "-m", "fake", "--lines"),
        ("score", "-m", "fake", "--top", "20"),
        ("score", "-m", "fake", "--stream-id", "s"),
        ("score", "-m", "fake", "--expected", "1", "--context", "stream"),
        ("calibrate", "fake", "file", "--corpus", "words"),
        ("calibrate", "fake", "file", "--ingested"),
    ],
    ids=" ".join,
)
def test_options_that_contradict_are_wrong_usage(
    run: Run, server: FakeServer, arguments: tuple[str, ...]
) -> None:
    assert run(*arguments).status == 2
    assert not server.requests


def test_without_a_calibration_the_error_says_how_to_make_one(run: Run, server: FakeServer) -> None:
    server.calibrations = []
    found = run("score", "-m", "fake", stdin="A\n")
    assert (found.status, found.out) == (2, "")
    assert "nextchar calibrate fake FILE" in found.err
    assert "line 1" in run("score", "-m", "fake", "--all", stdin="A\n").out


def test_a_terminal_shows_anomalous_characters_in_color(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"all is Well\r\n" + b"x" * 2000 + b"Y" + b"x" * 2000 + b"\nfine\n")
    arguments = ["-m", "nextchar", "score", "-m", "fake", str(file)]
    environment = {"NEXTCHAR_SERVER": server.url, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    written, status = run_in_terminal(arguments, columns=100, environment=environment)
    assert status == 0
    assert re.search(r"all is \x1b\[1;37;48;2;200;20;40mW\x1b\[0mell\r?\n", written)
    terminal = Terminal(100)
    terminal.feed(written)
    assert terminal.rows[0].split() == ["1", "1", "in", "2,000", "all", "is", "Well"]
    assert "'?' was expected" in terminal.rows[1]
    assert "…" in terminal.rows[2] and "Y" in terminal.rows[2]
    plain, _ = run_in_terminal(arguments, columns=100, environment=environment | {"NO_COLOR": "1"})
    assert "all is ⟦W⟧ell" in plain


def test_lines_are_printed_as_they_come_and_ctrl_c_prints_totals(server: FakeServer) -> None:
    with subprocess.Popen(
        [*_PROGRAM, "score", "-m", "fake"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NEXTCHAR_SERVER": server.url},
        # Tests that run in a shell's background ignore it, and what they start would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdin and process.stdout
        for line in (b"one Two\r\n", b"Three\n"):
            process.stdin.write(b"fine\n" + line)
            process.stdin.flush()
            assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, b"")
    assert err.startswith(b"4 lines, 2 flagged") and err.count(b"\n") == 1


@pytest.mark.parametrize(("options", "lines"), [("", 20_000), ("--json --all", 20_000)])
def test_a_closed_pipe_ends_scoring_quietly(
    server: FakeServer, tmp_path: Path, options: str, lines: int
) -> None:
    (tmp_path / "log").write_text("ODD LINE OF SOME LENGTH\n" * lines)
    done = in_shell(server, f"score -m fake {tmp_path / 'log'} {options} | head -1")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "pipe" not in done.stderr


def test_batches_are_bounded_and_go_from_file_to_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"".join(b"%d\n" % i for i in range(50_000)) + b"last")
    second.write_bytes(b"one\n")
    source = Lines(read_lines([str(first), str(second)]))
    found, largest = [], 0
    while batch := run(source.take(1000)):
        largest = max(largest, sum(len(line.data) for line in batch))
        found += batch
    assert [line.data for line in found[:-2]] == [b"%d" % i for i in range(50_000)]
    assert [(line.file, line.number, line.data) for line in found[-2:]] == [
        (str(first), 50_001, b"last"),
        (str(second), 1, b"one"),
    ]
    assert largest <= 1000


def test_a_line_does_not_wait_for_the_next_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = Lines(read_lines([str(pipe)]))
    with open(os.open(pipe, os.O_RDWR), "wb", buffering=0) as log:  # noqa: PTH123 - does not wait for a reader
        for word in (b"one", b"two"):
            log.write(word + b"\nhal")
            assert run(source.take(1 << 20))[0].data.endswith(word)
            log.write(b"f ")
    assert [line.data for line in run(source.take(1 << 20))] == [b"half "]


def test_lines_before_a_file_that_cannot_be_read_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"one\n")
    source = Lines(read_lines([str(tmp_path / "good"), str(tmp_path / "missing")]))
    found: list[bytes] = []
    with pytest.raises(FileNotFoundError, match="missing"):
        while True:
            found += [line.data for line in run(source.take(1 << 20))]
    assert found == [b"one"]


class _LinesThatAreThere:
    """A source that does not depend on how fast a thread reads."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._buffer = LineBuffer()
        for line in lines:
            self._buffer.append(line)

    async def take(self, max_bytes: int, *, wait_s: float | None = None) -> list[Line]:  # noqa: ARG002
        return self._buffer.pop(max_bytes)

    def close(self) -> None:
        """Nothing is open."""


_OPTIONS = {"only": "anomalous", "detail": "none", "echo": True}


@pytest.fixture
def score_lines(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[int]]:
    monkeypatch.setattr(connection, "FIRST_DELAY_S", 0.01)

    def run(data: bytes, totals: Totals) -> list[int]:
        (tmp_path / "log").write_bytes(data)
        found = []
        with Client(server.url) as client:
            source = _LinesThatAreThere(read_lines([str(tmp_path / "log")]))
            for line, record in client.score_source(
                "fake", source, _OPTIONS, patience_s=totals.patience_s, min_interval_s=0.001
            ):
                totals.add(record)
                if line is not None:
                    found.append(line.number)
        return found

    return run


def new_totals(notes: list[str] | None = None, *, patience_s: float = 5.0) -> Totals:
    return Totals(([] if notes is None else notes).append, patience_s)


def test_lines_scored_before_a_broken_connection_are_not_sent_again(
    server: FakeServer, score_lines: Callable[..., list[int]]
) -> None:
    server.cut_scores_after = [2, 0, None]
    notes: list[str] = []
    totals = new_totals(notes)
    assert score_lines(b"A\nb\nC\nd\nE\nf\n", totals) == [1, 3, 5]
    sent = [body for method, path, _, body in server.requests if path.endswith("/score") and method == "POST"]
    assert sent == [b"A\nb\nC\nd\nE\nf\n", b"d\nE\nf\n", b"d\nE\nf\n"]
    assert (totals.lines, totals.anomalous) == (6, 3)
    assert "3 lines wait" in notes[0] and "is back" in notes[-1]


def test_a_busy_service_is_retried_and_a_refusal_is_final(
    server: FakeServer, score_lines: Callable[..., list[int]]
) -> None:
    server.refusals = [429, 503]
    assert score_lines(b"A\n", new_totals()) == [1]
    server.refusals = [422]
    with pytest.raises(ServerError, match="much to do"):
        score_lines(b"A\n", new_totals())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"action": "examples", "sentence": "6 new kinds, 9 of 200 lines: look."},
            "6 new kinds, 9 of 200 lines: show one of each: nextchar score --model fake FILE --one-of-each;",
        ),
        (
            {"action": "train", "sentence": "Other values, 9 of 200 lines: train again."},
            "Other values, 9 of 200 lines: train again: nextchar train FILE --name fake --seconds 60",
        ),
    ],
)
def test_a_change_of_the_log_is_one_sentence_with_the_command_that_deals_with_it(
    server: FakeServer, run: Run, change: dict[str, Any], sentence: str
) -> None:
    server.end_fields = {"change": {"since": None, **change}}
    notes = run("score", "--model", "fake", "-", stdin="A\nb\n").err.replace("\n", " ")
    assert sentence in " ".join(notes.split())


def test_one_of_each_new_kind_is_printed_in_place_of_flagged_lines(server: FakeServer, run: Run) -> None:
    examples = [
        {"alert_id": "a", "lines": 1200, "line": "fan 1 failed"},
        {"alert_id": "b", "lines": 2, "line": "disk\tlost"},
    ]
    server.end_fields = {
        "change": {
            "since": None,
            "action": "examples",
            "sentence": "2 new kinds: look.",
            "examples": examples,
        }
    }
    found = run("score", "--model", "fake", "--one-of-each", "-", stdin="A\nb\n")
    assert found.out == "1,200 × fan 1 failed\n2 × disk→lost\n"
    assert found.status == 0
    assert run("score", "fake", "--one-of-each", stdin="A\n").status == 2


def test_score_marks_characters_of_high_surprisal(run: Run) -> None:
    shown = run("score", "fake", "-", stdin="one Two\nthree\n").out
    lines = shown.split("\n")
    assert lines[0] == "fake@2: 14 characters, 1.39 bits per character, 20 bits in total"
    assert lines[lines.index("one Two⏎") + 1] == "    █"
    assert "13.0 bits  line 1" in shown


def test_score_of_a_long_text_shows_its_most_anomalous_lines(run: Run) -> None:
    text = "".join(f"line {'X' * (i == 70)}\n" for i in range(100))
    shown = run("score", "fake", "--top", "1", stdin=text).out
    assert "line 71, " in shown
    assert shown.count("⏎") == 1
    assert run("score", "fake", "--all", stdin=text).out.count("⏎") >= 100
