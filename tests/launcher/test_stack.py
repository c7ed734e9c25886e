import os
import signal
import socket
import urllib.request
from pathlib import Path

import httpx
import pytest
from redis import Redis

from nextchar.launcher import processes as supervised_process
from nextchar.launcher import stack as stack_module
from nextchar.launcher import valkey as valkey_module
from nextchar.launcher.processes import LauncherError
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack, free_port, require_free
from tests.app.test_main import publish_real
from tests.launcher.processes import is_alive
from tests.waiting import eventually

_WAIT_IN_MAIN = """
import contextlib, signal, sys, threading
from types import SimpleNamespace
from nextchar.launcher import stack

@contextlib.contextmanager
def running(_):
    def wait():
        print("waiting", flush=True)
        threading.Event().wait()
    try:
        yield SimpleNamespace(url="", wait=wait)
    finally:
        print("left", flush=True)

stack.Stack = running
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(stack.main())
"""


def settings(data_dir: Path, **changes: object) -> LauncherSettings:
    return LauncherSettings.model_validate({"data_dir": data_dir, "port": 0, **changes})


def is_ready(stack: Stack) -> bool:
    try:
        with urllib.request.urlopen(f"{stack.url}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_the_stack_serves_shows_warnings_restarts_dead_processes_and_stops_cleanly(
    tmp_path, monkeypatch, capfd
):
    """A part that keeps dying is tried again, and stops neither the stack nor the API."""
    monkeypatch.setattr(supervised_process, "_FIRST_PAUSE_S", 0.01)
    log = tmp_path / "logs" / "worker.log"
    log.parent.mkdir()
    log.write_text("WARNING from yesterday\n")
    with Stack(settings(tmp_path)) as stack:
        assert is_ready(stack)
        with log.open("a") as file:
            file.write("INFO nothing much\nWARNING something rare happened\n")
            file.write(
                "2026-11-26T17:40:03.123Z ERROR nextchar.worker [job=job_1] it failed\n    OSError: gone\n"
            )
        seen = ""

        def is_shown() -> bool:
            nonlocal seen
            seen += capfd.readouterr().err
            return (
                "worker: WARNING something rare happened\n"
                "worker: 2026-11-26T17:40:03.123Z ERROR nextchar.worker [job=job_1] it failed\n"
                "worker:     OSError: gone\n"
            ) in seen

        eventually(is_shown)
        assert "yesterday" not in seen
        assert "nothing much" not in seen
        for part, times in (("api_pid", 1), ("worker_pid", 4), ("valkey_pid", 4)):
            for _ in range(times):
                before = getattr(stack, part)
                os.kill(before, signal.SIGKILL)
                eventually(lambda part=part, before=before: getattr(stack, part) != before)
            if part == "api_pid":
                eventually(lambda: is_ready(stack))
                api = stack.api_pid
        assert not stack.wait(0)
        assert stack.api_pid == api
        eventually(lambda: is_ready(stack))
        pids = [stack.api_pid, stack.worker_pid, stack.valkey_pid]
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))
    assert stack.wait()
    said = capfd.readouterr().err
    for name in ("worker", "embedded Valkey"):
        assert f"the {name} was killed by signal 9; restarting it in 0.01 s" in said
        assert f"the {name} was killed by signal 9; restarting it in 0.08 s" in said  # the pause doubles
        assert said.count(f"the {name} was killed by signal 9, 4 times in a row; the end of") == 1


