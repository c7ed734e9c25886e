"""What is flagged in the rest of any logs, how many alerts that is, and how much planted damage is found.

Of each file of a folder the first 60 % of the lines train a model with default options, and the events of the
last 30 % are scored as one stream at a false-alarm rate of 1 %; all of them are taken to be normal. Then
damaged copies of some of these events are inserted at random, of five kinds: two words swapped, a foreign
word, a number a hundred times as large, an event that is cut, and a line of another log. One is found if it
is flagged. Next to it stands what "template never seen" flags and finds.

Files whose name ends in `_labelled.tsv` have a label, a kind and a line in each row; rows labeled 0 are used.
A log whose held-out tenth has fewer than 99 lines does not support a rate of 1 %: the rate used is printed. A
file takes about as many seconds as the training, and ten more.

    python -m benchmarks.logs DIR [--seconds 30]
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nextchar
from benchmarks.report import print_json_line, print_table
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer
from nextchar.models.anomaly.line_scores import LineScore, ScoreOptions
from nextchar.models.errors import InvalidInput
from nextchar.store.calibrations import Calibrations
from nextchar.store.open_blobs import open_blobs

_TRAINED, _SCORED_FROM = 0.6, 0.7
_RATE = 0.01
_PLANTED = 0.02  # of the scored lines, of all kinds together
_WORDS = ("zebra", "Quixotic", "marzipan", "kumquat", "xylophone", "grommet")
_NUMBER, _WORD = (  # whole ones, not parts of ids
    re.compile(rf"(?<![^\W_]){whole}(?![^\W_])") for whole in (r"\d+", "[A-Za-z]{3,}")
)


def main() -> None:
    """Measure every file and print the results."""
    options = _arguments()
    files = sorted(path for path in options.folder.iterdir() if path.is_file())
    logs = {file.name: normal_lines(file) for file in files}
    found = []
    for name, lines in logs.items():
        others = [line for other, some in logs.items() if other != name for line in some]
        found.append({"file": name} | measure(lines, others or ["another log"], seconds=options.seconds))
        print(f"{name}: {found[-1]['change'] or 'no change'}", flush=True)
    rows = [
        [
            one["file"],
            f"{one['lines']:,}",
            f"{one['flagged']:.1%}",
            f"{one['repeated']:.1%}",
            f"{one['alerts']:,}",
            f"{one['found']:.0%}",
            f"{one['unseen_flagged']:.1%}",
            f"{one['unseen_found']:.0%}",
            f"{one['rate']:g}",
        ]
        for one in found
    ]
    columns = ["log", "lines", "flagged", "repeated", "alerts", "found", "unseen", "unseen found", "at rate"]
    print_table(columns, rows, words=1)
    goals = {
        "flagged at most 2 %": sum(one["flagged"] <= 0.02 for one in found),
        "flagged at most 5 %": sum(one["flagged"] <= 0.05 for one in found),
        "at most 30 alerts": sum(one["alerts"] <= 30 for one in found),
        "90 % found": sum(one["found"] >= 0.9 for one in found),
    }
    print(f"\nOf {len(found)} logs: " + ", ".join(f"{name} {count}" for name, count in goals.items()))
    print_json_line("logs", seconds=options.seconds, logs=found, goals=goals)


def normal_lines(file: Path) -> list[str]:
    """Return the lines of a log, or the normal ones of a labeled file, in the file's order."""
    lines = [line.removesuffix("\r") for line in file.read_text("utf-8", "replace").split("\n") if line]
    if file.name.endswith("_labelled.tsv"):
        return [line.split("\t", 2)[2] for line in lines if line.startswith("0\t")]
    return lines


def measure(lines: Sequence[str], others: Sequence[str], *, seconds: float, **options: Any) -> dict[str, Any]:
    """Train on the first lines and score the last, without and with damage; `options` are of training."""
    text = "".join(f"{line}\n" for line in lines[: int(_TRAINED * len(lines))])
    if "steps" not in options:
        options["seconds"] = seconds
    with nextchar.train(text, **options) as model:
        return measure_model(model, lines, others)


