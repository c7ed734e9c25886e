"""API processes are killed while they answer a batch: every request is answered once."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.test_main import is_ready, started
from tests.waiting import eventually

REQUESTS = int(os.environ.get("BATCH_KILL_REQUESTS", "2000"))
KILLS = int(os.environ.get("BATCH_KILLS", "2"))

# As production runs it, but the work of a killed process is taken over after three seconds, not ten.
PROGRAM = """
from nextchar.app.openai import batches; batches.LEASE_S = 3
from nextchar.app import main; main.main()
"""


def request(number: int) -> str:
    body = {"model": "real", "prompt": "the ", "max_tokens": 300, "seed": number, "precision": "float32"}
    one = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(one) + "\n"


@pytest.mark.timeout(600)
def test_killed_processes_lose_no_request_and_answer_none_twice(tmp_path: Path, clean_redis_url: str) -> None:
    settings = {"NEXTCHAR_LOG_LEVEL": "ERROR"}
    with contextlib.ExitStack() as stack:

        def start(*, with_model: bool = False) -> tuple[subprocess.Popen[bytes], httpx.Client]:
            process, url = stack.enter_context(
                started(tmp_path, clean_redis_url, settings, with_model=with_model, program=("-c", PROGRAM))
            )
            http = stack.enter_context(httpx.Client(base_url=url, timeout=60))
            eventually(lambda: is_ready(http), within_s=240)
            return process, http

        running = [start(with_model=True)]
        running.append(start())
        http = running[0][1]
        lines = "".join(map(request, range(REQUESTS))).encode()
        form = {"file": ("in.jsonl", lines), "purpose": (None, "batch")}
        file = http.post("/v1/files", files=form).json()["id"]
        body = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=body).json()["id"]

        def progress() -> dict[str, Any]:
            found: dict[str, Any] = running[0][1].get(f"/v1/batches/{batch}").json()
            return found

        for kill in range(KILLS):
            at = REQUESTS * (kill + 1) // (KILLS + 2)
            eventually(lambda at=at: progress()["request_counts"]["completed"] >= at, within_s=300)  # type: ignore[misc]
            assert progress()["status"] == "in_progress"  # otherwise the kills come too late
            for process, _ in running if kill == 0 else running[:1]:  # first all, then one of two
                process.send_signal(signal.SIGKILL)
                process.wait()
            running = [start(), *([start()] if kill == 0 else running[1:])]
        eventually(lambda: progress()["status"] == "completed", within_s=300)
        done = progress()
        assert done["request_counts"] == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}
        assert done["error_file_id"] is None
        http = running[0][1]
        answers = [
            json.loads(x) for x in http.get(f"/v1/files/{done['output_file_id']}/content").iter_lines()
        ]
        assert [one["custom_id"] for one in answers] == [f"r{i}" for i in range(REQUESTS)]
        assert all(len(one["response"]["body"]["choices"][0]["text"]) == 300 for one in answers)
        files = [file["purpose"] for file in http.get("/v1/files").json()["data"]]
        assert sorted(files) == ["batch", "batch_output"]
