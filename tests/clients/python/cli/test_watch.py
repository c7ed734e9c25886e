"""`nextchar watch` in a process of its own, against the API in another, which is killed meanwhile."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
import redis

from nextchar.app.rooms import ApiSettings
from nextchar.launcher.stack import free_port
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.app.test_main import is_ready, started
from tests.waiting import eventually

TEXT = {"Content-Type": "text/plain"}


def calibrate(http: httpx.Client, model: str) -> None:
    lines = ["ab" * (1 + i % 9) for i in range(120)]
    assert http.post(f"/v1/models/{model}/calibrate", json={"lines": lines}).status_code == 201


class Watch:
    """A running command."""

    def __init__(self, url: str, state: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nextchar", "--server", url, "watch", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"XDG_STATE_HOME": str(state)},
            # Tests in the background of a shell inherit that the signal is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.readers = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.notes))
        ]
        for reader in self.readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], kept: list[str]) -> None:
        with stream:
            kept.extend(map(str.rstrip, stream))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self.readers:
            reader.join()

    def until(self, condition: Callable[[], object], within_s: float = 40.0) -> None:
        def holds() -> object:
            assert self.process.poll() is None or condition(), self.notes
            return condition()

        eventually(holds, within_s=within_s, what=f"{self.lines} {self.notes}")

    def until_printed(self, *lines: str) -> None:
        self.until(lambda: len(self.lines) >= len(lines))
        assert self.lines == list(lines)

    def interrupt(self) -> str:
        """Press Ctrl-C; return the summary."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(120) == 130, self.notes
        eventually(lambda: self.notes and "sent" in self.notes[-1])
        return self.notes[-1]


@pytest.fixture
def service(tmp_path: Path, clean_redis_url: str) -> Iterator[Service]:
    with serving(ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)) as running:
        publish(running.models)
        calibrate(running.http, "fake")
        yield running


@pytest.fixture
def watch(service: Service, tmp_path: Path) -> Iterator[Callable[..., Watch]]:
    """A function that starts the command, with this service and state."""
    started: list[Watch] = []

    def start(*arguments: str | Path) -> Watch:
        words = [*map(str, arguments), "--model", "fake"]
        started.append(Watch(str(service.http.base_url), tmp_path / "state", *words))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(line + "\n" for line in lines)


def sent(service: Service) -> int:
    found: int = service.http.get("/v1/models/fake/ingest").json()["accepted"]
    return found


def states(folder: Path) -> list[Path]:
    return list((folder / "state" / "nextchar" / "watch").glob("*.json"))


def saved(folder: Path) -> dict[str, Any]:
    [state] = states(folder)
    found: dict[str, Any] = json.loads(state.read_text())
    return found


def test_flagged_lines_are_printed_once_and_the_next_run_goes_on(
    watch: Callable[..., Watch], service: Service, tmp_path: Path
) -> None:
    log = tmp_path / "app.log"
    append(log, "before →")
    first = watch(log)
    first.until(lambda: states(tmp_path))
    append(log, "ab", "one →", "ab")
    first.until_printed("one →")
    service.http.post("/v1/models/fake/ingest", content="of another →", headers=TEXT)
    assert first.interrupt().startswith("3 lines sent, 1 flagged in")
    append(log, "two →")
    second = watch(log)
    second.until_printed("two →")
    assert second.interrupt().startswith("1 line sent, 1 flagged in")
    assert sent(service) == 5


def test_several_logs_are_followed_and_named(
    watch: Callable[..., Watch], service: Service, tmp_path: Path
) -> None:
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    append(logs[0], "→ a")
    append(logs[1], "→ b")
    running = watch(*logs, "--from-start")
    running.until(lambda: len(running.lines) == 2)
    assert sorted(running.lines) == [f"{logs[0]}:→ a", f"{logs[1]}:→ b"]


def test_a_log_whose_name_is_not_utf8_is_watched(watch: Callable[..., Watch], tmp_path: Path) -> None:
    logs = [tmp_path / "a\udcfe.log", tmp_path / "a\udcff.log"]
    append(logs[0], "→ a")
    append(logs[1], "→ b")
    running = watch(*logs, "--from-start", "--json")
    running.until(lambda: len(running.lines) == 2)
    found = {line["source"]: line["line"] for line in map(json.loads, running.lines)}
    name = f"{socket.gethostname()}:{tmp_path}/a\\x{{}}.log"
    assert found == {name.format("fe")[-200:]: "→ a", name.format("ff")[-200:]: "→ b"}


