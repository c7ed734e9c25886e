"""`nextchar demo [FILE]`: train on real text, complete and score, in about two minutes, then stop everything.

Starts the stack on a free port, uploads a text (by default the Python language reference in the standard
library), trains on it for a minute, completes prompts from the end of the text, and shows the surprisal of
each character of a sentence, with and without errors, and which are flagged as anomalous.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from nextchar import Client, NextcharError
from nextchar.app.access.keys import new_key
from nextchar.app.console.routes import sample_text
from nextchar.cli import training_progress
from nextchar.cli.corpora import name_of
from nextchar.cli.flagged_lines import highlighted
from nextchar.cli.formatting import format_duration, format_integer, heatmap, legend, printable
from nextchar.cli.session import console as console_on
from nextchar.cli.session import drop_output
from nextchar.launcher.processes import LauncherError, handle
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack
from nextchar.types import AnomalousSpan, Corpus

_BUDGET = {"seconds": 60.0}
_HELD_OUT = 0.1  # fraction at the end of the text
_UNSEEN = _HELD_OUT / 2  # the fraction that no expert knows; the mixture knows the first half of _HELD_OUT
_CONTEXT = 500  # characters that the model reads before a prompt or sentence
_COMPLETION = 60
_PROMPTS = 3
_DAMAGES = 3
_MAX_COUNTED = 1_000_000  # characters of the text whose trigrams are counted


@dataclass(frozen=True)
class Damage:
    """A character of a sentence that was replaced."""

    position: int
    original: str
    replacement: str


def main(file: Path | None = None) -> int:
    """Run the demonstration on a UTF-8 text, by default the Python reference; return the exit status."""
    settings = LauncherSettings.load().model_copy(update={"port": 0})
    console = console_on(sys.stdout)
    began = time.monotonic()
    try:
        name, text = _read(file)
        handle((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler)
        _head(console, f"starting the API, a worker and Valkey; data in {settings.data_dir.resolve()}")
        with (
            _own_key() as (key, environment),
            Stack(settings, environment=environment) as stack,
            Client(stack.url, api_key=key) as client,
        ):
            demonstrate(client, console, name, text)
        _head(console, f"all stopped after {format_duration(time.monotonic() - began)}; the model is kept")
        _print(console, "continue with `nextchar serve`, then `nextchar --help`")
    except (LauncherError, NextcharError) as error:
        print(f"nextchar: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # as of `nextchar demo | head`
        drop_output()
        return 1
    except OSError as error:
        print(f"nextchar: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nextchar: stopped", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _own_key() -> Iterator[tuple[str | None, dict[str, str]]]:
    """Yield an API key for the demonstration, and the settings with it; None if the service needs no keys."""
    if not os.environ.get("NEXTCHAR_API_KEYS_FILE"):
        yield None, {}
        return
    key, line = new_key("demo", scopes="admin")
    with tempfile.NamedTemporaryFile("w", prefix="nextchar-demo-") as file:
        file.write(f"{line}\n")
        file.flush()
        yield key, {"NEXTCHAR_API_KEYS_FILE": file.name}


def demonstrate(
    client: Client, console: Console, name: str, text: str, *, budget: Mapping[str, float] = _BUDGET
) -> None:
    """Upload, train, complete and score on a running service; `budget` is the job's. Raises NextcharError."""
    _head(console, f"uploading {name}")
    corpus = client.add_corpus(text, name=name)
    characters = format_integer(corpus["characters"])
    _print(console, f"{characters} characters, {corpus['distinct_characters']} of them distinct")
    [(unit, amount)] = budget.items()
    _head(console, f"training for {amount:.0f} {unit}; the last tenth of the text is held out")
    model = _train(client, console, corpus, name, budget)
    text = unicodedata.normalize("NFC", text)
    held_out = len(text) - int(len(text) * _UNSEEN)
    _head(console, "completing prompts from the end of the text, which the model has not seen")
    for place in prompt_places(text, held_out):
        _show_completion(client, console, model, text, place)
    _head(console, "surprisal of each character of a held-out sentence, and of the same sentence with errors")
    _show_damage(client, console, model, text, sentence_range(text, held_out), held_out)