@pytest.mark.long  # a fault round
def test_completions_go_on_while_redis_refuses_writes_and_the_worker_dies_and_then_jobs_go_through(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(supervised_process, "_FIRST_PAUSE_S", 0.01)
    publish_real(tmp_path)
    with (
        Stack(settings(tmp_path)) as stack,
        httpx.Client(base_url=stack.url, timeout=60) as http,
        Redis.from_url(stack.redis_url) as redis,
    ):
        redis.config_set("maxmemory", "1")
        eventually(lambda: "redis" in degraded(http))
        for _ in range(6):
            before = stack.worker_pid
            os.kill(before, signal.SIGKILL)
            eventually(lambda before=before: stack.worker_pid != before)
        for path, body in (
            ("complete", {"prompt": "the", "max_characters": 3}),
            ("next", {"prompt": "the"}),
            ("score", {"lines": ["the"]}),
        ):
            answer = http.post(f"/v1/models/real/{path}", json=body)
            assert answer.status_code == 200, answer.text
        for path in ("/v1/models", "/v1/models/real", "/v1/jobs", "/metrics"):
            assert http.get(path).status_code == 200, path
        corpus = http.post("/v1/corpora", content=b"the quick brown fox\n" * 50).json()["id"]
        body = {"corpus": corpus, "name": "fox", "preset": "tiny", "budget": {"steps": 2}}
        job = http.post("/v1/jobs", json=body).json()["id"]
        assert not stack.wait(0)

        redis.config_set("maxmemory", "0")
        eventually(lambda: http.get(f"/v1/jobs/{job}").json()["status"] == "succeeded", within_s=240)
        assert degraded(http) == set()


def test_stack_serves_while_its_valkey_does_not_start_and_takes_it_when_it_does(tmp_path, monkeypatch, capfd):
    """And runs no file of the folder that it is started in."""
    for name in ("app", "launcher", "models", "nextchar", "redis", "store", "worker"):
        (tmp_path / f"{name}.py").write_text('raise SystemExit("not this one")\n')
    monkeypatch.chdir(tmp_path)
    config, data = valkey_module._CONFIG, tmp_path / "data"
    monkeypatch.setattr(valkey_module, "_CONFIG", config + "no-such-directive 1\n")
    with Stack(settings(data)) as stack, httpx.Client(base_url=stack.url, timeout=60) as http:
        assert "redis" in degraded(http)
        said = ""

        def is_said() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "no-such-directive" in said

        eventually(is_said)
        monkeypatch.setattr(valkey_module, "_CONFIG", config)
        eventually(lambda: degraded(http) == set())
    for log in ("api.log", "worker.log"):
        assert "not this one" not in (data / "logs" / log).read_text()


@pytest.mark.parametrize("redis_url", [None, "redis://127.0.0.1:1"])
def test_a_data_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capfd, redis_url):
    (tmp_path / "data").touch()
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("NEXTCHAR_REDIS_URL", raising=False)
    if redis_url:
        monkeypatch.setenv("NEXTCHAR_REDIS_URL", redis_url)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert stack_module.main() == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert f"cannot write to the data folder {tmp_path / 'data'}: Not a directory" in last


def degraded(http: httpx.Client) -> set[str]:
    answer = http.get("/readyz")
    assert answer.status_code == 200, answer.text
    return {problem["part"] for problem in answer.json()["degraded"]}


def test_a_killed_launcher_leaves_no_orphan(tmp_path, run_script, monkeypatch):
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("NEXTCHAR_PORT", "0")
    log = tmp_path / "logs" / "api.log"
    launcher = run_script("import sys; from nextchar.launcher.stack import main; sys.exit(main())")
    eventually(lambda: log.exists() and "Application startup complete" in log.read_text())
    children = children_of(launcher.pid)
    assert len(children) == 4 and all(map(is_alive, children))
    launcher.kill()
    launcher.wait(120)
    eventually(lambda: not any(map(is_alive, children)), within_s=60)


def test_ctrl_c_leaves_the_stack_which_stops_it(tmp_path, run_script, monkeypatch):
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    # Tests may inherit ignored signals, as in the background of a shell, which the launcher leaves ignored.
    launcher = run_script(_WAIT_IN_MAIN)
    assert launcher.stdout.readline() == "waiting\n"
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(120) == 0
    assert launcher.stdout.read() == "left\n"


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


@pytest.mark.long  # starts the whole stack; a wrong setting stops it below
def test_api_that_does_not_come_up_stops_the_start_and_shows_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(supervised_process, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(stack_module, "_MAX_FAILED_STARTS", 2)
    broken = {"NEXTCHAR_STORE_URL": "file:///proc/no/such/folder"}
    expected = r"(?s)the API ended with status \d, 2 times.*the end of .*api.log:\n.*startup failed"
    with pytest.raises(LauncherError, match=expected), Stack(settings(tmp_path), environment=broken) as stack:
        stack.wait(120)


def test_wrong_setting_of_a_part_stops_the_stack_at_its_first_death(tmp_path, monkeypatch):
    monkeypatch.setattr(supervised_process, "_FIRST_PAUSE_S", 3600)  # it would not die again
    wrong = {"NEXTCHAR_TRAINING_THREADS": "many"}
    with (
        pytest.raises(LauncherError, match="NEXTCHAR_TRAINING_THREADS='many'"),
        Stack(settings(tmp_path), environment=wrong) as stack,
    ):
        stack.wait(100)


def test_a_used_port_is_refused_with_the_setting_to_change(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LauncherError, match=f"port {port}.*in use.*NEXTCHAR_PORT"):
            require_free("127.0.0.1", port)
        with pytest.raises(LauncherError, match="NEXTCHAR_PORT"):
            Stack(settings(tmp_path, port=port)).__enter__()


def test_free_port_can_be_listened_on():
    require_free("127.0.0.1", free_port("127.0.0.1"))


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
