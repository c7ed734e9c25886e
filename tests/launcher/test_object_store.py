"""The whole service with its storage in S3: nothing but scratch is on the disk."""

import itertools
import os
import signal
from pathlib import Path

import httpx
import pytest

from nextchar.launcher.processes import LauncherError
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack
from tests.s3_server import S3Server
from tests.store.fault_proxy import Fault, FaultProxy
from tests.waiting import eventually

TEXT = "the quick brown fox jumps over the lazy dog\n" * 400
LINES = ["the quick brown fox jumps over the lazy dog", "zzzz %% qqqq"]


def stack(data_dir: Path, environment: dict[str, str]) -> Stack:
    return Stack(LauncherSettings(data_dir=data_dir, port=0), environment=environment)


def is_ready(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/readyz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def status(http: httpx.Client, job: str) -> str:
    answer = http.get(f"/v1/jobs/{job}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


def kill_api(stack: Stack) -> None:
    before = stack.api_pid
    os.kill(before, signal.SIGKILL)
    eventually(lambda: stack.api_pid != before and is_ready(stack), what="the API is back")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.long  # a fault round; storage in S3 is tested without the launcher, too
def test_corpus_job_model_and_scores_live_in_s3_through_throttling_and_a_killed_api(
    tmp_path: Path, s3_server: S3Server
) -> None:
    bucket = s3_server.new_bucket()
    with FaultProxy(s3_server.url) as proxy:
        environment = s3_server.environment(endpoint=proxy.url) | {
            "NEXTCHAR_STORE_URL": f"s3://{bucket}/nextchar",
            "NEXTCHAR_CHECKPOINT_SECONDS": "0.4",
        }
        with stack(tmp_path, environment) as running, httpx.Client(base_url=running.url, timeout=60) as http:
            numbers = itertools.count()
            proxy.is_affected = lambda _: next(numbers) % 5 == 0
            proxy.faults.extend([Fault(status=503), Fault(lost_answer=True)] * 1000)
            corpus = http.post("/v1/corpora?name=fox", content=TEXT.encode())
            assert corpus.status_code == 201, corpus.text
            body = {"corpus": "fox", "name": "fox", "preset": "tiny", "budget": {"seconds": 2}}
            job = http.post("/v1/jobs", json=body).json()["id"]
            eventually(
                lambda: status(http, job) not in ("queued", "running"), within_s=240, what="the job ends"
            )
            assert status(http, job) == "succeeded"
            assert len(proxy.faults) < 1980, "hardly any request was throttled"

            completion = {"prompt": "the quick ", "max_characters": 12, "seed": 1}
            first = http.post("/v1/models/fox/complete", json=completion)
            assert first.status_code == 200, first.text
            scores = http.post("/v1/models/fox/score", json={"lines": LINES}).json()["lines"]
            assert scores[1]["score"] > scores[0]["score"]

            kill_api(running)
            assert http.post("/v1/models/fox/complete", json=completion).json() == first.json()
            assert http.get("/v1/corpora/fox/text").text == TEXT
            assert http.get(f"/v1/jobs/{job}/events").status_code == 200

            assert http.delete("/v1/models/fox").status_code in (200, 204)
            assert http.post("/v1/models/fox/complete", json=completion).status_code == 404
            assert http.delete("/v1/corpora/fox").status_code in (200, 204)

    keys = [o["Key"] for o in s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert all(key.startswith("nextchar/") for key in keys)
    kept = {key.split("/")[1] for key in keys}
    assert kept >= {"installation", "jobs", "model_cards"}
    assert kept.isdisjoint({"corpora", "corpus_names", "checkpoints", "model_files"})
    assert not (tmp_path / "store").exists()
    assert len(files_in(tmp_path / "model_files")) > 2
    assert files_in(tmp_path / "scratch") == files_in(tmp_path / "spool") == []


@pytest.mark.long  # starts the whole stack; API and worker are tested alone
def test_stack_says_why_it_does_not_start_on_a_store_that_cannot_be_used(
    tmp_path: Path, s3_server: S3Server
) -> None:
    environment = s3_server.environment() | {"NEXTCHAR_STORE_URL": "s3://no-such-bucket"}
    with (
        pytest.raises(LauncherError, match="the bucket does not exist; create it, or correct the URL"),
        stack(tmp_path, environment),
    ):
        pass
