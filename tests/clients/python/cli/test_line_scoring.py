"""`nextchar score --model` prints the anomalous lines of files, pipes and endless logs."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_of_many_lines_that_are_not_utf8_the_first_are_reported(run: Run) -> None:
    err = run("score", "--model", "fake", stdin=b"\xff\n" * 50).err
    assert err.count(" is not UTF-8: byte") == 20
    assert "line 20 is not UTF-8: byte 0xff at offset 38; further such lines are only counted\n" in err
    assert "50 lines, 0 flagged, 50 not UTF-8" in err


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


@pytest.mark.parametrize("options", ["", "--json", "--json --all", "--all"])
@pytest.mark.parametrize("lines", [1, 20_000])
def test_a_closed_pipe_ends_scoring_quietly(
    server: FakeServer, tmp_path: Path, options: str, lines: int
) -> None:
    (tmp_path / "log").write_text("ODD LINE OF SOME LENGTH\n" * lines)
    done = in_shell(server, f"score -m fake {tmp_path / 'log'} {options} | head -1")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "pipe" not in done.stderr


def test_a_closed_standard_input_is_an_error(server: FakeServer) -> None:
    done = in_shell(server, "score -m fake <&-")
    assert done.returncode == 2 and "standard input is closed" in done.stderr
