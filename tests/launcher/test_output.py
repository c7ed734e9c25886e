import json
import sys

import pytest

from nextchar.launcher.processes import Output, WarningFilter, is_warning

AT = "2026-11-26T17:40:03.123Z"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{AT} WARNING nextchar.api [req=4f2a] Redis does not respond", True),
        (f"{AT} ERROR nextchar.worker it failed", True),
        (f"{AT} CRITICAL nextchar.process the process ends", True),
        (f"{AT} INFO uvicorn.error Application startup complete.", False),
        (f"{AT} INFO nextchar.api the word ERROR in a message", False),
        (json.dumps({"time": AT, "level": "WARNING", "logger": "x", "message": "y"}), True),
        (json.dumps({"time": AT, "level": "INFO", "logger": "x", "message": "ERROR"}), False),
        ("12:M 26 Nov 2026 17:59:55.437 # WARNING: the new maxmemory value", True),
        ("12:M 26 Nov 2026 17:59:55.437 # Can't save in background: fork: no memory", True),
        ("12:M 26 Nov 2026 17:59:52.569 # WARNING Memory overcommit must be enabled!", False),
        ("12:M 26 Nov 2026 17:59:52.614 * Ready to accept connections unix", False),
        ("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR", False),
        ("WARNING something a library prints", True),
        ("Traceback (most recent call last):", True),
        ("nextchar: NEXTCHAR_PORT='x': not a number", True),
        ("I0000 00:00:1.2 cpu_feature_guard.cc:210] to use", False),
        ('{"half', False),
    ],
)
def test_warnings_and_errors_are_selected_by_level(line: str, expected: bool) -> None:
    assert is_warning(line) is expected


def test_a_traceback_belongs_to_its_line() -> None:
    chosen = WarningFilter()
    first = [f"{AT} INFO a b", "    not this", f"{AT} ERROR a b", "    Traceback (most recent call last):"]
    assert list(chosen.pick(first)) == first[2:]
    second = ["    OSError: gone", f"{AT} INFO a b", "    not this"]
    assert list(chosen.pick(second)) == second[:1]


def test_text_names_the_source_and_json_has_an_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    of_part = json.dumps({"time": AT, "level": "WARNING", "logger": "nextchar.api", "message": "y"})
    Output("text").say("ready")
    Output("text").repeat(f"{AT} ERROR nextchar.api x", source="API")
    Output("json").say("the worker ended", level="WARNING")
    Output("json").repeat(of_part, source="API")
    Output("json").repeat("a library's\x1b[2J words", source="worker")
    first, second, *objects = capsys.readouterr().err.splitlines()
    assert (first, second) == ("nextchar: ready", f"API: {AT} ERROR nextchar.api x")
    assert [(o["level"], o["logger"], o["message"]) for o in map(json.loads, objects)] == [
        ("WARNING", "nextchar.launcher", "the worker ended"),
        ("WARNING", "nextchar.api", "y"),
        ("WARNING", "worker", "a library's\\x1b[2J words"),
    ]


def test_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    Output().say("nobody hears this")
