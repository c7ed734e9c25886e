"""Preset `auto` against every fixed preset: held-out loss by budget, and the study behind its rules.

For each text and budget in seconds, every preset and every recipe of models/auto_preset.py is trained by
nextchar.worker.training.fit, and `auto` is the run of the recipe that nextchar.worker.training chooses.
What `auto` loses is the difference to the best run. For a budget in steps, which takes no account of speed,
the table has the recipes alone: these figures do not depend on the load of the machine, and the rules are
fitted to them.

The last tenth of each text is held out and read once by the runtime that serves models. Prints one table and
one JSON line.

    python -m benchmarks.presets [FILE ...] [--seconds 10 30] [--steps 200 800] [--recipes tiny small]
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contestants import ROOT
from benchmarks.report import print_json_line, print_table
from nextchar.models.auto_preset import RULES, Candidate, Rule
from nextchar.models.config import MINIMUM_CHARACTERS, PRESETS, Budget
from nextchar.models.machine import available_cores
from nextchar.models.runtime.session import Network
from nextchar.models.text.vocabulary import normalize
from nextchar.worker.evaluation import bits_per_character, graph_of
from nextchar.worker.prepared_text import Text
from nextchar.worker.training import choose_preset, fit

FOLDER = ROOT.parent / "shared" / "data"
DEFAULT_TEXTS = tuple(FOLDER / name for name in ("nietzsche.txt", "lua_c.txt", "openssh_2k.log"))
HELD_OUT = 0.1
WARM_UP = 2000


def name_of(rule: Rule) -> str:
    """Return the name of the preset; with changes also units and rate: `tiny-128-0.04`."""
    network, training = rule.network, rule.training
    is_preset = (network, training) == PRESETS[rule.preset]
    return rule.preset if is_preset else f"{rule.preset}-{network.units}-{training.learning_rate:g}"


AUTO = {name_of(rule): rule for rule in RULES}
RECIPES = AUTO | {preset: Rule(preset, 0) for preset in PRESETS if preset not in AUTO}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train everything and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path, default=DEFAULT_TEXTS, metavar="FILE", help="UTF-8")
    parser.add_argument("--seconds", nargs="+", type=float, default=[], help="budgets; default: 10 30")
    parser.add_argument("--steps", nargs="+", type=int, default=[], help="budgets in optimizer steps")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    options = parser.parse_args(arguments)
    if not (options.seconds or options.steps):
        options.seconds = [10.0, 30.0]
    if min([*options.seconds, *options.steps]) < 1:
        parser.error("a budget is at least 1 second or 1 step")
    budgets = [Budget(steps=steps) for steps in options.steps]
    budgets += [Budget(seconds=seconds) for seconds in options.seconds]
    texts = {path.name: _text(parser, path) for path in options.texts}
    rules = {name: RECIPES[name] for name in RECIPES if name in options.recipes}

    found = []
    for name, text in texts.items():
        for budget in budgets:
            print(f"{name}, {described(budget)} ...", file=sys.stderr, flush=True)
            found.append({"text": name} | compare(text, budget, rules))
    print_results(found, list(rules))
    print_json_line("presets", rules=[_rule(rule) for rule in rules.values()], comparisons=found)


def compare(text: Text, budget: Budget, rules: dict[str, Rule]) -> dict[str, Any]:
    """Return the held-out bits of each recipe, and with a budget in seconds what `auto` chooses."""
    candidates = {
        name: Candidate(
            preset=rule.preset,
            min_steps=rule.min_steps,
            min_characters=rule.min_characters,
            network=rule.network,
            training=rule.training.model_copy(update={"budget": budget}),
        )
        for name, rule in rules.items()
    }
    cores = available_cores()
    result: dict[str, Any] = {"budget": budget.model_dump(exclude_none=True)}
    of_auto = {name: one for name, one in candidates.items() if name in AUTO}
    if budget.seconds is not None and of_auto:
        began = time.monotonic()
        choice = choose_preset(list(of_auto.values()), text, cores=cores)
        chosen = next(name for name, one in of_auto.items() if one == choice.candidate)
        result |= {
            "auto": chosen,
            "sentence": choice.sentence,
            "choice_seconds": round(time.monotonic() - began, 2),
        }
    result["runs"] = runs = {name: train(text, one, cores=cores) for name, one in candidates.items()}
    if "auto" in result:
        best = min(run["bits"] for run in runs.values())
        result["auto_lost_bits"] = round(runs[result["auto"]]["bits"] - best, 4)
    return result


def train(text: Text, candidate: Candidate, *, cores: int) -> dict[str, Any]:
    """Train one network; return its held-out bits per character, steps and epochs."""
    result = fit(candidate.network, candidate.training, text, cores=cores)
    network = Network(graph_of(result.network), threads=cores)
    bits = bits_per_character(network, text.validation, before=text.train, warm_up=WARM_UP)
    return {"bits": round(bits, 4), "steps": result.steps, "epochs": result.epochs}


def described(budget: Budget) -> str:
    """Return a budget as words: `30 s`."""
    return f"{budget.seconds:g} s" if budget.seconds is not None else f"{budget.steps} steps"


def print_results(found: Sequence[dict[str, Any]], recipes: Sequence[str]) -> None:
    """Print one row for each text and budget, and what `auto` and each fixed preset lose at worst."""
    rows = [
        [
            one["text"],
            described(Budget(**one["budget"])),
            *(f"{one['runs'][name]['bits']:.3f} ({one['runs'][name]['steps']:,})" for name in recipes),
            one.get("auto", ""),
            f"{one['auto_lost_bits']:.3f}" if "auto" in one else "",
        ]
        for one in found
    ]
    print("held-out bits per character (steps)")
    print_table(("text", "budget", *recipes, "auto", "it loses"), rows, words=1)
    timed = [one for one in found if "auto" in one]
    if not timed:
        return
    for name in recipes:
        lost = max(
            one["runs"][name]["bits"] - min(run["bits"] for run in one["runs"].values()) for one in timed
        )
        print(f"always {name}: loses up to {lost:.3f} bits")
    print(f"auto: loses up to {max(one['auto_lost_bits'] for one in timed):.3f} bits")


def _rule(rule: Rule) -> dict[str, Any]:
    return asdict(rule)


def _text(parser: argparse.ArgumentParser, path: Path) -> Text:
    try:
        whole = normalize(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"{path}: {error}; give UTF-8 texts as arguments")
    if len(whole) < MINIMUM_CHARACTERS:
        parser.error(f"{path}: {len(whole)} characters, and training needs {MINIMUM_CHARACTERS}")
    return Text.split(whole, validation_fraction=HELD_OUT)


if __name__ == "__main__":
    main()
