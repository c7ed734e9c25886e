"""The demonstration finds something to show in any text, and goes the whole way."""

import contextlib
import io
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from nextchar import Client, NextcharError
from nextchar.answers import AnomalousSpan
from nextchar.app.access.keys import new_key
from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from nextchar.launcher import demo
from nextchar.launcher.stack import Stack
from tests.app.service import served

_PROSE = "".join(
    f"This is sentence number {i}, and it has some words that anybody can read.\n" for i in range(400)
)
_TEXTS = {
    "prose": _PROSE,
    "one long line": _PROSE.replace("\n", " "),
    "short lines": "".join(f"w{i}\n" for i in range(500)),
    "Chinese": "床前明月光疑是地上霜舉頭望明月低頭思故鄉" * 50,
    "capitals": _PROSE.upper(),
    "two characters": "01" * 300,
    "hardly enough": "a b c d e f " * 20,
}


@pytest.mark.parametrize("text", _TEXTS.values(), ids=_TEXTS)
def test_prompts_and_sentence_are_held_out(text: str) -> None:
    held_out = len(text) * 9 // 10
    assert all(held_out <= place < len(text) for place in demo.prompt_places(text, held_out))
    start, end = demo.sentence_range(text, held_out)
    assert held_out <= start < end <= len(text)


@pytest.mark.parametrize("text", _TEXTS.values(), ids=_TEXTS)
def test_damage_replaces_a_few_characters_and_returns_which(text: str) -> None:
    start, end = demo.sentence_range(text, len(text) * 9 // 10)
    sentence = text[start:end]
    damaged, damages = demo.damage(sentence, alphabet=demo.letters(text), known=text)
    assert 1 <= len(damages) <= 3
    assert len(damaged) == len(sentence)
    assert [i for i, (a, b) in enumerate(zip(sentence, damaged, strict=True)) if a != b] == [
        d.position for d in damages
    ]
    assert all((sentence[d.position], damaged[d.position]) == (d.original, d.replacement) for d in damages)


def test_damage_is_always_the_same_and_no_right_word() -> None:
    letters, known = "abcdefghijklmnopqrstuvwxyz", "a list to lift, a lisp, the licks, lie and lid"
    damaged, damages = demo.damage("the list", alphabet=letters, known=known)
    assert (damaged, damages) == demo.damage("the list", alphabet=letters, known=known)
    assert [one.position for one in damages] == [2, 6, 7] and not set(damaged.split()) & set(known.split())


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ([], [(1, 2), (4, 5)], "flagged: the damaged characters, and no others in either sentence"),
        ([], [(1, 3)], "flagged: 1 of 2 damaged characters and 1 other; none in the original sentence"),
        (
            [(0, 2)],
            [(1, 2), (4, 5)],
            "flagged: 2 of 2 damaged characters and no others; 2 in the original sentence",
        ),
        ([], [], "flagged: 0 of 2 damaged characters and no others; none in the original sentence"),
    ],
)
def test_verdict_hides_nothing(
    before: list[tuple[int, int]], after: list[tuple[int, int]], sentence: str
) -> None:
    def spans(places: list[tuple[int, int]]) -> list[AnomalousSpan]:
        return [{"start": a, "end": b, "bits": 12.0, "expected": None} for a, b in places]

    assert demo.verdict({1, 4}, spans(before), spans(after)) == sentence


def test_the_demo_trains_completes_and_scores(stack: Stack) -> None:
    """And flags the damaged characters, and nothing else: with so many steps on any machine."""
    console = Console(file=io.StringIO(), width=100, color_system=None)
    text = unicodedata.normalize("NFD", _PROSE.replace("anybody", "sömebody"))
    with Client(stack.url) as client, console.capture() as captured:
        demo.demonstrate(client, console, "demonstration", text, budget={"steps": 40})
    shown = captured.get()
    assert "flagged: the damaged characters, and no others in either sentence" in shown
    assert "demonstration@1 is trained" in shown
    assert shown.count("completed") == shown.count("instead of") == 3
    assert shown.count("original: ") == shown.count("damaged: ") == 1


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "No such file"), (b"abc\xff", "not UTF-8: byte 0xff at offset 3")]
)
def test_a_text_that_cannot_be_read_is_one_sentence_and_starts_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    sentence: str,
) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path / "data"))
    assert demo.main(file) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


_INTERRUPTED = """
import contextlib, signal, sys, time
from types import SimpleNamespace
from nextchar.launcher import demo

@contextlib.contextmanager
def stack(settings, environment=None):
    try:
        yield SimpleNamespace(url="http://127.0.0.1:1")
    finally:
        print("left", file=sys.stderr)

class Client(contextlib.nullcontext):
    add_corpus = lambda *_, **__: {"id": "c", "characters": 1, "distinct_characters": 1}
    create_job = lambda *_: {"id": "job-1"}
    cancel_job = lambda _, job: print("cancelled", job, file=sys.stderr)

def follow(client, job, console):
    print("following", flush=True)
    if sys.argv[1] == "pipe":
        sys.stdin.read()
        console.print("more")
    while True:  # a wait without end would miss a signal that comes just before it
        time.sleep(0.01)

demo.Stack, demo.Client, demo.training_progress.follow = stack, lambda *_, **__: Client(Client()), follow
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.exit(demo.main())
"""


@pytest.mark.parametrize("how", ["SIGTERM", "pipe"])
def test_an_interrupted_demo_cancels_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        while process.stdout.readline() != "following\n":
            assert process.poll() is None
        if how.startswith("SIG"):
            process.send_signal(signal.Signals[how])
        process.stdout.close()
        process.stdin.close()
        said = process.stderr.read().splitlines()
    assert said[:2] == ["cancelled job-1", "left"]
    if how == "pipe":
        assert (process.returncode, said[2:]) == (1, [])
    else:
        assert (process.returncode, said[2:]) == (130, ["nextchar: stopped"])


def test_the_demo_makes_a_key_of_its_own_where_the_service_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clean_redis_url: str
) -> None:
    _, line = new_key("laptop", scopes="admin")
    (tmp_path / "keys").write_text(f"{line}\n")
    monkeypatch.setenv("NEXTCHAR_API_KEYS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NEXTCHAR_REDIS_URL", clean_redis_url)

    @contextlib.contextmanager
    def api(_: object, environment: dict[str, str]) -> Iterator[SimpleNamespace]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with served(create_app(ApiSettings())) as url:
            yield SimpleNamespace(url=url)

    def demonstrate(client: Client, *_: object) -> None:
        assert not list(client.corpora())
        with Client(client.server) as stranger, pytest.raises(NextcharError, match="API key"):
            list(stranger.corpora())

    monkeypatch.setattr(demo, "Stack", api)
    monkeypatch.setattr(demo, "demonstrate", demonstrate)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert demo.main() == 0, capfd.readouterr().err
