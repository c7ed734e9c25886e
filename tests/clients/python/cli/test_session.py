"""What every command shares: the options for the service, its errors, its pipes."""

import json
from pathlib import Path

import pytest

from tests.clients.python.conftest import Run, in_shell
from tests.clients.python.fake_server import FakeServer


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("models", "show", "nobody"), "nextchar: there is no model 'nobody'\n"),
        (("jobs", "show", "nothing"), "nextchar: there is no job 'nothing'\n"),
        (("jobs", "resume", "job_1"), "nextchar: job job_1 is running, not paused\n"),
        (("corpus", "add", "/nowhere.txt"), "nextchar: /nowhere.txt: No such file or directory\n"),
        (
            ("complete", "fake", "p", "--max-characters", "99999"),
            "nextchar: max_characters: must be less than",
        ),
        (("status", "--server", "http://127.0.0.1:9"), "nextchar: no response at http://127.0.0.1:9; start"),
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


def test_the_address_and_key_come_from_options_before_the_environment(run: Run, server: FakeServer) -> None:
    assert run("models", "--server", "http://127.0.0.1:9").status == 1
    run("models", "--api-key", "secret")
    assert server.requests[-1][2]["Authorization"] == "Bearer secret"


def test_a_reader_that_stops_early_is_no_error(server: FakeServer) -> None:
    server.models, server.page = [f"m@{i}" for i in range(2000)], 100
    done = in_shell(server, "models | head -1")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_json_has_no_character_that_controls_a_terminal(run: Run, server: FakeServer) -> None:
    name = "".join(map(chr, (*range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)))) + "é"
    server.models = [f"{name}@1"]
    outcome = run("models", "--json")
    assert outcome.out.replace("\n", "").isprintable() and "é" in outcome.out
    assert json.loads(outcome.out)["data"][0]["name"] == name


def test_no_proxy_stands_between_a_machine_and_itself(server: FakeServer) -> None:
    proxies = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
    assert in_shell(server, "models", **proxies).returncode == 0
    away = in_shell(server, "models --server http://elsewhere.invalid", ALL_PROXY="socks5://h:1")
    assert away.returncode == 2 and "Traceback" not in away.stderr


def test_unsendable_arguments_are_errors_of_one_sentence(server: FakeServer) -> None:
    done = in_shell(server, "complete fake $'\\xff'")
    assert (done.returncode, done.stderr) == (1, "nextchar: the request holds bytes that are not UTF-8\n")
    done = in_shell(server, "models show $'\\xff'")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    done = in_shell(server, "models", NEXTCHAR_API_KEY=" secret\n")
    assert done.returncode == 0
    assert server.requests[-1][2]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_shared_options_stand_before_or_after_the_command(run: Run, server: FakeServer, place: int) -> None:
    for given in (["--json"], ["--json", "--api-key", "secret"]):
        words = ["models", "show", "fake"]
        words[place:place] = given
        assert run(*words).json["id"] == "fake@2"
    assert server.requests[-1][2]["Authorization"] == "Bearer secret"
    words = ["models", "show", "fake"]
    words[place:place] = ["--server", "http://127.0.0.1:9"]
    assert run(*words).status == 1
    assert (
        run("--server", "http://127.0.0.1:9", "models", "--server", server.url).status == 0
    )  # the last wins


def test_an_error_names_the_job_that_trains_the_model(run: Run, server: FakeServer) -> None:
    server.models.clear()
    server.training.status_asked = "running"
    assert run("complete", "fake", "x").err == (
        "nextchar: there is no model 'fake' yet; job_1 trains it and is running: nextchar jobs follow job_1\n"
    )


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("jobs", "show", "job_2"), "did you mean job_1?"),
        (("jobs", "show", "fake"), "did you mean job_1?"),  # the name of its model
        (("modles",), "Did you mean 'models'?"),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(
    run: Run, server: FakeServer, tmp_path: Path, arguments: tuple[str, ...], suggestion: str
) -> None:
    (tmp_path / "words").write_text("words")
    run("corpus", "add", str(tmp_path / "words"))
    outcome = run(*arguments)
    assert outcome.status != 0
    assert suggestion in outcome.err
