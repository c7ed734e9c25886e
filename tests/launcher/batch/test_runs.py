"""`nextchar batch` on this machine: what is written, that nothing is lost or doubled, and every refusal."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar.app.rooms import ApiSettings
from nextchar.launcher import batch
from nextchar.models.text.events import Opener, events_of
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.service import served
from tests.app.test_main import publish_real
from tests.launcher.batch.conftest import LINES, Command, results
from tests.launcher.processes import is_alive
from tests.s3_server import S3Server
from tests.waiting import eventually


def test_each_line_has_one_score_keyed_by_file_and_offset(
    command: Command, log: Path, tmp_path: Path
) -> None:
    totals = command("score", log, "--output", tmp_path / "out", "--json").json
    assert totals["parts"] == totals["parts_done"] > 4 and totals["errors"] == []
    assert totals["lines"] == len(LINES) and totals["characters"] == sum(map(len, LINES))
    records = results(tmp_path / "out")
    text = log.read_bytes()
    assert [record["text"] for record in records] == LINES
    assert {record["file"] for record in records} == {str(log)}
    for record in records:
        assert text[record["offset"] :].startswith(record["text"].encode() + b"\n")
    assert json.loads((tmp_path / "out" / "done.json").read_text())["parts"] == totals["parts"]


def test_scores_are_those_of_the_service(
    command: Command, storage: Path, log: Path, tmp_path: Path, redis_url: str
) -> None:
    from nextchar.app.main import create_app

    command("score", log, "--output", tmp_path / "out")
    with (
        served(create_app(ApiSettings(data_dir=storage, redis_url=redis_url))) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        headers = {"Content-Type": "text/plain"}
        answer = http.post("/v1/models/real/score", content=log.read_bytes(), headers=headers)
    served_records = [json.loads(line) for line in answer.text.splitlines()][1:-1]
    for ours, theirs in zip(results(tmp_path / "out"), served_records, strict=True):
        assert ours["offset"] == theirs["offset"]
        assert ours["total_bits"] == pytest.approx(theirs["total_bits"], abs=2e-3)


def test_running_again_does_only_what_is_missing(command: Command, log: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "out", tmp_path / "b.log"
    other.write_text("b\n")
    first = command("score", log, other, "--output", output, "--json").json
    before = results(output)
    paths = sorted((output / "parts").iterdir())
    for path in paths[1:3]:
        path.unlink()
    (output / "done.json").unlink()
    more = ("--output", output, "--part-size", "0.077")  # the first run's parts hold
    again = command("score", log, other, *more)
    said = f"{first['parts'] - 1} of {first['parts']} parts (1 were there before)"
    assert again.status == 0 and again.out == "" and said in again.err
    assert results(output) == before and sorted((output / "parts").iterdir()) == paths
    assert (output / "done.json").exists()
    prompts = command("complete", log, "--seed", "1", "--output", tmp_path / "completed", "--json").json
    sorted((tmp_path / "completed" / "parts").iterdir())[1].unlink()
    again = command("complete", log, "--seed", "1", "--output", tmp_path / "completed", "--json")
    assert (again.json["parts_done"], again.json["parts_before"]) == (1, prompts["parts"] - 1)


def test_parts_that_were_scored_when_a_run_ended_are_not_scored_again(
    command: Command, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, scored = tmp_path / "out", list[batch.Part]()

    def killed(work: batch.Work, parts: tuple[batch.Part, ...]) -> batch.Result:
        return batch.Result(parts[0].file.name, Counter(), "killed")

    def read(work: batch.Work, part: batch.Part) -> batch.Result:
        scored.append(part)
        return whole(work, part)

    whole = batch.Work._read
    monkeypatch.setattr(batch.Work, "_read", read)
    with monkeypatch.context() as patch:
        patch.setattr(batch.Work, "_judge", killed)
        failed = command("score", log, "--output", output)
    count = len(scored)
    assert failed.status == 1 and f"{count} parts have no results" in failed.err and not results(output)
    sorted((output / "scored").iterdir())[1].unlink()
    totals = command("score", log, "--output", output, "--json").json
    assert len(scored) == count + 1 and totals["parts_done"] == count and totals["lines"] == len(LINES)
    assert [record["text"] for record in results(output)] == LINES
    assert not (output / "scored").exists()


def test_folder_of_another_run_is_refused(command: Command, log: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "out", tmp_path / "b.log"
    other.write_text("b\n")
    command("score", log, "--output", output)
    for changed, named in {"--no-text": "options", "--json-lines": "json lines", str(other): "files"}.items():
        refused = command("score", log, changed, "--output", output)
        assert refused.status == 1 and f"another run, whose {named} differ" in refused.err
    with log.open("a") as file:
        file.write("more\n")
    refused = command("score", log, "--output", output)
    assert refused.status == 1 and "whose files differ" in refused.err


def test_damaged_file_is_named_and_the_others_are_scored(command: Command, log: Path, tmp_path: Path) -> None:
    (tmp_path / "b.gz").write_bytes(gzip.compress(log.read_bytes())[:-9])
    (tmp_path / "c.gz").write_bytes(b"no gzip\n")
    (tmp_path / "empty.log").touch()
    failed = command("score", tmp_path / "*.gz", log, tmp_path / "empty.log", "--output", tmp_path / "out")
    assert failed.status == 1 and "2 parts have no results" in failed.err
    assert "b.gz cannot be processed: " in failed.err and "c.gz cannot be processed: " in failed.err
    assert [record["text"] for record in results(tmp_path / "out")] == LINES
    assert not (tmp_path / "out" / "done.json").exists()


def test_compressed_file_of_several_members_is_one_part(command: Command, tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n" * 100_000))
    totals = command("score", tmp_path / "log.gz", "--output", tmp_path / "out", "--json").json
    assert (totals["parts"], totals["lines"]) == (1, 100_001)
    assert [record["offset"] for record in results(tmp_path / "out")] == list(range(0, 400_004, 4))


def test_lines_that_cannot_be_read_have_a_record(command: Command, tmp_path: Path) -> None:
    log = tmp_path / "bad.log"
    log.write_bytes(b"ok\n\xff\xfe\n" + b"x" * 60_000 + b"\n")
    assert command("score", log, "--output", tmp_path / "out", "--json").json["not_utf8"] == 1
    ok, invalid, long = results(tmp_path / "out")
    assert "not_utf8" not in ok and invalid["not_utf8"] == {"offset": 3, "byte": "0xff"} and long["truncated"]


@pytest.mark.parametrize("operation", ["score", "complete"])
def test_json_lines_keep_their_ids(command: Command, tmp_path: Path, operation: str) -> None:
    log = tmp_path / "in.jsonl"
    log.write_text('{"line": "abc", "id": 7}\n"a\\nb"\nnonsense\n')
    assert command(operation, log, "--json-lines", "--output", tmp_path / "out").status == 0
    first, second, third = results(tmp_path / "out")
    assert (first["text"], first["id"], second["text"]) == ("abc", 7, "a\nb")
    assert third["error"]["code"] == "malformed_line"


def rows(output: Path) -> list[dict[str, Any]]:
    """Return the rows of all parts in Parquet."""
    parquet = pytest.importorskip("pyarrow.parquet")
    tables = [parquet.read_table(path) for path in sorted((output / "parts").iterdir())]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_lines_of_a_file_whose_name_is_not_utf8_have_records(
    command: Command, tmp_path: Path, format_: str
) -> None:
    log, output = tmp_path / os.fsdecode(b"caf\xe9.log"), tmp_path / "out"
    log.write_text("".join(f"{line}\n" for line in LINES[:60]))
    pytest.importorskip("pyarrow" if format_ == "parquet" else "json")
    arguments = (tmp_path / "caf*.log", "--format", format_, "--output", output, "--json")
    first, again = (command("score", *arguments).json for _ in range(2))
    assert first["errors"] == [] and again["parts_before"] == first["parts_done"] > 0
    name = tmp_path / "caf?.log" if format_ == "parquet" else log
    records = rows(output) if format_ == "parquet" else results(output)
    assert [(record["file"], record["text"]) for record in records] == [(str(name), x) for x in LINES[:60]]


def test_parquet_has_the_same_rows(command: Command, log: Path, tmp_path: Path) -> None:
    for format_ in ("jsonl", "parquet"):
        command("score", log, "--format", format_, "--output", tmp_path / format_)
        command("complete", log, "--seed", "1", "--format", format_, "--output", tmp_path / f"{format_}2")
    for expected, row in zip(results(tmp_path / "jsonl"), rows(tmp_path / "parquet"), strict=True):
        assert expected.items() <= row.items() and row["is_utf8"] and row["error"] is None
    for expected, row in zip(results(tmp_path / "jsonl2"), rows(tmp_path / "parquet2"), strict=True):
        assert expected.items() <= row.items()


def test_parquet_has_ids_as_text_and_errors(command: Command, tmp_path: Path) -> None:
    log = tmp_path / "in.jsonl"
    log.write_text('{"line": "a", "id": "\\ud800"}\n{"line": "b", "id": {"a": "\\ud800"}}\n"\\ud800"\nx\n')
    command("score", log, "--json-lines", "--format", "parquet", "--output", tmp_path / "out")
    found = rows(tmp_path / "out")
    assert [row["id"] for row in found] == ["?", r"{'a': '\ud800'}", None, None]
    assert [row["error"] for row in found[:3]] == [None] * 3 and "JSON" in found[3]["error"]


def test_files_and_results_in_an_object_store(
    command: Command, log: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket, client = s3_server.new_bucket(), s3_server.client()
    for key, body in {"logs/a.log": log.read_bytes(), "logs/b/c.gz": gzip.compress(log.read_bytes())}.items():
        client.put_object(Bucket=bucket, Key=key, Body=body)
    arguments = ("score", f"s3://{bucket}/logs/**/[ac].*", "--json", "--output")
    totals = command(*arguments, f"s3://{bucket}/scores/today").json
    assert totals["lines"] == 2 * len(LINES) and totals["errors"] == []
    assert command(*arguments, f"s3://{bucket}/scores/today").json["parts_before"] == totals["parts"]
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=bucket, Prefix="scores/")["Contents"]]
    assert len(keys) == totals["parts"] + 2 and "scores/today/done.json" in keys
    texts = [
        json.loads(line)["text"]
        for key in keys
        if "/parts/a.log" in key
        for line in client.get_object(Bucket=bucket, Key=key)["Body"].read().splitlines()
    ]
    assert texts == LINES
    assert (
        "s3://no-such-bucket-here/x cannot be used" in command(*arguments, "s3://no-such-bucket-here/x").err
    )


def test_prompts_are_completed_with_their_seed(command: Command, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt {'abc'[i % 3]}\n" for i in range(150)))
    arguments = ("complete", prompts, "--max-characters", "7", "--seed", "3", "--output")
    assert command(*arguments, tmp_path / "out", "-n", "2").status == 0
    records = results(tmp_path / "out")
    assert len(records) == 150 and all(len(record["completions"]) == 2 for record in records)
    by_prompt = {record["text"]: record["completions"] for record in records}
    assert len(by_prompt) == 3
    for record in records:  # the same in any company
        assert record["completions"] == by_prompt[record["text"]]
        assert {len(one["text"]) for one in record["completions"]} == {7}
        assert {one["finish_reason"] for one in record["completions"]} == {"length"}
    command(*arguments, tmp_path / "again", "-n", "2", "--part-size", "1")
    assert results(tmp_path / "again") == records
    stop = str(by_prompt["prompt a"][0]["text"][1])
    command(*arguments, tmp_path / "stopped", "--stop", stop, "--stop", "!")
    assert results(tmp_path / "stopped")[0]["completions"][0]["finish_reason"] == "stop"


def test_prompts_of_a_masked_model_are_masked(command: Command, storage: Path, tmp_path: Path) -> None:
    publish_real(storage, masks=("numbers",))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("took 12 s\ntook 4711 s\n")
    command("complete", prompts, "--seed", "3", "--output", tmp_path / "out")
    first, second = results(tmp_path / "out")
    assert (first["text"], second["text"]) == ("took 12 s", "took 4711 s")
    assert first["completions"] == second["completions"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("score", "--model", "missing"), 1, "no model"),
        (("score", "--model", "./missing"), 1, "has no model.json"),
        (("score", "/nowhere/*.log"), 1, "no file matches"),
        (("score", os.devnull), 1, "no file matches"),
        (("score", "/"), 1, "of a folder name the files"),
        (("score", "s3://bucket"), 1, "cannot be read"),
        (("score", "http://host/file"), 1, "cannot be read"),
        (("score", "--output", "ftp://host/x"), 1, "ftp"),
        (("score", "--only", "anomalous"), 1, "has no calibration"),
        (("score", "--false-alarms", "0.1"), 1, "has no calibration"),
        (("score", "--calibration", "mine"), 1, "mine"),
        (("score", "--false-alarms", "2"), 1, "--false-alarms: must be less than 1, not 2"),
        (("score", "--address", "10.0.0.7:6379"), 2, "--address"),
        (("complete", "-n", "65"), 1, "n is at most 64"),
        (("complete", "--top-p", "0"), 1, "top_p must be above 0"),
        (("complete", "--address", "10.0.0.7:6379"), 2, "--address"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    command: Command, log: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    operation, *more = arguments
    refused = command(operation, log, "--output", tmp_path / "out", *more)
    assert refused.status == status and says in refused.err
    assert not (tmp_path / "out").exists()


def test_damaged_model_is_refused(command: Command, storage: Path, log: Path, tmp_path: Path) -> None:
    blobs = open_blobs((storage / "store").as_uri())
    card = Models(blobs).get("real").card
    (path,) = [path for path in blobs.paths("model_files") if path.endswith("model.onnx")]
    blobs.write(path, b"damaged")
    refused = command("score", log, "--output", tmp_path / "out")
    assert refused.status == 1 and f"of model {card.reference} is damaged" in refused.err


@pytest.mark.parametrize(("option", "package"), [("--engine=ray", "ray"), ("--format=parquet", "pyarrow")])
def test_missing_package_is_named(
    command: Command, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    for module in (package, f"{package}.data"):  # another test may have loaded either
        monkeypatch.setitem(sys.modules, module, None)
    refused = command("score", log, option, "--output", tmp_path / "out")
    assert refused.status == 1 and "nextchar[ray]" in refused.err and f"{package}" in refused.err
    assert not (tmp_path / "out").exists()


def in_process(log: Path, output: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "nextchar", "batch", "score", str(log), "--model", "real"),
        *("--output", str(output), "--engine", "local", "--actors", "2", "--part-size", "0.02", *more),
    ]


def workers(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_child = int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("storage")
@pytest.mark.long  # a fault round; parts that are there already are above
def test_nothing_is_lost_or_doubled_when_the_command_and_a_worker_are_killed(tmp_path: Path) -> None:
    log, output = tmp_path / "large.log", tmp_path / "out"
    log.write_text("".join(f"{line} {i}\n" for i, line in enumerate(LINES * 100)))

    def written() -> int:
        return len(list((output / "scored").glob("*")))

    # The command itself is killed: its workers end with it.
    running = subprocess.Popen(in_process(log, output))
    eventually(lambda: written() >= 2 or running.poll() is not None, within_s=100)
    children = workers(running.pid)
    assert running.poll() is None and len(children) == 2
    running.kill()
    running.wait()
    eventually(lambda: not any(map(is_alive, children)), within_s=20)
    # One worker is killed: the command says what to do.
    before = written()
    running = subprocess.Popen(in_process(log, output), stderr=subprocess.PIPE)
    eventually(lambda: written() > before or running.poll() is not None, within_s=100)
    os.kill(workers(running.pid)[0], signal.SIGKILL)
    _, printed = running.communicate(timeout=60)
    assert running.returncode == 1 and b"run the same command again" in b" ".join(printed.split())
    # Run again, it does the rest.
    done = subprocess.run(in_process(log, output, "--json"), capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["parts"] == answer["parts_done"] > before
    assert [record["text"] for record in results(output)] == log.read_text().splitlines()


@pytest.mark.usefixtures("storage")
def test_ctrl_c_ends_the_command_and_its_workers_at_once(tmp_path: Path) -> None:
    log, output, scratch = tmp_path / "large.log", tmp_path / "out", tmp_path / "scratch"
    log.write_text("".join(f"{line}\n" for line in LINES * 2_000))  # minutes of work
    scratch.mkdir()
    running = subprocess.Popen(
        in_process(log, output, "--part-size", "1000"),
        env=os.environ | {"TMPDIR": str(scratch)},
        start_new_session=True,
        # Tests in the background of a shell inherit that the signal is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    # The worker of the one part has begun to write its results.
    eventually(lambda: list(scratch.glob("*/*")) or running.poll() is not None, within_s=100)
    children = workers(running.pid)
    assert running.poll() is None and children
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    try:
        assert running.wait(60) == 130  # of minutes
    finally:
        running.kill()
    assert not any(map(is_alive, children))
    assert not [*output.glob("parts/*"), *output.glob("scored/*"), *scratch.iterdir()]


def test_an_event_is_scored_once_wherever_parts_begin(
    command: Command, storage: Path, log: Path, tmp_path: Path
) -> None:
    opener = Opener()  # what is indented belongs to the line before
    publish_real(storage, opener=opener)
    lines = [line.replace("line ", "  at ") if i % 7 else line for i, line in enumerate(LINES)]
    log.write_text("".join(f"{line}\n" for line in lines))
    totals = command("score", log, "--output", tmp_path / "out", "--json").json
    assert totals["parts"] > 4 and totals["lines"] == len(lines)
    records = results(tmp_path / "out")
    assert [record["text"] for record in records] == list(events_of(opener, lines))
    assert [record["lines"] for record in records] == [*[7] * 57, 1]
    text = log.read_bytes()
    assert all(text[record["offset"] :].startswith(record["text"].encode() + b"\n") for record in records)
