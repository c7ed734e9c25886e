"""The same lines get the same flags, repeats and alerts however they are scored and divided."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from tests.app.service import served
from tests.app.test_main import publish_real
from tests.clients.python.conftest import Outcome
from tests.launcher.batch.conftest import Command, results

NORMAL = [f"{word} of unit {unit} done" for word in ("start", "stop", "reload") for unit in "abcdefgh"] * 20
STRANGE = [
    *(f"fan {speed} of the power supply stopped turning" for speed in "abcdefghij"),
    *(f"start of unit {unit} zebra" for unit in "abcdefgh"),
    "disk is full",
    "bus error now",
]

Judged = tuple[bool, bool, str | None]


def judged(records: Sequence[dict[str, Any]]) -> list[Judged]:
    """Return whether lines are flagged, whether they are repeats, and their alerts."""
    return [(one["anomalous"], one.get("repeated") or False, one.get("alert_id")) for one in records]


@pytest.fixture
def http(storage: Path, redis_url: str) -> Iterator[httpx.Client]:
    """A service with a calibrated model with templates, whose storage batches use."""
    publish_real(storage, lines=NORMAL)
    with (
        served(create_app(ApiSettings(data_dir=storage, redis_url=redis_url))) as url,
        httpx.Client(base_url=url, timeout=600) as http,
    ):
        http.post("/v1/models/real/calibrate", json={"lines": NORMAL}).raise_for_status()
        yield http


@pytest.mark.parametrize("seed", range(3))
def test_flags_do_not_depend_on_requests_or_parts(
    http: httpx.Client, command: Command, tmp_path: Path, seed: int
) -> None:
    r = random.Random(seed)
    path = "/v1/models/real/score"
    lines = list(dict.fromkeys(NORMAL))
    found = http.post(path, json={"lines": lines}).raise_for_status().json()["lines"]
    # Those of the highest scores may exceed the calibration's by the rounding of another batch.
    usual = [line for line, one in zip(lines, found, strict=True) if one["p_value"] > 0.1]
    log = [r.choice(STRANGE if r.random() < 0.4 else usual) for _ in range(300)]
    pieces = list(_cut(log, r))
    expected = judged(http.post(path, json={"lines": log}).raise_for_status().json()["lines"])
    assert sum(flag for flag, _, _ in expected) > 5 < sum(repeat for _, repeat, _ in expected)

    parts: list[Judged] = []
    for lines in pieces:
        answer = http.post(path, json={"lines": lines, "stream_id": f"json-{seed}", "context": "line"})
        parts += judged(answer.raise_for_status().json()["lines"])
    assert parts == expected

    streamed: list[Judged] = []
    for lines in pieces:
        answer = http.post(
            path,
            content="".join(f"{line}\n" for line in lines),
            params={"stream_id": f"text-{seed}"},
            headers={"Content-Type": "text/plain"},
        )
        streamed += judged([json.loads(line) for line in answer.raise_for_status().text.splitlines()[1:-1]])
    assert streamed == expected

    file = tmp_path / "app.log"
    file.write_text("".join(f"{line}\n" for line in log))
    size = str(r.choice([0.001, 0.002, 0.003, 1]))
    totals = command("score", file, "--part-size", size, "--output", tmp_path / "out", "--json").json
    assert judged(results(tmp_path / "out")) == expected
    flagged = [one for one in expected if one[0]]
    assert (totals["anomalous"], totals["repeated"]) == (len(flagged), sum(one[1] for one in expected))
    few: Outcome = command(
        "score", file, "--part-size", size, "--only", "anomalous", "--output", tmp_path / "few"
    )
    assert few.status == 0 and judged(results(tmp_path / "few")) == flagged
    assert totals["changes"] and totals["changes"][0] in few.err


def _cut(log: Sequence[str], r: random.Random) -> Iterator[list[str]]:
    at = 0
    while at < len(log):
        size = r.randint(1, 60)
        yield list(log[at : at + size])
        at += size


def test_with_repeats_flag_each_line_is_judged_by_itself(
    http: httpx.Client, command: Command, tmp_path: Path
) -> None:
    log = [*STRANGE, *STRANGE]
    body = {"lines": log, "repeats": "flag"}
    expected = judged(http.post("/v1/models/real/score", json=body).json()["lines"])
    file = tmp_path / "app.log"
    file.write_text("".join(f"{line}\n" for line in log))
    assert command("score", file, "--repeats", "flag", "--output", tmp_path / "out").status == 0
    assert judged(results(tmp_path / "out")) == expected
    assert not any(repeated for _, repeated, _ in expected)
