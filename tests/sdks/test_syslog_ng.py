"""syslog-ng's http() destination sends lines to the service, through a death of Redis."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nextchar.app.rooms import ApiSettings
from nextchar.launcher.valkey import EmbeddedValkey
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.waiting import eventually

SYSLOG_NG = shutil.which("syslog-ng")

pytestmark = pytest.mark.skipif(SYSLOG_NG is None, reason="syslog-ng is not installed")

# As in docs/how-to/ingest-logs.md, but for addresses and times.
_CONFIGURATION = """
@version: current
source s_file {{ file("{log}" follow-freq(0.1) flags(no-parse)); }};
destination d_nextchar {{
  http(
    url("{url}/v1/models/fake/ingest?idempotency=body")
    method("POST")
    headers("Content-Type: {kind}")
    body("{body}")
    delimiter("\\n")
    batch-lines(100) batch-timeout(200)
    timeout(10)
    time-reopen(1)
  );
}};
log {{ source(s_file); destination(d_nextchar); flags(flow-control); }};
"""

BODIES = {
    "application/x-ndjson": "$(format-json message=$MESSAGE host=web-1 timestamp=$ISODATE)\\n",
    "text/plain": "$MESSAGE\\n",
}


@contextmanager
def syslog_ng(folder: Path, log: Path, url: str, kind: str) -> Iterator[None]:
    folder.mkdir()
    configuration = folder / "syslog-ng.conf"
    body = BODIES[kind].removesuffix("\\n")
    configuration.write_text(_CONFIGURATION.format(log=log, url=url.rstrip("/"), kind=kind, body=body))
    assert SYSLOG_NG is not None
    with (folder / "log").open("wb") as output:
        running = subprocess.Popen(
            [
                *(SYSLOG_NG, "--foreground", "--no-caps", "--stderr", "--cfgfile", str(configuration)),
                *("--persist-file", str(folder / "persist"), "--control", str(folder / "control")),
                *("--pidfile", str(folder / "pid")),
            ],
            stdout=output,
            stderr=output,
        )
    try:
        yield
        assert running.poll() is None, (folder / "log").read_text()
    finally:
        running.terminate()
        running.wait(120)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path / "redis") as valkey:
        yield valkey


@pytest.fixture
def service(tmp_path: Path, valkey: EmbeddedValkey) -> Iterator[Service]:
    settings = ApiSettings(data_dir=tmp_path / "api", redis_url=valkey.url, port=0, ingest_takeover_s=1)
    with serving(settings) as running:
        publish(running.models)
        lines = ["ab" * (1 + i % 9) for i in range(120)]
        running.http.post("/v1/models/fake/calibrate", json={"lines": lines}).raise_for_status()
        yield running


def has_scored(service: Service, count: int) -> Callable[[], bool]:
    def condition() -> bool:
        answer = service.http.get("/v1/models/fake/ingest")
        return answer.status_code == 200 and answer.json()["scored"] >= count

    return condition


@pytest.mark.parametrize("kind", BODIES)
def test_no_line_is_lost_or_counted_twice_when_redis_dies(
    tmp_path: Path, valkey: EmbeddedValkey, service: Service, kind: str
) -> None:
    log = tmp_path / "in.log"
    log.write_text("")

    def write(start: int, end: int) -> None:
        with log.open("a") as file:
            file.writelines(f"{'→' if i % 50 == 0 else ''}{_word(i)}\n" for i in range(start, end))

    with syslog_ng(tmp_path / "syslog-ng", log, str(service.http.base_url), kind):
        write(0, 500)
        eventually(has_scored(service, 500), what=(tmp_path / "syslog-ng" / "log").read_text())
        assert valkey._process is not None
        valkey._process.kill()
        valkey._process.wait()
        write(500, 1_000)
        answer = service.http.post(
            "/v1/models/fake/ingest", content="ab", headers={"Content-Type": "text/plain"}
        )
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "queue_unavailable"
        valkey.start()
        write(1_000, 1_500)
        eventually(has_scored(service, 1_500))
    status = service.http.get("/v1/models/fake/ingest").json()
    assert (status["accepted"], status["scored"], status["flagged"]) == (1_500, 1_500, 30)
    flagged = service.http.get("/v1/models/fake/ingest/events").json()["data"]
    assert sorted(line["line"] for line in flagged) == sorted(f"→{_word(i)}" for i in range(0, 1_500, 50))
    assert {line["source"] for line in flagged} == ({"web-1"} if "json" in kind else {None})


def _word(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:05}")


def test_the_documented_configuration_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "ingest-logs.md").read_text("utf-8")
    block = page.partition("## syslog-ng")[2].partition("```text\n")[2].partition("```")[0]
    assert "http(" in block
    configuration = tmp_path / "syslog-ng.conf"
    configuration.write_text(
        f"@version: current\n{block}\nlog {{ source {{ internal(); }}; destination(d_nextchar); }};\n"
    )
    assert SYSLOG_NG is not None
    checked = subprocess.run(
        [SYSLOG_NG, "--syntax-only", "--no-caps", "--cfgfile", str(configuration),
         "--persist-file", str(tmp_path / "persist")],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