def _read(file: Path | None) -> tuple[str, str]:
    if file is None:
        return "python-reference", sample_text()
    try:
        return name_of(file) or "demo", file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise LauncherError(
            f"{file} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start};"
            " convert it first, for example with iconv -t utf-8"
        ) from None


def _train(client: Client, console: Console, corpus: Corpus, name: str, budget: Mapping[str, float]) -> str:
    """Train and show the progress; return the model's name@version."""
    request = {"corpus": corpus["id"], "name": name, "budget": dict(budget)}
    job = client.create_job(request | {"validation_fraction": _HELD_OUT})
    try:
        job = training_progress.follow(client, job["id"], console)
    except BaseException:  # Ctrl-C, a signal, or a closed terminal or pipe
        with contextlib.suppress(NextcharError):
            client.cancel_job(job["id"])  # else the next start would continue it
        raise
    if job["error"]:
        raise NextcharError(f"the job failed ({job['error']['code']}): {job['error']['message']}")
    if not job["model"]:
        raise NextcharError(f"the job ended as {job['status']}")
    console.print()
    _print(console, training_progress.outcome(client, job))
    return job["model"]


def _show_completion(client: Client, console: Console, model: str, text: str, place: int) -> None:
    prompt = text[max(0, place - _CONTEXT) : place]
    response = client.complete(model, prompt, max_characters=_COMPLETION, temperature=0.4, seed=1)
    room = max(10, console.width - 14)
    actual = text[place : place + _COMPLETION]
    console.print()
    for label, shown, style in (
        ("prompt", "…" + printable(prompt, inline=True)[-min(room - 1, 70) :], "dim"),
        ("completed", printable(response["completions"][0]["text"], inline=True), "bold green"),
        ("actual", printable(actual, inline=True), ""),
    ):
        line = Text(f"{label:>10}  ", style="dim")
        line.append(shown, style="not dim " + style if style != "dim" else "")
        line.truncate(console.width - 1, overflow="ellipsis")
        console.print(line)


def _show_damage(
    client: Client, console: Console, model: str, text: str, span: tuple[int, int], held_out: int
) -> None:
    start, end = span
    context = text[max(0, start - _CONTEXT) : start]
    whole_sentence = text[start:end]
    damaged, damages = damage(whole_sentence, alphabet=letters(text), known=text[:held_out])
    console.print(legend(console), soft_wrap=True)
    bits, spans = [], []
    for title, shown in (("original", whole_sentence), ("damaged", damaged)):
        response = client.score(model, context + shown)
        bits.append((response["bits"] or [])[len(context) :])
        spans.append(_spans_after(len(context), response["spans"] or []))
        mean = sum(bits[-1]) / len(shown)
        console.print(Text(f"\n{title}: {mean:.2f} bits per character", style="dim"))
        console.print(heatmap(shown, bits[-1], console))
        console.print(Text("flagged: ", style="dim").append(highlighted(shown, spans[-1], console)))
    console.print()
    before, after = bits
    for error in damages:
        new, old = printable(error.replacement, inline=True), printable(error.original, inline=True)
        line = Text(f"character {error.position + 1}, {new} in place of {old}: ")
        line.append(f"{after[error.position]:.1f} bits", style="bold")
        line.append(f" instead of {before[error.position]:.1f}")
        _print(console, line)
    _print(console, verdict({error.position for error in damages}, *spans), style="bold")


def verdict(damaged: set[int], before: list[AnomalousSpan], after: list[AnomalousSpan]) -> str:
    """Return a summary of which damaged and other characters were flagged.

    >>> verdict({1, 4}, [], [{"start": 4, "end": 6, "bits": 20.0, "expected": None}])
    'flagged: 1 of 2 damaged characters and 1 other; none in the original sentence'
    """
    flagged = {i for span in after for i in range(span["start"], span["end"])}
    if flagged == damaged and not before:
        return "flagged: the damaged characters, and no others in either sentence"
    others, false_alarms = len(flagged - damaged), sum(span["end"] - span["start"] for span in before)
    return (
        f"flagged: {len(flagged & damaged)} of {len(damaged)} damaged characters and {others or 'no'}"
        f" other{'' if others == 1 else 's'}; {false_alarms or 'none'} in the original sentence"
    )


