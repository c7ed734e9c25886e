"""What the mixture adds to a keystroke: one character typed, 20 completed, compared with the network.

Networks of random weights with a mixture of a real text, in which the documents are typed. Both answer
the same keystrokes in turn, in process and over HTTP, with int8 and float32 weights. Prints one table of
medians and 99th percentiles in milliseconds, and one JSON line.

    python -m benchmarks.mixture_latency [--networks 1x256 2x256] [--requests 200] [--text FILE]
"""

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.networks import CHARACTERS, random_weights, saved_model
from benchmarks.report import print_json_line, print_table
from benchmarks.server import running_api
from benchmarks.serving import Keystroke, in_process, over_http, percentiles
from nextchar.models.runtime import mixture
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.mixture_learning import learn_text
from nextchar.models.text.vocabulary import Vocabulary

_TEXT = Path(__file__).parents[2] / "shared" / "data" / "nietzsche.txt"
_TRAINED = 0.9  # of the text; documents are from the rest
_DOCUMENT_CHARACTERS = 100
_WARM_UP = 5  # keystrokes


def main() -> None:
    """Measure every network and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["1x256", "2x256", "2x512"])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--text", type=Path, default=_TEXT)
    options = parser.parse_args()
    text = "".join(c for c in options.text.read_text(errors="replace") if c in CHARACTERS)
    found = {network: measure(network, text, options.requests) for network in options.networks}
    heads = ("network", "", "LSTM p50", "mixture p50", "ratio", "LSTM p99", "mixture p99", "ratio")
    rows = [
        [network, how, f"{f['lstm']['p50_ms']:.3f}", f"{f['mixture']['p50_ms']:.3f}", f"{f['p50_ratio']:.3f}",
         f"{f['lstm']['p99_ms']:.3f}", f"{f['mixture']['p99_ms']:.3f}", f"{f['p99_ratio']:.3f}"]
        for network, by_way in found.items()
        for how, f in by_way.items()
    ]  # fmt: skip
    print_table(heads, rows, words=2)
    print_json_line("mixture_latency", requests=options.requests, networks=found)


def measure(network: str, text: str, requests: int) -> dict[str, Any]:
    """Return the figures of one network, in process and over HTTP, for both precisions."""
    layers, units = map(int, network.split("x"))
    cut = int(_TRAINED * len(text))
    vocabulary = Vocabulary(CHARACTERS)
    ids = vocabulary.encode(text[:cut])
    learned, _ = learn_text(ids, vocabulary)
    files = {mixture.FILE: mixture.dump(ids, learned)}
    saved = saved_model(layers, units, random_weights(layers, units), files)
    unseen = text[cut:]
    found: dict[str, Any] = {}
    engine = Engine(saved)
    path = f"/v1/models/{saved.card.name}/complete"
    with running_api([saved], model_threads=1) as api:
        for precision in ("int8", "float32"):
            for how in ("in process", "over HTTP"):
                keystrokes = {
                    expert: in_process(engine, expert=expert, precision=precision)
                    if how == "in process"
                    else over_http(api, path, expert=expert, precision=precision)
                    for expert in ("lstm", "mixture")
                }
                found[f"{how}, {precision}"] = _paired(keystrokes, unseen, requests)
    engine.close()
    return found


def _paired(keystrokes: dict[str, Keystroke], text: str, requests: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {expert: [] for expert in keystrokes}
    room = len(text) - _DOCUMENT_CHARACTERS - 1
    for n in range(_WARM_UP + requests):
        start = n * 997 % room
        document = text[start : start + _DOCUMENT_CHARACTERS]
        for expert, keystroke in keystrokes.items():
            keystroke(document)()
            complete = keystroke(document + text[start + _DOCUMENT_CHARACTERS])
            began = time.perf_counter()
            complete()
            if n >= _WARM_UP:
                times[expert].append(time.perf_counter() - began)
    figures = {expert: percentiles(taken) for expert, taken in times.items()}
    return figures | {
        f"{p}_ratio": round(figures["mixture"][f"{p}_ms"] / figures["lstm"][f"{p}_ms"], 3)
        for p in ("p50", "p99")
    }


if __name__ == "__main__":
    main()
