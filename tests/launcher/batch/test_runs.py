"""Runs in processes of this machine: what is written, that nothing is lost or doubled, and every refusal."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextchar.app.settings import ApiSettings
from nextchar.launcher.batch import engines, runs
from nextchar.launcher.batch.inputs import Part
from nextchar.launcher.batch.part_worker import PartResult, PartWorker, Work
from nextchar.models.errors import Conflict, DomainError, InvalidInput, NotFound
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.service import served
from tests.app.test_main import publish_real
from tests.launcher.batch.conftest import LINES, options, results, score
from tests.launcher.processes import is_alive
from tests.s3_server import S3Server
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, here: a process of its own takes seconds to start."""

    def run(work: Work, parts: Sequence[Part], *, workers: int) -> Iterator[PartResult]:
        worker = PartWorker(work)
        with contextlib.closing(worker):
            yield from map(worker.run, parts)

    monkeypatch.setattr(runs, "run_in_processes", run)


@pytest.mark.usefixtures("storage", "in_this_process")
def test_each_line_has_one_score_keyed_by_file_and_offset(log: Path, tmp_path: Path) -> None:
    totals = score(log, tmp_path / "out")
    assert totals.parts > 4 and totals.counts["lines"] == len(LINES) and totals.errors == []
    records = results(tmp_path / "out")
    text = log.read_bytes()
    assert [record["text"] for record in records] == LINES
    assert {record["file"] for record in records} == {str(log)}
    for record in records:
        assert text[record["offset"] :].startswith(record["text"].encode() + b"\n")
    assert json.loads((tmp_path / "out" / "done.json").read_text())["parts"] == totals.parts


@pytest.mark.usefixtures("in_this_process")
def test_scores_are_those_of_the_service(storage: Path, log: Path, tmp_path: Path, redis_url: str) -> None:
    from nextchar.app.main import create_app

    score(log, tmp_path / "out")
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


