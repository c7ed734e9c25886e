"""Trains every network of the lecture notes on their text, and compares the losses.

Each is trained by nextchar.worker.training.fit, in its default shape and recipe, for a fixed number of passes
over the text, so that the losses do not depend on the load of the machine. Losses in nats per character, as
in the notes:

    last epoch   mean training loss over the windows of the last pass, with dropout, as Keras prints it
    read again   of the first 100,000 characters of the training text, by the saved model in the runtime

For networks that predict at every step of a window, the notes give the loss of the eighth character. The
runtime gives them eight characters of context, so `read again` is compared with the notes for these networks,
and `last epoch` for the others. Held-out bits are of the last tenth of the text, in one pass.

    python -m benchmarks.lesson6 [FILE] [--only NAME] [--quick] [--pictures docs/engineering/images]

With --pictures, results are kept in that folder, the curves drawn there, and the tables and samples of the
lesson6.md beside it written anew; --redraw does only that.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.report import print_json_line, print_table
from nextchar.models.architectures import NAMES, architecture, count_parameters, resolve_training
from nextchar.models.config import MINIMUM_CHARACTERS, Budget, TrainingConfig
from nextchar.models.machine import available_cores
from nextchar.models.runtime.session import Network
from nextchar.models.text.vocabulary import normalize
from nextchar.worker.evaluation import bits_per_character
from nextchar.worker.hooks import Hooks
from nextchar.worker.prepared_text import Text
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit

DEFAULT_TEXT = Path(__file__).parents[2] / "shared" / "data" / "nietzsche.txt"
HELD_OUT = 0.1
READ_AGAIN = 100_000  # characters
EIGHTH = "read_again"
LAST_EPOCH = "last_epoch"
QUICK_STEPS = 20
QUICK_CHARACTERS = 60_000


@dataclass(frozen=True)
class Lesson:
    """How long an architecture is trained, and which figure is compared with the notes."""

    shape: str
    epochs: float
    measure: str = LAST_EPOCH


LESSONS = {
    "three_char": Lesson("3 characters, dense 256", 20),
    "nth_char": Lesson("8 characters, dense 256", 8),
    "simple_rnn": Lesson("8 characters, RNN 256", 4),
    "sequence_rnn": Lesson("8 characters, RNN 256", 8, EIGHTH),
    "onehot_rnn": Lesson("8 characters, RNN 256, one-hot", 8, EIGHTH),
    "stateful_lstm_lesson": Lesson("LSTM 256, stateful", 3),
    "stacked_lstm_lesson": Lesson("2 LSTMs 512, dense 512, stateful", 8),
    "scan_rnn": Lesson("8 characters, RNN 256, tf.scan", 1, EIGHTH),
    "numpy_rnn": Lesson("8 characters, RNN 256, NumPy", 1, EIGHTH),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print, and draw if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", default=DEFAULT_TEXT, help="Nietzsche, a UTF-8 file")
    parser.add_argument("--only", choices=list(LESSONS), action="append", help="train these; may be repeated")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_STEPS} steps each, to see that it works"
    )
    parser.add_argument("--cores", type=int, default=available_cores(), help="replicas at most")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw, and fill in the page, here")
    parser.add_argument("--redraw", action="store_true", help="draw what was found before; train nothing")
    options = parser.parse_args(arguments)
    if options.redraw:
        if not options.pictures:
            parser.error("--redraw: say with --pictures where the results are")
        _draw(options.pictures, {})
        return
    text = _text(parser, options.text, QUICK_CHARACTERS if options.quick else None)
    found = {}
    for name in options.only or LESSONS:
        print(f"{name} trains ...", file=sys.stderr, flush=True)
        found[name] = run(name, text, cores=options.cores, quick=options.quick)
        print_results({name: found[name]}, file=sys.stderr)
    print_results(found)
    if {"sequence_rnn", "onehot_rnn"} <= set(found):
        apart = abs(found["onehot_rnn"]["read_again"] - found["sequence_rnn"]["read_again"])
        print(f"onehot_rnn and sequence_rnn are {apart:.3f} nats apart")
    print_json_line("lesson6", text=options.text.name, runs=found)
    if options.pictures:
        _draw(options.pictures, found)


def run(name: str, text: Text, *, cores: int, quick: bool) -> dict[str, Any]:
    """Train one architecture and return its results."""
    lesson, known = LESSONS[name], architecture(name)
    budget = Budget(steps=QUICK_STEPS) if quick else Budget(epochs=lesson.epochs)
    training = TrainingConfig(**known.training.model_dump() | {"budget": budget.model_dump()})
    samples: list[dict[str, Any]] = []
    began = time.monotonic()
    result = fit(
        known.network,
        resolve_training(known.network, training),
        text,
        cores=cores,
        hooks=Hooks(event=lambda kind, data: samples.append(data) if kind == "sample" else None),
    )
    seconds = time.monotonic() - began
    network = Network(known.graph(known.network, result.network.weights()), threads=cores)
    train, held_out = text.train[:READ_AGAIN], text.validation[:]
    again = bits_per_character(network, train[1000:], before=train[:1000]) * math.log(2)
    bits = bits_per_character(network, held_out, before=train_end(text), warm_up=2000)
    ours = {LAST_EPOCH: last_epoch_nats(result), EIGHTH: again}
    figure = ours[lesson.measure]
    return {
        "architecture": name,
        "shape": lesson.shape,
        "parameters": count_parameters(known.network, len(text.vocabulary)),
        "training": training.model_dump(exclude={"budget"}),
        "epochs": result.epochs,
        "steps": result.steps,
        "seconds": round(seconds, 1),
        "characters_per_second": round(result.characters / result.elapsed_s),
        "theirs": known.notes_nats,
        "notes_measure": known.notes_measure,
        "measure": lesson.measure,
        "ours": figure,
        **ours,
        "held_out_bits": bits,
        "met": figure <= (known.notes_nats or pair_nats(text)),
        "machine": machine(),
        "curve": [
            {
                "epoch": point["epoch"],
                "train_nats": _nats(point["train_bits_per_character"]),
                "held_out_nats": _nats(point["validation_bits_per_character"]),
            }
            for point in result.curve
        ],
        "samples": _spread(
            [
                {"epoch": point["epoch"], "text": sample["text"]}
                for point, sample in zip(result.curve, samples, strict=True)
            ]
        ),
    }


def last_epoch_nats(result: Result) -> float:
    """Return the mean training loss over the last pass in nats, weighted by steps."""
    begin = result.steps - result.rows.windows_per_epoch
    total, steps, before = 0.0, 0, 0
    for point in result.curve:
        inside = point["step"] - max(begin, before)
        if point["train_bits_per_character"] is not None and inside > 0:
            total += inside * point["train_bits_per_character"]
            steps += inside
        before = point["step"]
    return total / steps * math.log(2)


def pair_nats(text: Text) -> float:
    """Return the loss of a bigram model in nats: a baseline."""
    ids, size = text.train[:].astype(np.int64), len(text.vocabulary)
    pairs = np.bincount(ids[:-1] * size + ids[1:], minlength=size * size).reshape(size, size)
    p = pairs / np.maximum(pairs.sum(1, keepdims=True), 1)
    return float(-(pairs[pairs > 0] * np.log(p[pairs > 0])).sum() / pairs.sum())


def train_end(text: Text) -> Any:
    """Return the end of the training text."""
    return text.train[max(0, len(text.train) - 2000) :]


def print_results(found: dict[str, dict[str, Any]], *, file: Any = None) -> None:
    """Print one row per network."""
    heads = ("", "network", "theirs", "ours", "last epoch", "read again", "held-out bits", "seconds", "met")
    rows = [
        [
            name,
            run["shape"],
            "works" if run["theirs"] is None else f"{run['theirs']:.2f}",
            f"{run['ours']:.3f}",
            f"{run[LAST_EPOCH]:.3f}",
            f"{run[EIGHTH]:.3f}",
            f"{run['held_out_bits']:.3f}",
            f"{run['seconds']:.0f}",
            "yes" if run["met"] else "no",
        ]
        for name, run in found.items()
    ]
    print_table(heads, rows, words=2, file=file)


def _text(parser: argparse.ArgumentParser, path: Path, most: int | None) -> Text:
    if path == DEFAULT_TEXT and not path.exists():
        parser.error(
            "give the text as an argument: the works of Nietzsche that the notes train on, some 600,000"
            " characters as UTF-8 (any other text works too, but then the notes' figures say nothing)"
        )
    try:
        whole = normalize(path.read_bytes().decode())[:most]
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"{path}: {error}")
    if len(whole) < MINIMUM_CHARACTERS:
        parser.error(f"{path}: {len(whole)} characters, and training needs {MINIMUM_CHARACTERS}")
    return Text.split(whole, validation_fraction=HELD_OUT)


def _draw(folder: Path, found: dict[str, dict[str, Any]]) -> None:
    """Save the results with earlier ones, and draw all."""
    from benchmarks.lesson6_page import draw

    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "lesson6.json"
    runs = json.loads(kept.read_text()) if kept.exists() else {}
    runs |= found
    runs = {name: runs[name] for name in NAMES if name in runs}
    kept.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n")
    for path in draw(runs, folder):
        print(f"wrote {path}", file=sys.stderr)


def _nats(bits: float | None) -> float | None:
    return None if bits is None else round(bits * math.log(2), 4)


def _spread(samples: list[dict[str, Any]], count: int = 5) -> list[dict[str, Any]]:
    """Return a few samples: the first two, the last, and some between."""
    places = sorted({0, 1, *(round(x) for x in np.geomspace(1, len(samples) - 1, count - 1))})
    return [samples[i] for i in places if i < len(samples)]


if __name__ == "__main__":
    main()
