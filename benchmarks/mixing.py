"""The gain of batch mixing: held-out bits with and without it, in the same number of steps.

    distilling    a small network, alone, and with half of its rows trained on the distribution of a large
                  one that was trained on the same text
    unlabeled    a network on a small in-domain text, alone, and with half of its rows on another text of
                  the same author: as it is, and labeled by a teacher that was trained on the small text

The last tenth of the text is held out and read once in order. Several seeds, each for all contestants.
Prints a table and one JSON line.

    python -m benchmarks.mixing [--text FILE] [--seeds 3] [--quick]
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.report import print_json_line, print_table
from nextchar.models.config import Budget, MixTargets, NetworkConfig, TrainingConfig
from nextchar.models.machine import available_cores
from nextchar.models.runtime.session import Network
from nextchar.models.text.vocabulary import normalize
from nextchar.worker.evaluation import bits_per_character, graph_of
from nextchar.worker.mixing import SecondText
from nextchar.worker.prepared_text import Text
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit

DEFAULT_TEXT = Path(__file__).parents[2] / "shared" / "data" / "nietzsche.txt"
HELD_OUT = 0.1
FRACTION = 0.5
SMALL_SHARE = 0.1  # of the training text: what the small in-domain corpus is
WARM_UP = 2000  # characters read before the held-out text

STUDENT, LARGE, DOMAIN = NetworkConfig(units=64), NetworkConfig(units=512), NetworkConfig(units=256)
STEPS = {"large": 1500, "student": 2000, "domain": 1000}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all contestants and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--text", type=Path, default=DEFAULT_TEXT, help="a UTF-8 file")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions, each with another seed")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps: does it run?")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: at least 1")
    try:
        whole = normalize(options.text.read_bytes().decode())
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--text {options.text}: {error}")
    steps = {name: max(2, count // 100) if options.quick else count for name, count in STEPS.items()}

    found: dict[str, list[float]] = {}
    for seed in range(1, options.seeds + 1):
        for name, contestant in contestants(whole, steps, seed):
            bits = contestant()
            found.setdefault(name, []).append(bits)
            print(f"seed {seed}: {name} {bits:.4f} bits", file=sys.stderr, flush=True)

    alone = {"distilling": "distilling: alone", "unlabeled": "unlabeled: alone"}
    rows = []
    for name, bits in found.items():
        base = found.get(alone.get(name.split(":")[0], ""))
        gains = [b - a for a, b in zip(bits, base, strict=True)] if base and base is not bits else []
        told = (
            [f"{statistics.mean(gains):+.4f}", f"{min(gains):+.4f} to {max(gains):+.4f}"]
            if gains
            else ["", ""]
        )
        rows.append([name, f"{statistics.mean(bits):.4f}", f"{min(bits):.4f} to {max(bits):.4f}", *told])
    print(
        f"\nHeld-out bits per character on {options.text.name}, {options.seeds} seeds, and what mixing saves"
    )
    print_table(("", "bits", "from - to", "saved", "from - to"), rows)
    print_json_line("mixing", text=options.text.name, steps=steps, fraction=FRACTION, bits=found)


def contestants(whole: str, steps: dict[str, int], seed: int) -> list[tuple[str, Callable[[], float]]]:
    """Return what to train, in order: each call trains one network and returns its held-out bits."""
    text = Text.split(whole, validation_fraction=HELD_OUT)
    ids = text.train[:]
    # The small corpus is the end of the training part; the other text is everything before it.
    small = Text(text.vocabulary, ids[-int(SMALL_SHARE * len(ids)) :], text.validation, text.prompt)
    other = ids[: len(ids) - len(small.train)]
    teachers: dict[str, Network] = {}

    def trained(
        name: str, network: NetworkConfig, text: Text, count: int, second: SecondText | None = None
    ) -> float:
        recipe = TrainingConfig(budget=Budget(steps=count), seed=seed)
        result: Result = fit(network, recipe, text, cores=available_cores(), second=second)
        teachers[name] = Network(graph_of(result.network), threads=available_cores())
        return bits_per_character(teachers[name], text.validation, before=text.train, warm_up=WARM_UP)

    def labeled(name: str, second: Sequence[int], targets: MixTargets) -> SecondText:
        return SecondText(second, FRACTION, targets, teachers[name], text.vocabulary)

    n = steps["student"]
    m = steps["domain"]
    return [
        ("teacher", lambda: trained("large", LARGE, text, steps["large"])),
        ("distilling: alone", lambda: trained("student", STUDENT, text, n)),
        (
            "distilling: from the teacher",
            lambda: trained("taught", STUDENT, text, n, labeled("large", ids, "distribution")),
        ),
        ("unlabeled: alone", lambda: trained("small", DOMAIN, small, m)),
        (
            "unlabeled: more text without a teacher",
            lambda: trained("more", DOMAIN, small, m, SecondText(other, FRACTION, "text")),
        ),
        (
            "unlabeled: labeled by the small model",
            lambda: trained("self", DOMAIN, small, m, labeled("small", other, "distribution")),
        ),
    ]


if __name__ == "__main__":
    main()
