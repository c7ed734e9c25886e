"""Held-out loss by wall-clock time of training.

    ours      nextchar.worker.training.fit with a preset and the seconds as its budget
    char-rnn  the recipe of karpathy/char-rnn in torch (benchmarks/peers/char_rnn.py), with the same
              budget

in sequence, each in its own process, on the CPU. The last tenth of the text is held out. The
curves are measured on the first 40,000 characters of it, the final figures on all of it in one contiguous
pass, by the same code for both, with trivial predictors for comparison. Prints two tables and one JSON line.

    python -m benchmarks.quality [--text FILE] [--seconds 120] [--preset small]
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import ROOT, Contestant, describe_other_load, prepared
from benchmarks.report import print_json_line, print_table
from benchmarks.texts import SplitText
from nextchar.models.config import MINIMUM_CHARACTERS, PRESETS
from nextchar.worker import report as baselines

DEFAULT_TEXT = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
MARKS = 12  # lines of the curves' table


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--text", type=Path, default=DEFAULT_TEXT, help="a UTF-8 file")
    parser.add_argument("--seconds", type=float, default=120.0, help="training time of each")
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="ours")
    options = parser.parse_args(arguments)
    if options.seconds < 1:
        parser.error(f"--seconds {options.seconds:g}: at least 1")
    try:
        halves = SplitText.read(options.text)
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--text {options.text}: {error}")
    size = len(halves.train) + len(halves.held_out)
    if size < MINIMUM_CHARACTERS:
        parser.error(f"--text {options.text}: {size} characters, and training needs {MINIMUM_CHARACTERS}")

    runs = {one.name: run(one, options.seconds) for one in contestants(options.text, options.preset)}
    measured = baselines.measure_baselines(halves.train, halves.held_out, halves.vocabulary)
    trivial = {name: bits * math.log(2) for name, bits in measured["baselines"].items()}
    print_curves(runs, options.seconds)
    print_final(runs, trivial)
    print_json_line(
        "quality",
        text=options.text.name,
        characters={"train": len(halves.train), "held_out": len(halves.held_out)},
        preset=options.preset,
        budget_seconds=options.seconds,
        runs=runs,
        baselines_nats=trivial,
    )


def contestants(text: Path, preset: str) -> list[Contestant]:
    """Return both, or only ours, with a message on standard error, if torch is missing."""
    options = {"text": str(text.resolve())}
    everyone = [
        Contestant("ours", "ours_fit", options | {"preset": preset}),
        Contestant("char-rnn", "char_rnn", options, package="torch"),
    ]
    for absent in (one for one in everyone if not one.is_installed):
        print(f"{absent.name} is left out: {absent.package} is not installed", file=sys.stderr)
    return [one for one in everyone if one.is_installed]


def run(contestant: Contestant, seconds: float) -> dict[str, Any]:
    """Train one contestant; return its curve and final figures."""
    print(f"{contestant.name} trains for {seconds:g} s ...", file=sys.stderr, flush=True)
    with prepared(contestant) as turn:
        return turn(seconds)


def print_curves(runs: dict[str, dict[str, Any]], seconds: float) -> None:
    """Print the latest evaluation of each at the same times."""
    print("\nNats a character on held-out text (and epochs), by seconds of training")
    rows = []
    for mark in (seconds * (i + 1) / MARKS for i in range(MARKS)):
        row = [f"{mark:.4g}"]
        for found in runs.values():
            # A run may end slightly after its budget.
            reached = [p for p in found["curve"] if p["seconds"] <= mark or mark >= seconds]
            latest = reached[-1] if reached else None
            row.append(f"{latest['held_out_nats']:.3f} ({latest['epochs']:.1f})" if latest else "-")
        rows.append(row)
    print_table(("seconds", *runs), rows, words=0)


def print_final(runs: dict[str, dict[str, Any]], trivial: dict[str, float]) -> None:
    """Print the final figures on all of the held-out text, and those of trivial predictors."""
    rows = []
    for name, found in runs.items():
        nats = found["held_out_nats"]
        speed = found["characters"] / found["seconds"]
        last = found["curve"][-1]["train_nats"]
        rows.append(
            [
                name,
                f"{nats:.3f}",
                f"{nats / math.log(2):.3f}",
                "-" if last is None else f"{last:.3f}",
                f"{found['seconds']:.1f}",
                f"{found['epochs']:.2f}",
                f"{speed:,.0f}",
            ]
        )
    for name, nats in trivial.items():
        rows.append([name, f"{nats:.3f}", f"{nats / math.log(2):.3f}", "", "", "", ""])
    print("\nAll of the held-out text in one pass")
    heads = ("", "nats", "bits", "train nats", "seconds", "epochs", "characters/s")
    print_table(heads, rows)
    for name, found in runs.items():
        print(f"{name}: {describe_other_load(found['cores_others_kept_busy'])}")


if __name__ == "__main__":
    main()
