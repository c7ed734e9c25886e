"""A running service is backed up by the command, and restored into an empty folder, where it goes on."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from redis import Redis

import nextchar.app.backup
import nextchar.launcher.backup
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.store.blobs import Blobs
from nextchar.store.open_blobs import open_blobs
from tests.app.test_main import publish_real
from tests.waiting import eventually


def admin(data_dir: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCHAR_")}
    return subprocess.run(
        [sys.executable, "-m", "nextchar", "admin", *map(str, arguments)],
        env=environment | {"NEXTCHAR_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def settings(data_dir: Path) -> LauncherSettings:
    return LauncherSettings.model_validate({"data_dir": data_dir, "port": 0})


def test_a_running_service_is_backed_up_and_goes_on_where_it_is_restored(tmp_path: Path) -> None:
    file, old, new = tmp_path / "backup.tar", tmp_path / "old", tmp_path / "new"
    lines = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}abcdefgh" for i in range(200)]
    with Stack(settings(old)) as stack, httpx.Client(base_url=stack.url, timeout=60) as http:
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
        made = admin(old, "backup", file)
        assert made.returncode == 0 and "objects of" in made.stdout, made.stderr
        again = admin(old, "backup", file)
        assert again.returncode == 1 and "exists" in again.stderr
        http.post("/v1/corpora", content="another text\n" * 100).raise_for_status()
        refused = admin(old, "restore", file)
        assert refused.returncode == 1 and "not empty, it has " in refused.stderr
        assert http.get("/readyz").status_code == 200, "the service was not disturbed"
    restored = admin(new, "restore", file)
    assert restored.returncode == 0, restored.stderr
    with Stack(settings(new)) as stack, httpx.Client(base_url=stack.url, timeout=60) as http:
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


def test_without_an_installation_there_is_no_backup(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "backup.tar"
    missing = admin(data, "backup", file)
    assert missing.returncode == 1 and f"{data} has no installation" in missing.stderr
    assert list(tmp_path.iterdir()) == []
    (data / "store").mkdir(parents=True)
    empty = admin(data, "backup", file)
    assert empty.returncode == 1 and "the storage is empty" in empty.stderr
    assert list(tmp_path.iterdir()) == [data]


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
        made = admin(data, "backup", tmp_path / "backup.tar")
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


def test_the_embedded_valkey_has_the_memory_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def note_limit(_blobs: Blobs, redis: Redis, _file: IO[bytes]) -> nextchar.app.backup.Totals:
        limits.append(redis.config_get("maxmemory"))
        return nextchar.app.backup.Totals()

    monkeypatch.setattr(nextchar.app.backup, "restore", note_limit)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("NEXTCHAR_REDIS_URL", raising=False)
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NEXTCHAR_VALKEY_MAX_BYTES", str(300 << 20))
    (tmp_path / "backup.tar").touch()
    nextchar.launcher.backup.main(["restore", str(tmp_path / "backup.tar")])
    assert limits == [{"maxmemory": str(300 << 20)}]


def test_what_cannot_be_backed_up_or_restored_is_said(tmp_path: Path) -> None:
    missing = admin(tmp_path / "data", "restore", tmp_path / "missing.tar")
    assert missing.returncode == 1 and "missing.tar" in missing.stderr
    torn = tmp_path / "torn.tar"
    torn.write_bytes(b"abc")
    refused = admin(tmp_path / "data", "restore", torn)
    assert refused.returncode == 1 and "not a backup" in refused.stderr
    assert admin(tmp_path / "data", "dump").returncode == 2