def test_json_has_the_score_and_the_source(watch: Callable[..., Watch], tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    append(log, "→")
    running = watch(log, "--from-start", "--json")
    running.until(lambda: running.lines)
    line = json.loads(running.lines[0])
    assert (line["line"], line["source"]) == ("→", f"{socket.gethostname()}:{log}"[-200:])
    assert line["p_value"] <= 0.01


def test_a_killed_command_sends_the_same_request_again(
    watch: Callable[..., Watch], service: Service, tmp_path: Path
) -> None:
    log = tmp_path / "app.log"
    append(log, "ab", "→")
    first = watch(log, "--from-start")
    first.until_printed("→")
    first.until(lambda: saved(tmp_path)["printed"] == 1)
    first.kill()
    # As if it had been killed between the request and the note that it was answered.
    [file], state = states(tmp_path), saved(tmp_path)
    end = state["position"]["offset"]
    state["position"] |= {
        "offset": 0,
        "head": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }
    state["position"]["head_bytes"] = 0
    file.write_text(json.dumps(state | {"sending_to": end}))
    append(log, "cd", "→→")
    second = watch(log)
    second.until_printed("→→")
    assert sent(service) == 4


def test_a_log_is_watched_by_one_command(watch: Callable[..., Watch], tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    append(log, "→")
    first = watch(log, "--from-start")
    first.until_printed("→")
    second = watch(log)
    assert second.process.wait(120) == 1
    eventually(lambda: second.notes)
    assert second.notes == [f"nextchar: another `nextchar watch` sends {log} to fake; stop it first"]


def test_flagged_lines_of_other_sources_are_not_missed_after_a_restart(
    watch: Callable[..., Watch], service: Service, tmp_path: Path
) -> None:
    log = tmp_path / "app.log"
    append(log, "→")
    first = watch(log, "--from-start")
    first.until_printed("→")
    service.http.post("/v1/models/fake/ingest", content="of another →\n" * 450, headers=TEXT)
    first.until(lambda: saved(tmp_path)["printed"] > 200)
    first.kill()
    append(log, "→→")
    second = watch(log)
    second.until_printed("→→")
    assert (first.lines, first.notes, second.notes) == (["→"], [], [])
    second.until(lambda: saved(tmp_path)["printed"] == 452)


def test_lines_are_printed_when_their_numbers_start_again(
    watch: Callable[..., Watch], tmp_path: Path, clean_redis_url: str
) -> None:
    log = tmp_path / "app.log"
    append(log, "→ 1", "→ 2", "→ 3")
    running = watch(log, "--from-start")
    running.until_printed("→ 1", "→ 2", "→ 3")
    with redis.Redis.from_url(clean_redis_url) as database:
        database.flushdb()
    append(log, "→ 4")
    running.until_printed("→ 1", "→ 2", "→ 3", "→ 4")
    running.until(lambda: saved(tmp_path)["printed"] == 1)
    running.interrupt()
    [state] = states(tmp_path)
    state.write_text(json.dumps(saved(tmp_path) | {"printed": 5_000}))
    append(log, "→ 5")
    watch(log).until_printed("→ 4", "→ 5")


def test_a_log_that_does_not_exist_yet_is_waited_for_and_named(
    watch: Callable[..., Watch], tmp_path: Path
) -> None:
    running = watch(tmp_path / "later.log")
    running.until(lambda: running.notes)
    assert running.notes == [f"{tmp_path / 'later.log'} does not exist yet; waiting for it"]


def test_what_cannot_be_watched_ends_the_command_with_a_sentence(
    watch: Callable[..., Watch], service: Service, tmp_path: Path
) -> None:
    folder = watch(tmp_path)
    assert folder.process.wait(120) == 1
    eventually(lambda: folder.notes)
    assert folder.notes[-1] == f"nextchar: {tmp_path}: Is a directory"
    publish(service.models, name="plain")
    log = tmp_path / "app.log"
    append(log, "ab")
    plain = Watch(
        str(service.http.base_url), tmp_path / "state", str(log), "--from-start", "--model", "plain"
    )
    assert plain.process.wait(120) == 1
    plain.kill()
    assert "has no calibration" in plain.notes[-1]


def test_a_rate_that_is_impossible_is_refused_before_the_first_line(
    watch: Callable[..., Watch], tmp_path: Path
) -> None:
    log = tmp_path / "app.log"
    log.touch()
    refused = watch(log, "--false-alarms", "0.000001")
    assert refused.process.wait(120) == 1
    eventually(lambda: refused.notes)
    assert "lines" in refused.notes[-1] and "calibration" in refused.notes[-1]
    assert not states(tmp_path)


@pytest.mark.long  # two API processes; rotations are in test_followed_file.py
def test_it_waits_for_a_killed_service_through_a_rotation(tmp_path: Path, clean_redis_url: str) -> None:
    port = str(free_port("127.0.0.1"))
    settings = {"NEXTCHAR_PORT": port, "NEXTCHAR_INGEST_TAKEOVER_S": "2", "NEXTCHAR_LOG_LEVEL": "ERROR"}
    url = f"http://127.0.0.1:{port}"
    strange = ["→" * (60 + i) for i in range(4)]
    log = tmp_path / "app.log"
    append(log, "the first line of this log", strange[0])
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        api, _ = stack.enter_context(started(tmp_path, clean_redis_url, settings))
        eventually(lambda: is_ready(http))
        calibrate(http, "real")
        running = Watch(url, tmp_path / "state", str(log), "--from-start", "--model", "real")
        stack.callback(running.kill)
        running.until(lambda: strange[0] in running.lines)
        api.kill()
        api.wait()
        append(log, strange[1])
        running.until(lambda: any("waiting" in note for note in running.notes))
        log.rename(tmp_path / "app.log.1")
        append(log, "the first line of the next log", strange[2])
        stack.enter_context(started(tmp_path, clean_redis_url, settings, with_model=False))
        running.until(lambda: strange[2] in running.lines)
        shutil.copy(log, tmp_path / "app.log.2")
        os.truncate(log, 0)
        append(log, strange[3])
        running.until(lambda: strange[3] in running.lines)
        assert [line for line in running.lines if line in strange] == strange
        assert any("responds again" in note for note in running.notes)
        assert running.interrupt().startswith("6 lines sent")
