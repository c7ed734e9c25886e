"""What a process of the API writes to its log."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from nextchar.launcher.stack import free_port
from tests.app.service import until
from tests.app.test_main import ROOT, is_ready, publish_real

SECRET = "a prompt that nobody else may read"


@contextlib.contextmanager
def logged(folder: Path, **settings: str) -> Iterator[tuple[httpx.Client, Path]]:
    """Run `python -m nextchar.app.main` with a model and without Redis; a client, and the log."""
    publish_real(folder)
    port = free_port("127.0.0.1")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEXTCHAR_")} | {
        "NEXTCHAR_DATA_DIR": str(folder),
        "NEXTCHAR_REDIS_URL": f"unix://{folder}/no-such-socket",
        "NEXTCHAR_PORT": str(port),
    }
    log = folder / "log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "nextchar.app.main"],
            cwd=ROOT,
            env=environment | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            until(lambda: is_ready(http))
            yield http, log
    finally:
        running.terminate()
        running.wait(120)


def fail_for_want_of_redis(http: httpx.Client) -> None:
    body = {"lines": [SECRET], "stream_id": "s", "context": "stream"}
    answer = http.post("/v1/models/real/score", json=body, headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 503, answer.text


@pytest.mark.long  # two processes; tests/store/test_logs.py has JSON
def test_every_line_of_several_processes_is_a_json_object_and_a_warning_names_its_request(
    tmp_path: Path,
) -> None:
    settings = {"NEXTCHAR_LOG_FORMAT": "json", "NEXTCHAR_PROCESSES": "2"}
    with logged(tmp_path, **settings) as (http, log):
        fail_for_want_of_redis(http)
    text = log.read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert any(r["logger"].startswith("uvicorn") and "startup complete" in r["message"] for r in records)
    [warning] = [r for r in records if r.get("request_id") == "find-me"]
    assert (warning["level"], warning["logger"]) == ("WARNING", "nextchar.api")
    assert "Redis does not respond" in warning["message"]
    assert SECRET not in text


def test_lines_have_time_level_logger_and_request_and_at_the_lowest_level_no_key_prompt_or_text(
    tmp_path: Path,
) -> None:
    key = "nck_a-key-that-nobody-else-may-see"
    keys = tmp_path / "keys.txt"
    keys.write_text(f"ann sha256={hashlib.sha256(key.encode()).hexdigest()} scopes=admin\n")
    settings = {"NEXTCHAR_LOG_LEVEL": "DEBUG", "NEXTCHAR_API_KEYS_FILE": str(keys)}
    with logged(tmp_path, **settings) as (http, log):
        http.headers["Authorization"] = f"Bearer {key}"
        fail_for_want_of_redis(http)
        forged = "x\r\n2026-11-26T17:40:03.123Z ERROR nextchar.api forged"
        for path, options in (
            ("/v1/models/real/complete", {"json": {"prompt": SECRET}}),
            ("/v1/models/real/complete", {"json": {"prompt": SECRET, "max_characters": -1}}),
            ("/v1/models/real/complete", {"content": f'{{"prompt": "{SECRET}'}),
            ("/v1/models/real/score", {"json": {"text": SECRET}}),
            ("/v1/models/real/score", {"content": SECRET, "headers": {"Content-Type": "text/plain"}}),
            ("/v1/completions", {"json": {"model": "real", "prompt": SECRET, "echo": True}}),
            ("/v1/corpora", {"content": f"{SECRET}\n" * 30}),
            (f"/v1/corpora?name={quote(SECRET)}", {"content": SECRET}),
            ("/v1/jobs", {"json": {"corpus": SECRET, "name": forged}}),
            (f"/v1/jobs/{quote(forged)}/cancel", {}),
            ("/v1/jobs", {"headers": {"Authorization": f"Bearer {key}x"}}),
        ):
            http.post(path, **options)  # type: ignore[arg-type]
        assert http.get("/v1/audit").status_code == 200
    written = log.read_text()
    assert "startup complete" in written
    warning = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING nextchar\.api \[req=find-me\] Redis does not"
    assert re.search(warning, written, re.MULTILINE), written
    assert key not in written and SECRET not in written
    assert not re.search("^.*ERROR nextchar.api forged", written, re.MULTILINE)
    stored = [path.read_bytes() for path in (tmp_path / "store" / "audit").rglob("*.json")]
    assert stored and not any(SECRET.encode() in entry or key.encode() in entry for entry in stored)
