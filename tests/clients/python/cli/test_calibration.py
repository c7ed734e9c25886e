"""`nextchar calibrate` makes, lists and deletes calibrations."""

import sys
from pathlib import Path

from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer

LOG = b"all is well\nall is Well\r\nall is w\xffll\nroom 9\n"
_PROGRAM = [sys.executable, "-m", "nextchar"]


def test_calibrations_are_made_listed_and_deleted(run: Run, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "normal").write_bytes(b"one\r\ntwo\n\nthree\n")
    made = run("calibrate", "fake", str(tmp_path / "normal"), "--name", "host1", "--false-alarms", "0.01")
    assert made.status == 0 and "1 in 2,000, rarer by a fitted tail" in made.out
    run("calibrate", "fake", "--corpus", "words", "--buckets", "2", "--json")
    assert server.bodies("POST", "/v1/models/fake/calibrate") == [
        {"name": "host1", "false_alarms": 0.01, "lines": ["one\r", "two", "", "three"]},
        {"corpus": "words", "buckets": 2},
    ]
    run("calibrate", "fake", "--ingested", "--name", "recent")
    assert server.bodies("POST", "/v1/models/fake/calibrate")[-1] == {"name": "recent", "ingested": True}
    run("calibrate", "fake", "--delete", "recent")
    listed = run("calibrate", "fake", "--list").out.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["validation", "host1", "default"]
    assert len(run("calibrate", "fake", "--list", "--json").json["data"]) == 3
    assert run("calibrate", "fake", "--delete", "host1").out == "deleted host1\n"
    assert run("calibrate", "fake", "--delete", "default", "--json").json["deleted"] is True
    assert server.calibrations == ["validation"]
    assert run("calibrate", "fake", stdin="").status == 1
    assert run("calibrate", "fake", stdin="\r\n").status == 1
