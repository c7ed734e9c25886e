"""Completions of a prompt: their options, output and interactive mode."""

import json

from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer


def test_complete_prints_only_the_completion_into_a_pipe(run: Run, server: FakeServer) -> None:
    assert run("complete", "fake", "olleh", "--max-characters", "5").out == "hello\n"
    assert run("complete", "fake", "olleh", "--max-characters", "5", "--stream").out == "hello\n"
    assert run("complete", "fake", "olleh", "--max-characters", "5", "-n", "2").out == "hello\nhello\n"


def test_complete_sends_its_options(run: Run, server: FakeServer) -> None:
    options = "--temperature 0 --top-k 3 --top-p 0.9 --min-p 0.1 --seed 4 --stop a --stop b --until line"
    run("complete", "fake", "p", *options.split(), "--expert", "lstm", "--echo", "--beam", "2")
    sampling = {"temperature": 0, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 4, "expert": "lstm"}
    sampling |= {"echo": True, "beam": 2}
    assert server.bodies("POST", "/v1/models/fake/complete") == [
        {"prompt": "p", **sampling, "stop": ["a", "b"], "until": "line"}
    ]


def test_suggest_sends_its_options_and_prints_a_suggestion_per_line(run: Run, server: FakeServer) -> None:
    outcome = run("suggest", "fake", "berln", "--limit", "3", "--constrain", "prefer", "--exclude", "Bern")
    assert outcome.out == "Berlin\t0.9000\t3,426,354\t\n"
    sent = {"prefix": "berln", "limit": 3, "constrain": "prefer", "exclude": ["Bern"]}
    assert server.bodies("POST", "/v1/models/fake/suggest") == [sent]


def test_interactive_mode_completes_the_text_so_far(run: Run, server: FakeServer) -> None:
    outcome = run("complete", "fake", "--interactive", "--max-characters", "2", stdin="ab\n\n:new\nxyz")
    assert outcome.status == 0 and ":new: start over" in outcome.err
    assert [b["prompt"] for b in server.bodies("POST", "/v1/models/fake/complete")] == ["ab", "abba", "xyz"]
    assert outcome.out.splitlines() == ["abba", "abbaab", "xyzzy"]
    outcome = run("complete", "fake", "-i", "--max-characters", "2", "--json", stdin="ab\n\n")
    assert [json.loads(line)["completions"][0]["text"] for line in outcome.out.splitlines()] == ["ba", "ab"]


def test_interactive_mode_ends_without_the_model_but_not_at_a_refusal(run: Run, server: FakeServer) -> None:
    outcome = run("complete", "fake", "-i", "--max-characters", "20000", stdin="a\nb\n")
    assert (outcome.status, outcome.err.count("less than or equal")) == (0, 2)
    assert run("complete", "nobody", "-i", stdin="a\nb\n").status == 1
