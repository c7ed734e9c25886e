"""A running service is backed up by the command, and restored into an empty folder, where it goes on."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import nextchar.app.backup
import nextchar.launcher.backup
from nextchar.app.rooms import ApiSettings
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.store.open_blobs import open_blobs
from tests.app.service import serving_real
from tests.app.test_main import publish_real
from tests.waiting import eventually


class Admin:
    """`nextchar admin` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.delenv("NEXTCHAR_REDIS_URL", raising=False)

    def __call__(self, data_dir: Path, *arguments: object) -> str:
        """Return what a command prints."""
        self._monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(data_dir))
        self._monkeypatch.setattr(tempfile, "tempdir", None)
        nextchar.launcher.backup.main([*map(str, arguments)])
        return self._capsys.readouterr().out

    def refused(self, data_dir: Path, *arguments: object) -> str:
        """Return the sentence that a command ends with."""
        with pytest.raises(SystemExit) as ended:
            self(data_dir, *arguments)
        return str(ended.value.code)


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Admin:
    return Admin(monkeypatch, capsys)


@contextlib.contextmanager
def running(data_dir: Path) -> Iterator[httpx.Client]:
    """The API on an installation with the embedded Valkey."""
    with (
        EmbeddedValkey(data_dir) as valkey,
        serving_real(ApiSettings(data_dir=data_dir, redis_url=valkey.url)) as http,
    ):
        yield http


def test_a_running_service_is_backed_up_and_goes_on_where_it_is_restored(
    tmp_path: Path, admin: Admin
) -> None:
    file, old, new = tmp_path / "backup.tar", tmp_path / "old", tmp_path / "new"
    lines = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}abcdefgh" for i in range(200)]
    with running(old) as http:
        publish_real(old)
        assert http.put("/v1/models/real/aliases/champion", json={"version": 1}).status_code == 200
        assert http.post("/v1/models/real/calibrate", json={"lines": lines}).status_code == 201
        ingested = "".join(json.dumps(f"{chr(97 + i)}b" + "→" * 40) + "\n" for i in range(5))
        headers = {"Content-Type": "application/x-ndjson"}
        rate = {"false_alarms": "0.05"}
        sent = http.post("/v1/models/real/ingest", content=ingested, headers=headers, params=rate)
        assert sent.status_code == 202, sent.text
        corpus = http.post("/v1/corpora", content="a text\n" * 100).json()["id"]
        eventually(lambda: http.get("/v1/models/real/alerts").json()["data"])
        alerts = http.get("/v1/models/real/alerts").json()["data"]
        http.post(f"/v1/models/real/alerts/{alerts[0]['id']}/label", json={"label": "incident"})
        completed = http.post("/v1/models/real/complete", json={"prompt": "a", "seed": 1}).json()
        assert "objects of" in admin(old, "backup", file)
        assert "exists" in admin.refused(old, "backup", file)
        http.post("/v1/corpora", content="another text\n" * 100).raise_for_status()
        assert "not empty, it has " in admin.refused(old, "restore", file)
        assert http.get("/readyz").status_code == 200, "the service was not disturbed"
    assert "restored" in admin(new, "restore", file)
    with running(new) as http:
        same = http.post("/v1/models/real@champion/complete", json={"prompt": "a", "seed": 1}).json()
        assert same["completions"] == completed["completions"]
        assert http.get(f"/v1/corpora/{corpus}/text").text == "a text\n" * 100
        found = {alert["id"]: alert for alert in http.get("/v1/models/real/alerts").json()["data"]}
        assert found.keys() == {alert["id"] for alert in alerts}
        assert found[alerts[0]["id"]]["label"] == "incident"
        scored = http.post("/v1/models/real/score", json={"lines": ["zzz"], "false_alarms": 0.05}).json()
        assert scored["lines"][0]["p_value"] is not None, "the calibration was restored"


def test_large_objects_are_spooled_in_the_data_folder(
    tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("NEXTCHAR_REDIS_URL", clean_redis_url)
    monkeypatch.setenv("NEXTCHAR_API_KEYS_FILE", str(tmp_path / "lost"))  # settings of the API do not matter
    folders = []
    open_blobs((tmp_path / "old" / "store").as_uri()).write("corpora/one", b"text")
    for command, name in (("back_up", "old"), ("restore", "new")):
        monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path / name))
        done = getattr(nextchar.app.backup, command)

        def noting(*arguments: Any, done: Callable[..., Any] = done) -> Any:
            folders.append(tempfile.gettempdir())
            return done(*arguments)

        monkeypatch.setattr(nextchar.app.backup, command, noting)
        nextchar.launcher.backup.main([command.replace("_", ""), str(tmp_path / "backup.tar")])
    assert folders == [str(tmp_path / "old/spool"), str(tmp_path / "new/spool")]


def test_what_cannot_be_backed_up_or_restored_is_said(tmp_path: Path, admin: Admin) -> None:
    data, file = tmp_path / "data", tmp_path / "backup.tar"
    assert f"{data} has no installation" in admin.refused(data, "backup", file)
    assert list(tmp_path.iterdir()) == []
    (data / "store").mkdir(parents=True)
    assert "the storage is empty" in admin.refused(data, "backup", file)
    assert list(tmp_path.iterdir()) == [data]
    assert "backup.tar" in admin.refused(data, "restore", file)
    file.write_bytes(b"abc")
    assert "not a backup" in admin.refused(data, "restore", file)


def test_a_running_service_whose_socket_is_in_the_temporary_folder_is_backed_up(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / ("long" * 25)
    open_blobs((data / "store").as_uri()).write("corpora/one", b"text")
    temporary = tmp_path_factory.mktemp("t")  # short enough for a socket
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with EmbeddedValkey(data) as valkey:
        assert f"@{temporary}/nextchar-" in valkey.url
        command = [sys.executable, "-m", "nextchar", "admin", "backup", str(tmp_path / "backup.tar")]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCHAR_")}
        environment["NEXTCHAR_DATA_DIR"] = str(data)
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def test_a_data_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_redis_url: str
) -> None:
    data, file = tmp_path / "data", tmp_path / "backup.tar"
    data.touch()
    file.touch()
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(data))
    monkeypatch.setenv("NEXTCHAR_REDIS_URL", clean_redis_url)  # the embedded one checks the folder itself
    with pytest.raises(SystemExit, match=f"^nextchar: not restored: cannot write to the .* {data}: .*$"):
        nextchar.launcher.backup.main(["restore", str(file)])
