"""Notification targets are added, tested and deleted from the command line, against the API itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.logs.notifications.receiver import Receiver, receiving
from tests.app.service import Service, serving
from tests.clients.python.conftest import Run


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def service(tmp_path: Path, clean_redis_url: str) -> Iterator[Service]:
    settings = ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0, allow_private_targets=True)
    with serving(settings) as running:
        yield running


def test_a_target_is_added_tested_and_deleted(
    service: Service, run: Run, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTCHAR_SERVER", str(service.http.base_url))
    assert "there is no target" in run("targets").err
    made = run("targets", "add", receiver.url, "--event", "job.failed", "--model", "web-*")
    target = made.out.strip()
    assert "whsec_" in made.err
    [listed] = run("targets", "--json").json["data"]
    assert (listed["id"], listed["events"], listed["models"]) == (target, ["job.failed"], ["web-*"])
    receiver.status, receiver.body = 200, b"thank you"
    assert "status 200: thank you" in run("targets", "test", target).out
    assert json.loads(receiver.requests[0].body)["type"] == "test"
    receiver.status, receiver.body = 500, b"out of order"
    failed = run("targets", "test", target)
    assert (failed.status, failed.out) == (1, "") and "out of order" in failed.err
    assert run("targets", "test", target, "--json").json["delivered"] is False
    assert "no message was given up" in run("targets", "deliveries", target).err
    assert "no message waits" in run("targets", "deliveries", target, "--waiting").err
    assert run("targets", "rm", target).out == f"deleted {target}\n"
    refused = run("targets", "add", receiver.url, "--event", "job.done")
    assert refused.status == 1 and "nextchar: --event: must be " in refused.err