def _spans_after(start: int, spans: list[AnomalousSpan]) -> list[AnomalousSpan]:
    return [
        {**span, "start": max(0, span["start"] - start), "end": span["end"] - start}
        for span in spans
        if span["end"] > start
    ]


def prompt_places(text: str, held_out: int) -> list[int]:
    """Return where prompts end: after words in the middle of long lines, spread over text[held_out:]."""
    spans = [span for span in _lines(text, held_out) if span[1] - span[0] >= 50]
    spans = [span for span in spans if _is_prose(text[slice(*span)])] or spans
    if len(spans) < _PROMPTS:
        room = len(text) - held_out
        return [held_out + room * (2 * i + 1) // (2 * _PROMPTS) for i in range(_PROMPTS)]
    places = []
    for i in range(_PROMPTS):
        start, end = spans[len(spans) * (2 * i + 1) // (2 * _PROMPTS)]
        middle = start + (end - start) * 2 // 5
        space = text.find(" ", middle, end)
        places.append(space + 1 if space >= 0 else middle)
    return places


def sentence_range(text: str, held_out: int) -> tuple[int, int]:
    """Return the start and end of a held-out line of words that fits a terminal."""
    spans = [(a, b) for a, b in _lines(text, held_out) if 40 <= b - a <= 100 and _is_prose(text[a:b])]
    spans = [(a, b) for a, b in spans if all(c.isalpha() or c in " .,;" for c in text[a:b])] or spans
    if spans:
        return spans[len(spans) // 2]
    middle = (held_out + len(text)) // 2
    return middle, min(len(text), middle + 70)


def _is_prose(line: str) -> bool:
    """Return whether a line consists of words: not a table, not code."""
    letters = sum(c.isalpha() or c == " " for c in line)
    return letters >= 0.9 * len(line) and line.count(" ") * 9 >= len(line) and "   " not in line


def damage(sentence: str, *, alphabet: str, known: str) -> tuple[str, list[Damage]]:
    """Return the sentence with a few letters replaced, and the replacements; deterministic.

    Each becomes the letter that is rarest between such neighbors in the text `known`, so that it makes no
    correct word.

    >>> damage("the quick brown fox", alphabet="abcdefghinopqwxyz", known="the quack and the brawl")[0]
    'the qubck brbwa fox'
    """
    places = [i for i, c in enumerate(sentence) if c in alphabet]
    # Inside words, where the original letter is predictable.
    places = [i for i in places if i >= 2 and sentence[i - 2 : i].isalpha()] or places
    spread = [len(places) * (2 * i + 1) // (2 * _DAMAGES) for i in range(_DAMAGES)]
    chosen = sorted({places[i] for i in spread}) if places else []
    known = known[-_MAX_COUNTED:]
    trigrams = Counter(known[i : i + 3] for i in range(len(known) - 2))
    damages, characters = [], list(sentence)
    for place in chosen:
        before = "".join(characters[max(0, place - 2) : place])
        was, after = sentence[place], sentence[place + 1 : place + 2]
        now = min(
            (c for c in alphabet if c != was),
            key=lambda c: trigrams[before + c] + trigrams[before[-1:] + c + after],
        )
        characters[place] = now
        damages.append(Damage(place, was, now))
    return "".join(characters), damages


def letters(text: str) -> str:
    """Return the common lowercase letters of a text, or other common characters: the alphabet of `damage`."""
    counts = Counter(text)
    for is_wanted in (str.islower, str.isalpha, str.isprintable):
        letters = sorted(
            c for c, count in counts.items() if is_wanted(c) and c != " " and count * 2000 >= len(text)
        )
        if len(letters) >= 2:
            return "".join(letters)
    return ""


def _lines(text: str, begin: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of complete lines after `begin`, without indentation and newline."""
    start = text.find("\n", begin) + 1
    while 0 < start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end]
        yield start + len(line) - len(line.lstrip()), end
        start = end + 1


def _head(console: Console, title: str) -> None:
    console.print()
    _print(console, title, style="bold")


def _print(console: Console, sentence: str | Text, *, style: str = "") -> None:
    """Print a sentence, wrapped between words in a terminal, else on one line."""
    console.print(Text(style=style).append(sentence), soft_wrap=not console.is_terminal)