def measure_model(model: nextchar.Model, lines: Sequence[str], others: Sequence[str]) -> dict[str, Any]:
    """Score the last lines of a log by a model of the first ones, without and with damage."""
    characters = model.loaded.vocabulary.to_characters
    scorer = scorer_of(model)
    later = list(model.loaded.scorer.events(map(characters, lines[int(_SCORED_FROM * len(lines)) :])))
    scores, unseen = score(scorer, later)
    change = scorer.change
    mixed, planted = plant(later, others, random.Random(0))
    after, unseen_after = score(scorer_of(model), list(map(characters, mixed)))
    at = {place: kind for place, kind in planted.items() if after[place].anomalous}
    kinds, hits = Counter(planted.values()), Counter(at.values())
    return {
        "lines": len(later),
        "rate": scorer.rate,
        "flagged": sum(bool(one.anomalous) for one in scores) / len(later),
        "repeated": sum(bool(one.repeated) for one in scores) / len(later),
        "alerts": len({one.alert_id for one in scores if one.alert_id}),
        "found": len(at) / max(1, len(planted)),
        "found_by_kind": {kind: hits[kind] / kinds[kind] for kind in kinds},
        "unseen_flagged": sum(unseen) / len(later),
        "unseen_found": sum(unseen_after[place] for place in planted) / max(1, len(planted)),
        "change": change.sentence if change else None,
    }


def score(scorer: CalibratedScorer, events: Sequence[str]) -> tuple[list[LineScore], list[bool]]:
    """Return the scores of events, as of one stream, and which have a template that was never seen."""
    read = scorer.read(events)
    scores = [scorer.judge(one, line).score for one, line in zip(scorer.scores(read), read, strict=True)]
    parsed = [line.surprisal.parsed for line in read]
    return scores, [one is not None and one.template.is_new for one in parsed]


def plant(lines: Sequence[str], others: Sequence[str], r: random.Random) -> tuple[list[str], dict[int, str]]:
    """Insert damaged copies of lines; return all lines, and the kind of each damaged one by its index."""
    each = max(2, int(_PLANTED * len(lines) / len(_DAMAGE)))
    damaged = [
        (kind, made)
        for kind, damage in _DAMAGE.items()
        for made in (damage(line, others, r) for line in r.choices(lines, k=each))
        if made is not None
    ]
    places = sorted(r.choices(range(len(lines)), k=len(damaged)))
    r.shuffle(damaged)
    mixed: list[str] = []
    planted: dict[int, str] = {}
    start = 0
    for place, (kind, line) in zip(places, damaged, strict=True):
        mixed += lines[start:place]
        start = place
        planted[len(mixed)] = kind
        mixed.append(line)
    return [*mixed, *lines[start:]], planted


def _swapped(line: str, _: Sequence[str], r: random.Random) -> str | None:
    words = line.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 2 and not word.isdigit()]
    pairs = [(i, j) for i in places for j in places if i < j and words[i] != words[j]]
    if not pairs:
        return None
    i, j = r.choice(pairs)
    words[i], words[j] = words[j], words[i]
    return " ".join(words)


def _replaced(line: str, pattern: re.Pattern[str], by: Callable[[str], str], r: random.Random) -> str | None:
    places = list(pattern.finditer(line))
    if not places:
        return None
    place = r.choice(places)
    return line[: place.start()] + by(place[0]) + line[place.end() :]


_DAMAGE: dict[str, Callable[[str, Sequence[str], random.Random], str | None]] = {
    "swapped": _swapped,
    "word": lambda line, _, r: _replaced(line, _WORD, lambda _: r.choice(_WORDS), r),
    "number": lambda line, _, r: _replaced(line, _NUMBER, lambda number: f"{r.randint(10, 99)}{number}", r),
    "cut": lambda line, _, r: line[: r.randint(len(line) // 3, 2 * len(line) // 3)] or None,
    "another log": lambda _, others, r: r.choice(others),
}


def scorer_of(model: nextchar.Model) -> CalibratedScorer:
    """Return a scorer at a rate of 1 %, or at the lowest that the model's calibration allows."""
    loaded = model.loaded
    stored = Calibrations(open_blobs("memory://")).find(loaded.saved, None)
    try:
        return CalibratedScorer(
            loaded, stored, ScoreOptions("none", false_alarms=_RATE, fast=True, repeats="count")
        )
    except InvalidInput:
        return CalibratedScorer(loaded, stored, ScoreOptions("none", fast=True, repeats="count"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-logs", description="What is flagged of later lines of logs, and damage found."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder of logs")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training")
    return parser.parse_args()


if __name__ == "__main__":
    main()
