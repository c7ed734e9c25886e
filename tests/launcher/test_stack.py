import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from launcher import stack as stack_module
from launcher.ports import free_port, require_free
from launcher.processes import LauncherError
from launcher.settings import LauncherSettings
from launcher.stack import Stack
from tests.launcher.watching import is_alive, wait_for

_RUN_A_STACK = """
import sys, threading
from pathlib import Path
from launcher.settings import LauncherSettings
from launcher.stack import Stack
with Stack(LauncherSettings(data_dir=Path(sys.argv[1]), port=0)) as stack:
    print(stack.api_pid, stack.worker_pid, stack.valkey_pid, flush=True)
    threading.Event().wait()
"""


def settings(data_dir: Path, **changes: object) -> LauncherSettings:
    return LauncherSettings.model_validate({"data_dir": data_dir, "port": 0, **changes})


def is_ready(stack: Stack) -> bool:
    try:
        with urllib.request.urlopen(f"{stack.url}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_stack_serves_restarts_what_dies_and_stops_without_a_trace(tmp_path):
    with Stack(settings(tmp_path)) as stack:
        assert is_ready(stack)
        for part in ("api_pid", "worker_pid", "valkey_pid"):
            before = getattr(stack, part)
            os.kill(before, signal.SIGKILL)
            wait_for(lambda part=part, before=before: getattr(stack, part) != before)
        wait_for(lambda: is_ready(stack))
        pids = [stack.api_pid, stack.worker_pid, stack.valkey_pid]
        assert all(map(is_alive, pids))
        assert not stack.wait(0)
    assert not any(map(is_alive, pids))
    assert stack.wait()


def test_killed_launcher_leaves_no_orphan_and_the_next_one_starts(tmp_path, run_script):
    launcher = run_script(_RUN_A_STACK, tmp_path)
    pids = [int(pid) for pid in launcher.stdout.readline().split()]
    assert len(pids) == 3 and all(map(is_alive, pids))
    launcher.kill()
    wait_for(lambda: not any(map(is_alive, pids)))
    with Stack(settings(tmp_path)) as stack:
        assert is_ready(stack)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_ends_with_status_0(tmp_path, run_script, monkeypatch, how):
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("NEXTCHAR_PORT", "0")
    launcher = run_script("import sys; from launcher.stack import main; sys.exit(main())")
    log = tmp_path / "logs" / "api.log"
    wait_for(lambda: log.exists() and "Application startup complete" in log.read_text(), timeout_s=60)
    children = children_of(launcher.pid)
    assert len(children) == 3
    launcher.send_signal(how)
    assert launcher.wait(30) == 0
    assert not any(map(is_alive, children))


def test_a_hangup_that_is_ignored_stays_so(tmp_path, monkeypatch):
    class Stopped:
        def __init__(self, _):
            raise KeyboardInterrupt

    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(stack_module, "Stack", Stopped)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        assert stack_module.main() == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_part_that_keeps_dying_stops_the_stack_and_shows_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(stack_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(stack_module, "_MAX_DEATHS", 2)
    broken = {"NEXTCHAR_STORE_URL": "file:///proc/no/such/folder"}
    expected = r"(?s)the API ended with status \d, 2 times.*the end of .*api.log:\n.*startup failed"
    with (
        pytest.raises(LauncherError, match=expected),
        Stack(settings(tmp_path), environment=broken) as stack,
    ):
        stack.wait(60)


def test_wrong_setting_of_a_part_stops_the_stack_at_its_first_death(tmp_path):
    started = time.monotonic()
    wrong = {"NEXTCHAR_TRAINING_THREADS": "many"}
    with (
        pytest.raises(LauncherError, match="NEXTCHAR_TRAINING_THREADS='many'"),
        Stack(settings(tmp_path), environment=wrong) as stack,
    ):
        stack.wait(60)
    assert time.monotonic() - started < 20


def test_warnings_of_the_parts_come_to_the_terminal_and_old_ones_do_not(tmp_path, capfd):
    log = tmp_path / "logs" / "worker.log"
    log.parent.mkdir()
    log.write_text("WARNING from yesterday\n")
    with Stack(settings(tmp_path)), log.open("a") as file:
        file.write("INFO nothing much\nWARNING something rare happened\n")
        file.flush()
        seen = ""

        def is_shown() -> bool:
            nonlocal seen
            seen += capfd.readouterr().err
            return "worker: WARNING something rare happened\n" in seen

        wait_for(is_shown)
    assert "yesterday" not in seen
    assert "nothing much" not in seen


def test_taken_port_is_refused_naming_the_setting(tmp_path):
    with Stack(settings(tmp_path / "one")) as stack:
        port = int(stack.url.rpartition(":")[2])
        with pytest.raises(LauncherError, match=f"port {port}.*in use.*NEXTCHAR_PORT"):
            require_free("127.0.0.1", port)
        with pytest.raises(LauncherError, match="NEXTCHAR_PORT"):
            Stack(settings(tmp_path / "two", port=port)).__enter__()


def test_free_port_can_be_listened_on():
    require_free("127.0.0.1", free_port("127.0.0.1"))


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
