"""The mixture compared with its experts and the baselines, by seconds of training, with default options.

For each text, budget and seed a model is trained as a job is. Printed are the bits per character of the
second half of its held-out text: of the mixture that the model predicts with, of the same mixture when it
does not adapt to what it reads, of the network and of the n-grams alone, and of the best baseline of the
report (n-grams of the best order, gzip, xz, PPMd), with the network that was trained. zpaq -m5 and paq8px -8
are measured where these programs are installed: what they need for the last twentieth of the text as it is,
after the rest; not of lists, whose held-out lines are drawn at random. With several seeds these are medians;
"spread" is the difference between the best and the worst mixture. A machine of half the speed makes in as
many seconds what this one makes in half of them: --speed 0.5.

    python -m benchmarks.mixture [FILE ...] [--seconds 10 30] [--seeds 1] [--threads 1] [--speed 0.5]
"""

import argparse
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import print_json_line, print_table
from nextchar import local, local_training
from nextchar.models.config import MINIMUM_CHARACTERS

_DATA = Path(__file__).parents[2] / "shared" / "data"
DEFAULT_TEXTS = [
    _DATA / name
    for name in (
        "nietzsche.txt",
        "lua_c.txt",
        "names.txt",
        "openssh_2k.log",
        "chinese_poems.txt",
        "http_params_labelled.tsv",
    )
]

COMPRESSORS = {
    "zpaq": ("zpaq", "add", "{to}", "{file}", "-method", "5"),
    "paq8px": ("paq8px", "-8", "{file}", "{to}"),
}
"""Programs that are measured with the mixture, by name: their arguments."""

_HEADS = (
    "text",
    "s",
    "mixture",
    "spread",
    "not adapting",
    "LSTM",
    "n-grams",
    "best baseline",
    "",
    "network",
    "steps",
    *COMPRESSORS,
)


def main() -> None:
    """Train, and print a table of each text when its models are trained, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path, default=DEFAULT_TEXTS, help="UTF-8 files")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 30.0])
    parser.add_argument("--seeds", type=int, default=1, help="how many; medians are printed")
    parser.add_argument("--threads", type=int, default=None, help="cores to train on; by default all")
    parser.add_argument("--speed", type=float, default=1.0, help="of the machine that is simulated")
    options = parser.parse_args()
    texts = {path.name: path.read_text(errors="replace") for path in options.texts}
    if short := [name for name, text in texts.items() if len(text) < MINIMUM_CHARACTERS]:
        parser.error(f"too short to train on: {', '.join(short)}")
    found: dict[str, dict[str, Any]] = {}
    for name, text in texts.items():
        found[name] = {f"{seconds:g}": measure(text, seconds, options) for seconds in options.seconds}
        print_table(_HEADS, [_row(name, seconds, f) for seconds, f in found[name].items()])
    all_figures = [f for by_seconds in found.values() for f in by_seconds.values()]
    worse = sum(f["mixture"] > f["best_baseline"] for f in all_figures)
    print(f"the mixture is worse than the best baseline in {worse} of {len(all_figures)}")
    print_json_line("mixture", seeds=options.seeds, threads=options.threads, speed=options.speed, texts=found)


def _row(name: str, seconds: str, f: dict[str, Any]) -> list[str]:
    columns = ("mixture", "spread", "without_adaptation", "lstm", "ngram", "best_baseline")
    return [
        name,
        seconds,
        *(f"{f[column]:.3f}" for column in columns),
        f["baseline"],
        f["network"],
        f"{f['steps']:,}",
        *(f"{f[column]:.3f}" if column in f else "" for column in COMPRESSORS),
    ]


def measure(text: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return the medians over seeds, and the spread of the mixture's figure."""
    runs = []
    for seed in range(1, options.seeds + 1):
        with local_training.train(
            text,
            seconds=max(1.0, seconds * options.speed),
            progress=False,
            threads=options.threads,
            seed=seed,
        ) as model:
            runs.append(_figures(model))
    figures: dict[str, Any] = {
        key: round(statistics.median(run[key] for run in runs), 4)
        for key in ("mixture", "without_adaptation", "lstm", "ngram", "best_baseline", "steps")
    }
    mixtures = [run["mixture"] for run in runs]
    figures |= {} if runs[0]["is_list"] else compressor_bits(text)
    return figures | {
        "baseline": runs[0]["baseline"],
        "network": runs[0]["network"],
        "spread": round(max(mixtures) - min(mixtures), 4),
        "steps": int(figures["steps"]),
    }


def compressor_bits(text: str) -> dict[str, float]:
    """Return the bits per character of the last twentieth of a text by each program that is installed."""
    cut = len(text) - round(len(text) / 20)
    return {
        name: (compressed_bytes(text, command) - compressed_bytes(text[:cut], command))
        * 8
        / (len(text) - cut)
        for name, command in COMPRESSORS.items()
        if shutil.which(command[0])
    }


def compressed_bytes(text: str, command: Sequence[str]) -> int:
    """Return how long a text is after a program has compressed it."""
    with tempfile.TemporaryDirectory() as folder:
        file, to = Path(folder, "text"), Path(folder, "text.zpaq")
        file.write_text(text)
        arguments = [part.format(file=file, to=to) for part in command]
        subprocess.run(arguments, check=True, capture_output=True)
        return sum(path.stat().st_size for path in Path(folder).iterdir() if path != file)


def _figures(model: local.Model) -> dict[str, Any]:
    report, network = model.report, model.network
    experts = report["experts"]
    baseline = min(report["baselines"], key=report["baselines"].__getitem__)
    return {
        **{key: experts[key] for key in ("mixture", "lstm", "ngram")},
        "without_adaptation": experts.get("without_adaptation", experts["mixture"]),  # records never adapt
        "best_baseline": report["baselines"][baseline],
        "baseline": baseline,
        "is_list": "held_out_lines" in report,
        "network": f"{network.layers}x{network.units}",
        "steps": report["steps"],
    }


if __name__ == "__main__":
    main()
