import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nextchar.launcher import processes as supervised_process
from nextchar.launcher.processes import LauncherError, Output, SupervisedProcess
from tests.waiting import eventually


def a_process(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code])


def supervised(
    log: Path, start: Callable[[], "subprocess.Popen[bytes]"] = lambda: a_process("")
) -> SupervisedProcess:
    return SupervisedProcess("worker", start, log, Output())


def keep_until(process: SupervisedProcess, condition: Callable[[], bool]) -> None:
    def kept() -> bool:
        process.keep_running()
        return condition()

    eventually(kept)


def test_part_that_cannot_be_started_for_a_while_is_tried_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(supervised_process, "_FIRST_PAUSE_S", 0.001)
    refusals = 5

    def start() -> "subprocess.Popen[bytes]":
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return a_process("import time; time.sleep(60)")

    process = supervised(tmp_path / "log", start)
    keep_until(process, lambda: not refusals and process._is_up)
    process.stop(5)
    process.close()
    assert "could not be started ([Errno 24] Too many open files)" in capsys.readouterr().err


def test_wrong_settings_end_the_start_and_not_a_service_that_has_run(tmp_path, monkeypatch):
    monkeypatch.setattr(supervised_process, "_FIRST_PAUSE_S", 0.001)
    first = supervised(tmp_path / "log", lambda: a_process("raise SystemExit(2)"))
    with pytest.raises(LauncherError, match="ended with status 2"):
        keep_until(first, lambda: False)
    first.close()
    codes = iter(["raise SystemExit(1)", *["raise SystemExit(2)"] * 3, "import time; time.sleep(60)"])
    later = supervised(tmp_path / "log", lambda: a_process(next(codes)))
    keep_until(later, lambda: later.failures == 4)
    later.stop(5)
    later.close()


def test_pause_grows_to_a_limit_and_a_long_life_ends_the_series(tmp_path, monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr(supervised_process, "time", SimpleNamespace(monotonic=lambda: now_s))
    process, pauses = supervised(tmp_path / "log"), []
    for lived_s in [0.0] * 8 + [supervised_process._STABLE_S]:
        process._started_at_s = now_s - lived_s
        process._record_failure("was killed", now_s)
        pauses.append(process._next_start_s - now_s)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5]
    process.close()


def test_large_log_is_set_aside_while_its_process_writes_and_no_warning_is_missed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(supervised_process, "LOG_BYTES", 1000)
    log = tmp_path / "logs" / "worker.log"
    process = supervised(log)
    with log.open("ab", buffering=0) as writer:  # as a child process has it
        for number in range(100):
            writer.write(b"2026-11-26T17:40:03.123Z WARNING nextchar.worker %d\n" % number)
            process.print_new_warnings()
            assert log.stat().st_size < 1200
    process.close()
    shown = [line.rpartition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert shown == [str(number) for number in range(100)]
    kept = (log.with_name("worker.log.1").read_text() + log.read_text()).splitlines()
    numbers = [int(line.rpartition(" ")[2]) for line in kept]
    assert numbers == list(range(numbers[0], 100)) and len(numbers) > 15
