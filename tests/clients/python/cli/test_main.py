"""Every command, its output through a pipe, its JSON, its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nextchar.cli.main import name_of

from models.text.masks import NAMED
from tests.clients.python.conftest import Run, in_shell
from tests.clients.python.fake_server import FILES, FakeServer, FakeTraining

_COMMANDS = [
    ("status",),
    ("corpus", "list"),
    ("corpus", "show", "words"),
    ("corpus", "rm", "words"),
    ("train", "words", "--name", "fake", "--no-follow"),
    ("jobs",),
    ("jobs", "show", "job_1"),
    ("jobs", "cancel", "job_1"),
    ("jobs", "pause", "job_1"),
    ("models",),
    ("models", "show", "fake"),
    ("report", "fake"),
    ("calibrate", "fake", "--list"),
    ("models", "rm", "fake"),
    ("complete", "fake", "hello"),
    ("next", "fake", "phil"),
]


@pytest.mark.parametrize("arguments", _COMMANDS, ids=" ".join)
def test_every_command_works_plain_and_as_json(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "words.txt").write_text("some words\n")
    assert run("corpus", "add", str(tmp_path / "words.txt")).status == 0
    as_json = run(*arguments, "--json")
    assert (as_json.status, as_json.err) == (0, "")
    assert isinstance(as_json.json, dict)
    plain = run(*arguments)
    assert plain.status == 0
    assert plain.out
    assert "\x1b" not in plain.out.replace(
        "\x1b[2J", ""
    )  # the fake completes with one, and a pipe gets it raw


def test_corpus_add_names_the_corpus_after_its_file(run: Run, server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "My notes (2).txt"
    file.write_text("naïve\n")
    assert run("corpus", "add", str(file), "--json").json["name"] == "My-notes-2"
    assert run("corpus", "add", str(file), "--name", "other", "--json").json["name"] == "other"
    assert run("corpus", "add", "-", "--json", stdin="abc").json["name"] is None


@pytest.mark.parametrize(
    ("file", "name"), [("log.2026.txt", "log.2026"), ("…", None), ("x" * 99, "x" * 64), ("-_a", "a")]
)
def test_names_made_of_file_names_are_names(file: str, name: str | None) -> None:
    assert name_of(Path(file)) == name


def test_train_sends_what_was_given_and_leaves_the_rest_to_the_service(run: Run, server: FakeServer) -> None:
    run("train", "c", "--name", "n", "--no-follow")
    changes = "--preset tiny --steps 9 --units 64 --rows 4 --seed 3 --validation-fraction 0.2"
    run("train", "c", "--name", "n", "--no-follow", *changes.split())
    plain, full = server.bodies("POST", "/v1/jobs")
    assert plain == {"corpus": "c", "name": "n"}
    assert full == {
        "corpus": "c",
        "name": "n",
        "preset": "tiny",
        "validation_fraction": 0.2,
        "seed": 3,
        "budget": {"steps": 9},
        "network": {"units": 64},
        "training": {"rows": 4},
    }


@pytest.mark.parametrize(
    ("options", "masks"),
    [
        ("--masks timestamp,long_numbers", ["timestamp", "long_numbers"]),
        ("--masks none", []),
        ("--masks ip --masks id=[a-z]{3,5}", ["ip", "id=[a-z]{3,5}"]),
    ],
)
def test_train_masks_what_it_is_told_to(run: Run, server: FakeServer, options: str, masks: list[str]) -> None:
    run("train", "c", "--name", "n", "--no-follow", *options.split())
    (body,) = server.bodies("POST", "/v1/jobs")
    assert body["masks"] == masks


def test_train_says_when_a_mask_is_no_name(run: Run) -> None:
    wrong = run("train", "c", "--name", "n", "--no-follow", "--masks", "timestamps")
    assert "'timestamps' is not the name of a mask" in wrong.err and "timestamp, date" in wrong.err
    for right in (",".join(NAMED), "id=[a-z]+", "none"):
        assert run("train", "c", "--name", "n", "--no-follow", "--masks", right).err == ""


def test_train_ends_with_the_figure_of_the_model_and_not_of_the_last_step(run: Run) -> None:
    found = run("train", "c", "--name", "fake")  # its last evaluation finds 2.10
    assert "fake@1 is trained: 1.96 bits per character" in found.out


def test_train_says_what_is_masked_by_default(run: Run, server: FakeServer) -> None:
    server.training.more = {"masks": ["timestamp"], "masked_by_default": "masked by default: timestamp (300)"}
    found = run("train", "c", "--name", "n", "--no-follow")
    assert found.out == "job_1\n" and "masked by default: timestamp (300)" in found.err
    assert "timestamp" in run("jobs", "show", "job_1").out


def test_train_names_an_architecture_and_sends_no_preset_with_it(run: Run, server: FakeServer) -> None:
    run("train", "c", "--name", "n", "--no-follow", "--architecture", "nth_char", "--context", "5")
    (body,) = server.bodies("POST", "/v1/jobs")
    assert body == {"corpus": "c", "name": "n", "architecture": "nth_char", "network": {"context": 5}}


def test_train_names_the_model_to_start_from_and_what_a_character_is(run: Run, server: FakeServer) -> None:
    options = "--start-from old@2 --coverage 0.999 --alphabet bytes"
    run("train", "c", "--name", "n", "--no-follow", *options.split())
    (body,) = server.bodies("POST", "/v1/jobs")
    assert (body["start_from"], body["coverage"], body["alphabet"]) == ("old@2", 0.999, "bytes")


def test_cancel_keeps_the_best_model_only_when_asked(run: Run, server: FakeServer) -> None:
    run("jobs", "cancel", "job_1", "--keep-best")
    assert server.bodies("POST", "/v1/jobs/job_1/cancel") == [{"keep_best": True}]
    run("jobs", "cancel", "job_1")
    assert server.requests[-1][3] == b""


def test_bytes_are_sent_as_bytes(run: Run, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\xff\x00")
    run("corpus", "add", str(tmp_path / "raw"), "--bytes")
    _, path, headers, body = server.requests[-1]
    assert (path, body) == ("/v1/corpora", b"\xff\x00")
    assert headers["Content-Type"] == "application/octet-stream"


def test_train_as_json_is_one_event_a_line_and_the_job_last(run: Run, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=0.2, evaluations=2)
    lines = [json.loads(line) for line in run("train", "c", "--name", "n", "--json").out.splitlines()]
    assert [line.get("type") for line in lines[:-1]] == ["message", "metrics", "sample", "metrics", "sample"]
    assert lines[-1]["model"] == "n@1"


def test_train_prints_the_messages_of_the_job(run: Run, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=0.2)
    assert "the corpus is cut into 16 rows" in run("train", "c", "--name", "n").out


@pytest.mark.parametrize(
    ("status", "sentence"),
    [("failed", "diverged"), ("cancelled", "ended as cancelled"), ("paused", "jobs resume job_1")],
)
def test_a_job_without_a_model_ends_with_status_1(
    run: Run, server: FakeServer, status: str, sentence: str
) -> None:
    server.training = FakeTraining(
        seconds=0.1, ends_as=status, status_asked=status if status == "paused" else None
    )
    outcome = run("jobs", "follow", "job_1")
    assert outcome.status == 1
    assert sentence in outcome.err


def test_a_job_that_waits_for_storage_or_is_paused_says_why(run: Run, server: FakeServer) -> None:
    reason = {"code": "storage_full", "message": "the storage is full"}
    server.training = FakeTraining(ends_as="paused", seconds=0.001, more={"pause_reason": reason})
    assert "storage_full: the storage is full" in run("jobs", "show", "job_1").out
    progress = {"step": 9, "steps": 9, "waiting_for_storage": "the storage is full"}
    server.training = FakeTraining(status_asked="running", more={"progress": progress})
    assert "running, waiting for storage" in run("jobs").out
    assert "waiting\tthe storage is full" in run("jobs", "show", "job_1").out


def test_models_names_those_that_cannot_be_used_and_what_to_do(run: Run, server: FakeServer) -> None:
    damaged = {"id": "fake@3", "code": "model_damaged", "message": "its card is not JSON"}
    server.damaged_models = [damaged]
    listed = run("models")
    assert "fake@3" not in listed.out
    assert "fake@3 cannot be used: its card is not JSON; restore" in listed.err
    assert "nextchar models rm fake@3" in listed.err
    assert run("models", "--json").json["damaged"] == [damaged]


def test_complete_prints_the_completion_alone(run: Run, server: FakeServer) -> None:
    assert run("complete", "fake", "olleh", "--max-characters", "5").out == "hello\n"
    assert run("complete", "fake", "olleh", "--max-characters", "5", "--stream").out == "hello\n"
    assert run("complete", "fake", "olleh", "--max-characters", "5", "-n", "2").out == "hello\nhello\n"


def test_complete_takes_its_prompt_from_standard_input(run: Run, server: FakeServer) -> None:
    run("complete", "fake", stdin="one\ntwo\n")
    run("complete", "fake", stdin="é".encode())
    run("complete", "fake", "")
    assert [b["prompt"] for b in server.bodies("POST", "/v1/models/fake/complete")] == ["one\ntwo", "é", ""]


def test_a_text_is_written_by_turns(run: Run, server: FakeServer) -> None:
    said = run("complete", "fake", "--interactive", "--max-characters", "2", stdin="ab\n\n:new\nxyz")
    assert said.status == 0 and ":new begins anew" in said.err
    assert [b["prompt"] for b in server.bodies("POST", "/v1/models/fake/complete")] == ["ab", "abba", "xyz"]
    assert said.out.splitlines() == ["abba", "abbaab", "xyzzy"]
    told = run("complete", "fake", "-i", "--max-characters", "2", "--json", stdin="ab\n\n")
    assert [json.loads(line)["completions"][0]["text"] for line in told.out.splitlines()] == ["ba", "ab"]


def test_a_refused_turn_can_be_taken_again_and_a_missing_model_ends_it(run: Run, server: FakeServer) -> None:
    said = run("complete", "fake", "-i", "--max-characters", "20000", stdin="a\nb\n")
    assert (said.status, said.err.count("less than or equal")) == (0, 2)
    assert run("complete", "nobody", "-i", stdin="a\nb\n").status == 1


def test_open_opens_the_console(run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: not opened.append(url))
    assert run("open").out == f"{server.url}/\n"
    assert run("open", "--json").json == {"url": f"{server.url}/", "opened": True}
    assert opened == [f"{server.url}/"] * 2
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    assert "no browser here" in run("open").err


def test_shells_are_told_commands_and_options() -> None:
    program = "from nextchar.cli.main import app; app(prog_name='nextchar')"
    for words, offered in (
        ("nextchar co", {"complete", "corpus"}),
        ("nextchar complete --inter", {"--interactive"}),
    ):
        asked = {
            "_NEXTCHAR_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        told = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | asked,
            capture_output=True,
            text=True,
            check=True,
        )
        assert set(told.stdout.split()) == offered


def test_complete_sends_its_options(run: Run, server: FakeServer) -> None:
    options = "--temperature 0 --top-k 3 --top-p 0.9 --min-p 0.1 --seed 4 --stop a --stop b --until line"
    run("complete", "fake", "p", *options.split())
    sampling = {"temperature": 0, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 4}
    assert server.bodies("POST", "/v1/models/fake/complete") == [
        {"prompt": "p", **sampling, "stop": ["a", "b"], "until": "line"}
    ]


def test_unknown_characters_are_named_on_the_side(run: Run) -> None:
    outcome = run("complete", "fake", "5 €")
    assert "never seen: €" in outcome.err
    assert "never seen" not in outcome.out


def test_score_marks_the_surprising_characters(run: Run) -> None:
    shown = run("score", "fake", "-", stdin="one Two\nthree\n").out
    lines = shown.split("\n")
    assert lines[0] == "fake@2: 14 characters, 1.39 bits per character, 20 bits in all"
    assert lines[lines.index("one Two⏎") + 1] == "    █"
    assert "13.0 bits  line 1" in shown


def test_score_of_a_long_text_shows_its_most_surprising_lines(run: Run) -> None:
    text = "".join(f"line {'X' * (i == 70)}\n" for i in range(100))
    shown = run("score", "fake", "--top", "1", stdin=text).out
    assert "line 71, " in shown
    assert shown.count("⏎") == 1
    assert run("score", "fake", "--all", stdin=text).out.count("⏎") >= 100


def test_score_by_line_sends_lines(run: Run, server: FakeServer) -> None:
    shown = run("score", "fake", "--lines", stdin="one\n\nTwo\r\n").out
    assert server.bodies("POST", "/v1/models/fake/score")[0]["lines"] == ["one", "", "Two\r"]
    assert "line 3, " in shown


def test_download_checks_and_keeps_whole_files_only(run: Run, server: FakeServer, tmp_path: Path) -> None:
    to = tmp_path / "model"
    assert run("models", "download", "fake", "--to", str(to)).status == 0
    assert {f.name: f.read_bytes() for f in to.iterdir() if f.name in FILES} == FILES
    assert (to / "model.json").exists()
    server.damaged = {"model.onnx"}
    outcome = run("models", "download", "fake", "--to", str(tmp_path / "second"))
    assert outcome.status == 1
    assert "hash" in outcome.err
    assert not list((tmp_path / "second").glob("model.onnx*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("models", "show", "nobody"), "nextchar: there is no model 'nobody'\n"),
        (("jobs", "show", "job_9"), "nextchar: there is no job 'job_9'\n"),
        (("jobs", "resume", "job_1"), "nextchar: job job_1 is running, not paused\n"),
        (("corpus", "add", "/nowhere.txt"), "nextchar: /nowhere.txt: No such file or directory\n"),
        (
            ("complete", "fake", "p", "--max-characters", "99999"),
            "nextchar: max_characters: must be less than",
        ),
        (("status", "--server", "http://127.0.0.1:9"), "nextchar: no answer at http://127.0.0.1:9; start"),
        (("score", "fake"), "nextchar: there is nothing to score"),
    ],
)
def test_errors_are_one_sentence_on_standard_error(
    run: Run, arguments: tuple[str, ...], sentence: str
) -> None:
    outcome = run(*arguments)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith(sentence)
    assert outcome.err.count("\n") == 1


def test_input_that_is_not_utf8_names_the_byte(run: Run) -> None:
    outcome = run("score", "fake", stdin=b"abc\xff")
    assert (outcome.status, outcome.err) == (1, "nextchar: the text is not UTF-8: byte 0xff at offset 3\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "c"),
        ("train", "c", "--name", "n", "--steps", "1", "--seconds", "1"),
        ("complete", "fake", "p", "--until", "never"),
        ("complete", "fake", "p", "--stream", "-n", "2"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_status_2(run: Run, server: FakeServer, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).status == 2
    assert not server.requests


def test_a_service_that_is_not_ready_says_what_is_down(run: Run, server: FakeServer) -> None:
    server.is_ready = False
    outcome = run("status")
    assert (outcome.status, outcome.err) == (
        1,
        "nextchar: the service runs but is not ready: no answer from its redis\n",
    )


def test_the_address_and_key_come_from_options_before_the_environment(run: Run, server: FakeServer) -> None:
    assert run("models", "--server", "http://127.0.0.1:9").status == 1
    run("models", "--api-key", "secret")
    assert server.requests[-1][2]["Authorization"] == "Bearer secret"


def test_a_reader_that_stops_early_is_no_error(server: FakeServer) -> None:
    server.models, server.page = [f"m@{i}" for i in range(2000)], 100
    done = in_shell(server, "models | head -1")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_the_command_line_needs_no_tensorflow_and_nothing_of_the_service() -> None:
    code = "import sys, nextchar.cli.main; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"tensorflow", "keras", "onnxruntime", "fastapi", "app", "store", "models"} & set(
        done.stdout.split()
    )


@pytest.mark.parametrize("source", ["- < <(printf hello)", "<(printf hello) --name x", "- <<< hello"])
def test_a_corpus_comes_through_a_pipe(server: FakeServer, source: str) -> None:
    done = in_shell(server, f"corpus add {source}")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.requests[-1][3].strip() == b"hello"


@pytest.mark.parametrize("proxy", ["http_proxy=http://127.0.0.1:9", "ALL_PROXY=socks5://127.0.0.1:9"])
def test_no_proxy_stands_between_a_machine_and_itself(server: FakeServer, proxy: str) -> None:
    name, _, value = proxy.partition("=")
    assert in_shell(server, "models", **{name: value}).returncode == 0
    away = in_shell(server, "models --server http://elsewhere.invalid", ALL_PROXY="socks5://h:1")
    assert away.returncode == 1 and "Traceback" not in away.stderr


def test_what_cannot_be_sent_is_told_in_a_sentence(server: FakeServer) -> None:
    done = in_shell(server, "complete fake $'\\xff'")
    assert (done.returncode, done.stderr) == (1, "nextchar: the request holds bytes that are not UTF-8\n")
    done = in_shell(server, "models show $'\\xff'")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    done = in_shell(server, "models", NEXTCHAR_API_KEY=" secret\n")
    assert done.returncode == 0
    assert server.requests[-1][2]["Authorization"] == "Bearer secret"


def test_a_paused_job_ends_its_events_as_json_too(run: Run, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=30, status_asked="paused")
    outcome = run("jobs", "follow", "job_1", "--json")
    assert outcome.status == 1 and "jobs resume job_1" in outcome.err
    assert json.loads(outcome.out.splitlines()[-1])["status"] == "paused"


def test_watching_gets_over_a_service_that_is_busy(run: Run, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=1.5)
    server.refused_jobs = [503, 429, 502]
    assert run("jobs", "follow", "job_1").status == 0
    assert not server.refused_jobs
