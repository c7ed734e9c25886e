"""Keystrokes saved by accepting suggestions, replayed on text that no completer has seen.

    ours            a model trained by a job of the running service, with the requests of the browser client
    n-gram          character n-grams of the same text, with the same rule for suggestions; the order that
                    saves the most keys at the end of the training text
    frequent word   the most frequent word with this prefix

`benchmarks/suggestion_replay.py` defines suggestions, user and keys. The last tenth of each text is held out,
and its first characters are typed. The lines of a text that is a list of records are shuffled first: the end
of a sorted list is the end of the alphabet. "Seen" and "unseen" are the shares saved after prefixes that
occur in the training text, and after others; "right" is the share of shown suggestions that are correct as a
whole. Prints one table and one JSON line.

    python -m benchmarks.keystrokes [--seconds 120 | --steps 2500] [--characters 4000] [FILE ...]
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.completers import FrequentWord, Ngram, Service
from benchmarks.report import print_json_line, print_table
from benchmarks.suggestion_replay import LONGEST, MIN_SAVED_KEYS, Completer, replay
from benchmarks.texts import HELD_OUT
from nextchar import Client
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack
from nextchar.models.config import MINIMUM_CHARACTERS
from nextchar.models.text.kind_detection import detect_kind
from nextchar.models.text.log_detection import LineSample
from nextchar.models.text.vocabulary import normalize

_DATA = Path(__file__).parents[2] / "shared" / "data"
DEFAULT_TEXTS = [_DATA / name for name in ("names.txt", "lua_c.txt", "nietzsche.txt")]

_CONTEXT = 2000  # characters of the text before the held-out part that stand before the caret at first
_ORDERS = (3, 4, 5, 6, 7, 9)
_CHOICE = 1500  # characters at the end of the training text, on which the order is chosen
_VALIDATION = 0.02  # of our training text, for evaluation; the others train on it too


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path, default=DEFAULT_TEXTS, help="UTF-8 files")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, default=120.0, help="training seconds per text")
    budget.add_argument("--steps", type=int, help="training steps per text, which do not depend on the load")
    parser.add_argument("--characters", type=int, default=4000, help="held-out characters typed per text")
    parser.add_argument("--preset", default="auto", help="of ours")
    parser.add_argument(
        "--worth", type=float, default=MIN_SAVED_KEYS, help="keys that a suggestion must save for this user"
    )
    parser.add_argument(
        "--accepts", type=float, default=1.0, help="the share of suggestions that the user accepts if right"
    )
    options = parser.parse_args(arguments)
    texts = {path.stem: _read(parser, path) for path in options.texts}
    budget_of_job = {"steps": options.steps} if options.steps else {"seconds": options.seconds}
    results = {}
    bits = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = LauncherSettings(data_dir=Path(folder), port=0)
        with Stack(settings) as stack, Client(stack.url) as client:
            for name, text in texts.items():
                cut = len(text) - round(len(text) * HELD_OUT)
                before, unseen = text[:cut], text[cut : cut + options.characters]
                print(f"training on {name}: {budget_of_job} ...", file=sys.stderr, flush=True)
                model = train(client, name, before, budget=budget_of_job, preset=options.preset)
                bits[name] = client.model(model)["report"]["validation_bits_per_character"]
                completers: dict[str, Completer] = {
                    "ours": Service(client, model),
                    "n-gram": best_ngram(before),
                    "frequent word": FrequentWord(before),
                }
                results[name] = {
                    who: replay(
                        one,
                        unseen,
                        context=before[-_CONTEXT:],
                        training_text=before,
                        worth=options.worth,
                        accepts=options.accepts,
                    )
                    for who, one in completers.items()
                }
                saved = ", ".join(f"{who} {one.saved:.1%}" for who, one in results[name].items())
                print(f"at {bits[name]:.2f} bits, saved on {name}: {saved}", file=sys.stderr, flush=True)
    heads = (
        "text",
        "completer",
        "saved",
        "seen",
        "unseen",
        "of unseen",
        "keys",
        "of",
        "shown",
        "right",
        "Tab",
        "Ctrl+right",
        "asked",
    )
    rows = [
        [
            name,
            who,
            f"{one.saved:.1%}",
            f"{one.seen.saved:.1%}",
            f"{one.unseen.saved:.1%}",
            f"{one.unseen.characters / one.characters:.0%}",
            f"{one.keys:,}",
            f"{one.characters:,}",
            f"{one.shown:,}",
            f"{one.right / one.shown:.0%}" if one.shown else "",
            f"{one.whole:,}",
            f"{one.words:,}",
            f"{one.asked:,}",
        ]
        for name, found in results.items()
        for who, one in found.items()
    ]
    print_table(heads, rows, words=2)
    print_json_line(
        "keystrokes",
        budget=budget_of_job,
        preset=options.preset,
        longest=LONGEST,
        worth_showing=options.worth,
        accepts=options.accepts,
        bits_per_character_of_ours=bits,
        results={
            name: {
                who: asdict(one)
                | {"saved": one.saved, "saved_seen": one.seen.saved, "saved_unseen": one.unseen.saved}
                for who, one in found.items()
            }
            for name, found in results.items()
        },
    )


def train(client: Client, name: str, text: str, *, budget: dict[str, float], preset: str) -> str:
    """Train a model on a text by a job; return its `name@version`. Raises NextcharError, RuntimeError."""
    corpus = client.add_corpus(text, name=name)
    job = client.create_job(
        {
            "corpus": corpus["id"],
            "name": name,
            "preset": preset,
            "budget": budget,
            "validation_fraction": _VALIDATION,
        }
    )
    for _ in client.follow(job["id"]):  # until the end
        pass
    job = client.job(job["id"])
    if not job["model"]:
        raise RuntimeError(f"the job on {name} ended as {job['status']}: {job['error']}")
    return job["model"]


def _read(parser: argparse.ArgumentParser, path: Path) -> str:
    try:
        text = normalize(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"{path}: {error}")
    if len(text) < 2 * MINIMUM_CHARACTERS:
        parser.error(f"{path}: {len(text)} characters, and {2 * MINIMUM_CHARACTERS} are needed")
    sample = LineSample()
    sample.feed(text)
    if detect_kind(sample).kind == "records":
        lines = text.split("\n")
        random.Random(1).shuffle(lines)
        text = "\n".join(lines)
    return text


def best_ngram(text: str) -> Ngram:
    """Return the n-grams of a text, of the order that saves the most keys at its end."""
    cut = max(len(text) - _CHOICE, len(text) // 2)
    before, end = text[:cut], text[cut:]
    saved = {
        order: replay(Ngram(before, order=order), end, context=before[-_CONTEXT:]).saved for order in _ORDERS
    }
    return Ngram(text, order=max(saved, key=saved.__getitem__))


if __name__ == "__main__":
    main()
