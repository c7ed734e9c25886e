import os
import signal
import stat
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, OutOfMemoryError

from nextchar.launcher import valkey as valkey_module
from nextchar.launcher.processes import LauncherError
from nextchar.launcher.valkey import EmbeddedValkey, server_binary
from tests.launcher.processes import is_alive
from tests.waiting import eventually

_HOLD_A_SERVER = """
import sys, threading
from pathlib import Path
from redis import Redis
from nextchar.launcher.valkey import EmbeddedValkey
with EmbeddedValkey(Path(sys.argv[1])) as valkey:
    with Redis.from_url(valkey.url) as redis:
        redis.set("kept", "yes")
    print(valkey.pid, flush=True)
    threading.Event().wait()
"""


def read(valkey: EmbeddedValkey, key: str) -> bytes | None:
    with Redis.from_url(valkey.url) as redis:
        value = redis.get(key)
        assert value is None or isinstance(value, bytes)
        return value


def write(valkey: EmbeddedValkey, key: str, value: str) -> None:
    with Redis.from_url(valkey.url) as redis:
        redis.set(key, value)


def test_data_is_back_after_kill_9_of_the_server(tmp_path):
    with EmbeddedValkey(tmp_path) as valkey:
        url = valkey.url
        write(valkey, "kept", "yes")
        os.kill(valkey.pid, signal.SIGKILL)
        eventually(lambda: not valkey.is_running)
        valkey.start()
        assert valkey.url == url
        assert read(valkey, "kept") == b"yes"


def test_more_than_its_bound_is_refused_and_nothing_is_evicted(tmp_path):
    with EmbeddedValkey(tmp_path, max_bytes=16 << 20) as valkey, Redis.from_url(valkey.url) as redis:
        write(valkey, "kept", "yes")
        with pytest.raises(OutOfMemoryError):
            for i in range(40):
                redis.set(f"much:{i}", b"x" * (1 << 20))
        assert read(valkey, "kept") == b"yes"


def test_server_dies_with_a_killed_parent_and_the_folder_is_free_at_once(tmp_path, run_script):
    parent = run_script(_HOLD_A_SERVER, tmp_path)
    server_pid = int(parent.stdout.readline())
    assert is_alive(server_pid)
    parent.kill()
    with EmbeddedValkey(tmp_path) as valkey:
        assert not is_alive(server_pid)
        assert read(valkey, "kept") == b"yes"


def test_folder_in_use_is_refused_naming_the_process_and_the_setting(tmp_path, run_script, monkeypatch):
    monkeypatch.setattr(valkey_module, "_LOCK_WAIT_S", 0.1)
    parent = run_script(_HOLD_A_SERVER, tmp_path)
    server_pid = int(parent.stdout.readline())
    with pytest.raises(LauncherError, match=rf"in use by .*process {parent.pid}.*NEXTCHAR_DATA_DIR"):
        EmbeddedValkey(tmp_path).__enter__()
    assert is_alive(server_pid)


def test_password_is_private_lasts_and_is_needed(tmp_path):
    with EmbeddedValkey(tmp_path) as valkey:
        first = valkey.url
        kept = tmp_path / "valkey" / "password"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        command_line = Path(f"/proc/{valkey.pid}/cmdline").read_text()
        assert kept.read_text().strip() not in command_line
        socket_path = valkey.url.partition("@")[2]
        with Redis.from_url(f"unix://{socket_path}") as redis, pytest.raises(AuthenticationError):
            redis.ping()
    with EmbeddedValkey(tmp_path) as valkey:
        assert valkey.url == first


def test_server_that_does_not_start_shows_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(valkey_module, "_CONFIG", valkey_module._CONFIG + "no-such-directive 1\n")
    with pytest.raises(LauncherError, match=r"(?s)did not start.*no-such-directive"):
        EmbeddedValkey(tmp_path).__enter__()
    monkeypatch.undo()
    with EmbeddedValkey(tmp_path):  # and the folder is free again
        pass


@pytest.mark.parametrize(
    ("name", "version", "is_taken"),
    [
        ("valkey-server", "Valkey server v=8.1.3 sha=00000000:0 malloc=libc", True),
        ("redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc", True),
        ("redis-server", "Redis server v=6.2.1 sha=00000000:0 malloc=jemalloc", False),
    ],
)
def test_a_server_on_the_path_is_used_if_it_is_new_enough(tmp_path, monkeypatch, name, version, is_taken):
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (server_binary() == program) is is_taken
