"""What the service says about fields is shown as options."""

from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer

from nextchar import options
from nextchar.app.jobs import plans as job_plans
from nextchar.cli.fields import _ADVISED, with_options
from nextchar.cli.main import app
from nextchar.store import corpus as corpus_statistics
from nextchar.worker import job_text
from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer


@pytest.mark.parametrize(
    ("command", "type_", "without"),
    [
        ("complete", options.CompletionOptions, ()),
        ("next", options.NextOptions, ()),
        ("train", options.TrainingOptions, ()),
        ("score", options.LineOptions, ("detail", "explain", "only")),
        ("calibrate", options.CalibrationOptions, ()),
        ("evaluate", options.EvaluationOptions, ()),
        ("watch", options.IngestOptions, ()),
        ("audit", options.AuditOptions, ()),
        ("alerts list", options.AlertOptions, ()),
        ("corpus add", options.CorpusOptions, ("archive", "deduplicate", "encoding")),
    ],
)
def test_a_command_has_an_option_with_help_for_each_field_of_its_request(
    command: str, type_: type, without: tuple[str, ...]
) -> None:
    sections = {
        "network": "network_layers",
        "training": "training_rows",
        "mix": "mix_corpus",
        "suggestions": "suggestions_minimum_count",
    }
    found: Any = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    helps = {p.name: p.help for p in found.params if p.param_type_name == "option"}
    fields = [name for name in get_type_hints(type_) if name not in without]
    assert fields and all(helps[sections.get(name, name)] for name in fields)


def test_the_options_that_advice_names_are_those_of_train() -> None:
    train = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    options = {parameter.name: parameter.opts for parameter in train.params}
    assert all(option in options[field] for field, option in _ADVISED.items())


@pytest.mark.parametrize("module", [corpus_statistics, job_plans, job_text])
def test_no_advice_of_the_service_is_shown_as_json(module: object) -> None:
    source = Path(str(module.__file__)).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    sentences = [line.strip() for line in source.splitlines() if '": ' in line and "'" in line]
    named = [s for s in sentences if any(f'"{field}": ' in s for field in _ADVISED)]
    assert named and not any('": ' in with_options(sentence) for sentence in named)


@pytest.mark.parametrize(
    ("command", "param", "message", "shown"),
    [
        ("train c --name n --seconds 5", "budget.seconds", "must be 9", "--seconds: must be 9"),
        ("train c --name n", "mix.fraction", "must be 9", "--mix-fraction: must be 9"),
        ("train c --name n", "purpose", "must be 9", "--for: must be 9"),
        ("train c --name n", "training.clip_norm", "must be 9", "--clip-norm: must be 9"),
        ("corpus add -", "body", "or upload it with encoding=bytes", "body: or pass --bytes"),
        ("train - --name n", "body", "or upload it with encoding=bytes", "body: or pass --alphabet bytes"),
        ("complete m x --top-k 3", "top_k", "must be 9", "--top-k: must be 9"),
        ("complete m x", "prompt", "must be 9", "prompt: must be 9"),
    ],
)
def test_an_error_names_the_option_that_was_wrong(
    run: Run, server: FakeServer, command: str, param: str, message: str, shown: str
) -> None:
    server.invalid_field = (param, f"{param}: {message}")
    refused = run(*command.split(), stdin="text")
    assert (refused.status, refused.err) == (1, f"nextchar: {shown}\n")


def test_train_uploads_bytes_if_they_are_its_alphabet(run: Run, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\x00\x01")
    assert run("train", str(tmp_path / "raw"), "--alphabet", "bytes", "--no-follow").status == 0
    assert server.uploads == [{"name": "raw", "encoding": "bytes"}]