@pytest.mark.usefixtures("storage", "in_this_process")
def test_running_again_does_only_what_is_missing(log: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = score(log, output)
    before = results(output)
    paths = sorted((output / "parts").iterdir())
    for path in paths[1:3]:
        path.unlink()
    again = score(log, output, part_bytes=77)  # the first run's parts hold
    assert (again.parts, again.parts_before) == (first.parts, first.parts - 2)
    assert results(output) == before and sorted((output / "parts").iterdir()) == paths


@pytest.mark.usefixtures("storage", "in_this_process")
def test_folder_of_another_run_is_refused(log: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    score(log, output)
    with pytest.raises(Conflict, match="a run with another options"):
        score(log, output, echo=False)
    with pytest.raises(Conflict, match="another format"):
        score(log, output, format="parquet") if _has_pyarrow() else pytest.skip("pyarrow is not installed")
    other = tmp_path / "b.log"
    other.write_text("b\n")
    with pytest.raises(Conflict, match="over 1 files, and now there are 2"):
        score(log, output, inputs=[str(log), str(other)])
    with log.open("a") as file:
        file.write("more\n")
    with pytest.raises(InvalidInput, match=r"app\.log has changed since the run began"):
        score(log, output)


def _has_pyarrow() -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        import pyarrow

        return bool(pyarrow.__version__)
    return False


@pytest.mark.usefixtures("storage", "in_this_process")
def test_damaged_file_is_named_and_the_others_are_scored(log: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "b.log.gz"
    damaged.write_bytes(gzip.compress(log.read_bytes())[:-9])
    totals = score(log, tmp_path / "out", inputs=[str(log), str(damaged)])
    (error,) = totals.errors
    assert "b.log.gz is not a complete gzip file" in error
    assert len(results(tmp_path / "out")) == len(LINES)
    assert not (tmp_path / "out" / "done.json").exists()


@pytest.mark.usefixtures("storage", "in_this_process")
def test_lines_that_cannot_be_read_have_a_record(tmp_path: Path) -> None:
    log = tmp_path / "bad.log"
    log.write_bytes(b"ok\n\xff\xfe\n" + b"x" * 60_000 + b"\n")
    totals = score(log, tmp_path / "out")
    ok, invalid, long = results(tmp_path / "out")
    assert "not_utf8" not in ok and invalid["not_utf8"] == {"offset": 3, "byte": "0xff"} and long["truncated"]
    assert (totals.counts["not_utf8"], totals.counts["truncated"]) == (1, 1)


@pytest.mark.usefixtures("storage", "in_this_process")
def test_json_lines_keep_their_ids(tmp_path: Path) -> None:
    log = tmp_path / "in.jsonl"
    log.write_text('{"line": "abc", "id": 7}\n"a\\nb"\nnonsense\n')
    score(log, tmp_path / "out", is_json=True)
    first, second, third = results(tmp_path / "out")
    assert (first["text"], first["id"], second["text"]) == ("abc", 7, "a\nb")
    assert third["error"]["code"] == "malformed_line"


@pytest.mark.usefixtures("storage", "in_this_process")
@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_lines_of_a_file_whose_name_is_not_utf8_have_records(tmp_path: Path, format_: str) -> None:
    if format_ == "parquet":
        pytest.importorskip("pyarrow")
    log = tmp_path / os.fsdecode(b"caf\xe9.log")
    log.write_text("".join(f"{line}\n" for line in LINES[:60]))
    for _ in range(2):  # the second time it is recognized in the folder
        totals = score(log, tmp_path / "out", format=format_)
    assert totals.parts == totals.parts_before > 0 and totals.errors == []
    if format_ == "jsonl":
        records = results(tmp_path / "out")
        assert {record["file"] for record in records} == {str(log)}
    else:
        records = rows(tmp_path / "out")
        assert {record["file"] for record in records} == {str(tmp_path / "caf?.log")}
    assert [record["text"] for record in records] == LINES[:60]


@pytest.mark.usefixtures("storage", "in_this_process")
def test_json_lines_whose_ids_have_surrogates_have_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    log = tmp_path / "in.jsonl"
    log.write_text('{"line": "abc", "id": "\\ud800"}\n{"line": "abd", "id": {"a": "\\ud800"}}\n"\\ud800"\n')
    score(log, tmp_path / "out", is_json=True, format="parquet")
    assert [row["id"] for row in rows(tmp_path / "out")] == ["?", r"{'a': '\ud800'}", None]


def rows(output: Path) -> list[dict[str, Any]]:
    """Return the rows of all parts in Parquet."""
    parquet = pytest.importorskip("pyarrow.parquet")
    tables = [parquet.read_table(path) for path in sorted((output / "parts").iterdir())]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.usefixtures("storage", "in_this_process")
def test_parquet_has_the_same_rows(log: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    score(log, tmp_path / "lines")
    score(log, tmp_path / "table", format="parquet")
    table = rows(tmp_path / "table")
    expected = results(tmp_path / "lines")
    assert [(row["file"], row["offset"], row["text"]) for row in table] == [
        (record["file"], record["offset"], record["text"]) for record in expected
    ]
    assert [row["total_bits"] for row in table] == [record["total_bits"] for record in expected]
    assert all(row["is_utf8"] and row["error"] is None for row in table)


@pytest.mark.usefixtures("storage", "in_this_process")
def test_results_in_an_object_store(log: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket, client = s3_server.new_bucket(), s3_server.client()
    client.put_object(Bucket=bucket, Key="logs/a.log", Body=log.read_bytes())
    output = f"s3://{bucket}/scores/today"
    totals = score(f"s3://{bucket}/logs/*.log", output)
    assert totals.counts["lines"] == len(LINES)
    assert score(f"s3://{bucket}/logs/*.log", output).parts_before == totals.parts
    with pytest.raises(InvalidInput, match=r"cannot be written: .*the bucket does not exist"):
        score(f"s3://{bucket}/logs/*.log", "s3://no-such-bucket-here/x")
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=bucket, Prefix="scores/")["Contents"]]
    assert len(keys) == totals.parts + 2 and "scores/today/done.json" in keys


@pytest.mark.usefixtures("storage", "in_this_process")
def test_prompts_are_completed_with_their_seed(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt {'abc'[i % 3]}\n" for i in range(150)))
    request: dict[str, Any] = {"max_characters": 7, "seed": 3, "n": 2, "stop": ()}

    def complete(output: Path, request: dict[str, Any] = request, **changes: Any) -> list[dict[str, Any]]:
        runs.complete(options(prompts, output, **changes), lambda *_: None, request)
        return results(output)

    records = complete(tmp_path / "out", part_bytes=200)
    assert len(records) == 150 and all(len(record["completions"]) == 2 for record in records)
    by_prompt = {record["text"]: record["completions"] for record in records}
    assert len(by_prompt) == 3
    for record in records:  # the same in any company
        assert record["completions"] == by_prompt[record["text"]]
        assert {len(one["text"]) for one in record["completions"]} == {7}
        assert {one["finish_reason"] for one in record["completions"]} == {"length"}
    assert complete(tmp_path / "again", part_bytes=5_000) == records
    (tmp_path / "again" / "done.json").unlink()
    assert complete(tmp_path / "again") == records  # its run.json is that of the same options
    assert (tmp_path / "again" / "done.json").exists()
    with pytest.raises(Conflict, match="a run with another options"):
        complete(tmp_path / "again", request | {"n": 1})
    with pytest.raises(InvalidInput, match="top_p must be above 0"):
        runs.complete(options(prompts, tmp_path / "x"), lambda *_: None, {"top_p": 0.0})


def test_prompts_of_a_masked_model_are_masked(storage: Path, tmp_path: Path) -> None:
    publish_real(storage, masks=("numbers",))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("took 12 s\ntook 4711 s\n")
    request: dict[str, Any] = {"max_characters": 7, "seed": 3, "stop": ()}
    runs.complete(options(prompts, tmp_path / "out"), lambda *_: None, request)
    records = results(tmp_path / "out")
    assert [record["text"] for record in records] == ["took 12 s", "took 4711 s"]
    assert records[0]["completions"] == records[1]["completions"]


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(
    ("changes", "query", "error", "says"),
    [
        ({"model": "missing"}, {}, NotFound, "no model"),
        ({"model": "./missing"}, {}, NotFound, r"has no model\.json"),
        ({"inputs": ["/nowhere/*.log"]}, {}, NotFound, "no file matches"),
        ({"inputs": [os.devnull]}, {}, NotFound, "no file matches"),
        ({"output": "ftp://host/x"}, {}, DomainError, "ftp"),
        ({}, {"only": "anomalous"}, InvalidInput, "has no calibration"),
        ({}, {"false_alarms": 0.1}, InvalidInput, "has no calibration"),
        ({}, {"calibration": "mine"}, NotFound, "mine"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    log: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    query: dict[str, Any],
    error: type[DomainError],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        runs.score(options(log, **{"output": tmp_path / "out"} | changes), lambda *_: None, **query)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("storage")
def test_without_ray_nothing_is_written(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidInput, match=r"nextchar\[ray\].*--engine local"):
        score(log, tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("storage")
def test_empty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    with pytest.raises(InvalidInput, match="the 1 files are empty"):
        score(tmp_path / "empty.log", tmp_path / "out")


def test_damaged_model_is_refused(storage: Path, log: Path, tmp_path: Path) -> None:
    blobs = open_blobs((storage / "store").as_uri())
    card = Models(blobs).get("real").card
    (path,) = [path for path in blobs.paths("model_files") if path.endswith("model.onnx")]
    blobs.write(path, b"damaged")
    with pytest.raises(DomainError, match=f"of model {card.reference} is damaged"):
        score(log, tmp_path / "out")


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from nextchar.launcher.batch.records import check_format

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidInput, match=r"nextchar\[ray\].*--engine local"):
        engines.import_ray()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInput, match=r"Parquet needs pyarrow.*nextchar\[ray\]"):
        check_format("parquet")


def command(log: Path, output: Path, *more: str) -> list[str]:
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
def test_nothing_is_lost_or_doubled_when_the_command_and_a_worker_are_killed(
    storage: Path, tmp_path: Path
) -> None:
    log, output = tmp_path / "large.log", tmp_path / "out"
    log.write_text("".join(f"{line} {i}\n" for i, line in enumerate(LINES * 100)))
    environment = os.environ | {
        "NEXTCHAR_DATA_DIR": str(storage),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}",
    }

    def written() -> int:
        return len(list((output / "parts").glob("*"))) if (output / "parts").exists() else 0

    # The command itself is killed: its workers end with it.
    running = subprocess.Popen(command(log, output), env=environment, cwd=tmp_path)
    eventually(lambda: written() >= 2 or running.poll() is not None, within_s=100)
    children = workers(running.pid)
    assert running.poll() is None and len(children) == 2
    running.kill()
    running.wait()
    eventually(lambda: not any(map(is_alive, children)), within_s=20)
    # One worker is killed: the command says what to do.
    before = written()
    running = subprocess.Popen(
        command(log, output), env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    eventually(lambda: written() > before or running.poll() is not None, within_s=100)
    os.kill(workers(running.pid)[0], signal.SIGKILL)
    _, printed = running.communicate(timeout=60)
    assert running.returncode == 1 and "run the same command again" in " ".join(printed.split())
    # Run again, it does the rest.
    done = subprocess.run(
        command(log, output, "--json"),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert 0 < answer["parts_before"] < answer["parts"] == answer["parts_before"] + answer["parts_done"]
    records = results(output)
    assert [record["text"] for record in records] == log.read_text().splitlines()


def test_ctrl_c_ends_the_command_and_its_workers_at_once(storage: Path, tmp_path: Path) -> None:
    log, output, scratch = tmp_path / "large.log", tmp_path / "out", tmp_path / "scratch"
    log.write_text("".join(f"{line}\n" for line in LINES * 2_000))  # minutes of work
    scratch.mkdir()
    environment = os.environ | {
        "NEXTCHAR_DATA_DIR": str(storage),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}",
        "TMPDIR": str(scratch),
    }
    running = subprocess.Popen(
        command(log, output, "--part-size", "1000"), env=environment, cwd=tmp_path, start_new_session=True
    )
    eventually(lambda: list(scratch.rglob("results")) or running.poll() is not None, within_s=100)
    children = workers(running.pid)
    assert running.poll() is None and children
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    try:
        assert running.wait(5) == 130
    finally:
        running.kill()
    assert not any(map(is_alive, children))
    assert not list((output / "parts").glob("*")) and not list(scratch.iterdir())
