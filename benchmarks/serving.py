"""The latency of a keystroke: one character typed, 20 completed.

Four implementations with the same random weights, interleaved, so that other load affects all equally:

    ours over HTTP, ours in process, a Keras tf.function step loop, a torch.nn.LSTM step loop

and a few calls of `model.predict`. The loops only step from a known state: no HTTP, cache or batching. A loop
that cannot run here, such as one with instructions that the processor lacks, is reported as such. Before the
measurement the loops' logits are compared with ours. Then ours alone: at the end of a long document, after an
edit 1,000 characters before its end, with concurrent clients, and during a prompt of a million characters;
start time, memory, an empty route, and the limits of the machine's bandwidth and arithmetic. Prints the
machine and the kernels that run, one table and one JSON line. --isa limits ours and the loops to the
instructions of an older processor.

    python -m benchmarks.serving [--requests 300] [--clients 64] [--networks 2x256 2x512] [--isa avx2]
                                 [--quick]
"""

import argparse
import importlib.util
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.concurrent_clients import run_clients
from benchmarks.hardware_limits import floor_ms
from benchmarks.machine import add_isa_argument, limits
from benchmarks.networks import CHARACTERS, COMPLETED, random_weights, saved_model
from benchmarks.our_kernels import our_kernels
from benchmarks.report import print_json_line, print_what_runs
from benchmarks.seeds import late_timers
from benchmarks.server import Api, running_api
from benchmarks.step_loops import ID_OF, KERAS, TORCH, KerasLoop, Peer, TorchLoop, peers
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.requests import CompletionRequest, Event, Failed, Usage
from nextchar.models.saved_model import SavedModel

NETWORKS = ("1x256", "2x256", "2x512")
SHORT, LONG, EDIT, HUGE = 100, 100_000, 1_000, 1_000_000

Keystroke = Callable[[str], Callable[[], object]]
"""Get ready to complete a document to which one character has just been typed; what it returns is timed.

So the clock starts when the body is written: how fast a client writes JSON is its own affair.
"""

Figures = dict[str, Any]


def main() -> None:
    """Measure every network and print the results."""
    options = _arguments()
    variables = limits(options.isa)
    ours = our_kernels(variables)
    if ours["folder"]:
        variables["NUMBA_CACHE_DIR"] = ours["folder"]
    if any(os.environ.get(name) != value for name, value in variables.items()):
        # Again, for libraries have read the environment while they were imported.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **variables})
    layers, units = _network(options.networks[0])
    loops = {
        name: ("step_loop", {"library": library, "layers": layers, "units": units})
        for name, library in ((KERAS, "keras"), (TORCH, "torch"))
        if importlib.util.find_spec(library)
    }
    ran = print_what_runs(options.isa, ours=ours, peers=loops)
    results: Figures = {}
    missing: list[str] = []
    print(f"\n{'network':8} {'':34} {'p50 ms':>9} {'p99 ms':>9} {'/ HTTP':>8}")
    for network in options.networks:
        results[network], missing = measure(*_network(network), options)
        _print(network, results[network])
    for name in missing:
        print(f"left out, for it is not installed: {name}")
    print_json_line("serving", ran=ran, missing=missing, results=results)


def measure(layers: int, units: int, options: argparse.Namespace) -> tuple[Figures, list[str]]:
    """Return all figures of one network, and the peers that are not installed."""
    weights = random_weights(layers, units)
    saved = saved_model(layers, units, weights)
    known = peers(saved, weights, layers, units)
    others = known.loops
    _check_that_all_agree(others)
    for peer in others.values():
        if isinstance(peer, TorchLoop):
            peer.choose_threads(lambda one: _seconds(lambda: one.keystroke("a"), times=10))
    figures: Figures = {"floor": floor_ms(weights), "cannot_run": known.cannot_run}
    with running_api([saved], model_threads=options.threads) as api:
        figures["first_answer_s"] = api.first_answer_s
        figures["keystrokes"] = _keystrokes(api, saved, others, options.requests)
        keras = others.get(KERAS)
        if isinstance(keras, KerasLoop):
            keras.predict("a")  # traces
            took = [_seconds(lambda: keras.predict("a"), times=1) for _ in range(options.predicts)]
            figures["keystrokes"]["Keras model.predict"] = percentiles(took)
        figures["clients"] = {
            precision: _clients(api, saved, options, precision) for precision in ("float32", "int8")
        }
        figures["beside_a_huge_prompt"] = _during_huge_prompt(api, saved, options)
        figures["resident_mb"] = api.resident_bytes() / 1e6
        figures["event_loop"] = late_timers(api.metrics())
    return figures, known.missing


def _keystrokes(api: Api, saved: SavedModel, others: dict[str, Peer], requests: int) -> Figures:
    path = _path(saved)
    engine = Engine(saved)
    ours: dict[str, tuple[Keystroke, int, int | None]] = {  # function, document length, distance of edits
        # First, because threads of the contestant before may still be spinning.
        "empty route": (empty_route(api), SHORT, None),
        "ours, HTTP": (over_http(api, path, precision="float32"), SHORT, None),
        "ours, HTTP, int8": (over_http(api, path, precision="int8"), SHORT, None),
        "ours, HTTP, at 100,000": (over_http(api, path, precision="float32"), LONG, None),
        "ours, HTTP, int8, at 100,000": (over_http(api, path, precision="int8"), LONG, None),
        "ours, HTTP, edit 1,000 before": (over_http(api, path, precision="float32"), LONG, EDIT),
        "ours, HTTP, int8, edit 1,000 before": (over_http(api, path, precision="int8"), LONG, EDIT),
        "ours, HTTP, streamed": (over_http(api, path, precision="float32", stream=True), SHORT, None),
        "ours, in process": (in_process(engine, precision="float32", stream=False), SHORT, None),
        "ours, in process, int8": (in_process(engine, precision="int8", stream=False), SHORT, None),
    }
    contestants = dict(ours)
    for name, peer in others.items():
        contestants[name] = (_last_character(peer), SHORT, None)
    typist = random.Random(1)
    documents = {name: typist.choices(CHARACTERS, k=n) for name, (_, n, _) in contestants.items()}
    for name, (keystroke, _, _) in contestants.items():
        if name in others:
            others[name].read("".join(documents[name]))
        for _ in range(3):
            keystroke("".join(documents[name]))()  # prefills the document and warms up
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(requests):
        for name, (keystroke, _, edit) in contestants.items():
            document = documents[name]
            if edit is None:
                document.append(typist.choice(CHARACTERS))
            else:
                document.insert(len(document) - edit, typist.choice(CHARACTERS))
            times[name].append(_seconds(keystroke("".join(document)), times=1))
    engine.close()
    return {name: percentiles(taken) for name, taken in times.items()}


def over_http(api: Api, path: str, **options: object) -> Keystroke:
    """The API over HTTP."""
    client = api.client()
    ask = client.ask if not options.get("stream") else client.stream

    def keystroke(prompt: str) -> Callable[[], object]:
        body = json.dumps({"prompt": prompt, "max_characters": COMPLETED} | options).encode()
        return partial(ask, "POST", path, body)

    return keystroke


def empty_route(api: Api) -> Keystroke:
    """An empty route behind the same middleware."""
    client = api.client()
    return lambda _: partial(client.get, "/healthz")


def in_process(engine: Engine, **options: Any) -> Keystroke:
    """The engine in process."""

    def complete(prompt: str) -> None:
        over = threading.Event()

        def on_event(event: Event) -> None:
            if isinstance(event, Usage | Failed):
                over.set()

        engine.complete(CompletionRequest(prompt=prompt, max_characters=COMPLETED, **options), on_event)
        over.wait()

    return lambda prompt: partial(complete, prompt)


def _last_character(peer: Peer) -> Keystroke:
    return lambda prompt: partial(peer.keystroke, prompt[-1])


def _clients(api: Api, saved: SavedModel, options: argparse.Namespace, precision: str) -> Figures:
    """Concurrent clients: characters per second, and the slowest answers."""
    each = max(2, options.requests // 20)

    def measured(clients: int, times: int) -> tuple[float, list[float], int]:
        return run_clients(api.port, _path(saved), clients, each=times, characters=SHORT, precision=precision)

    alone_s, alone, _ = measured(1, 4 * each)
    together_s, together, errors = measured(options.clients, each)
    one = len(alone) * COMPLETED / alone_s
    all_of_them = len(together) * COMPLETED / together_s
    p50_alone = float(np.percentile(alone, 50) * 1e3)
    return {
        "clients": options.clients,
        "errors": errors,
        "characters_per_second": all_of_them,
        "ratio_to_one_client": all_of_them / one,
        "p50_ms_of_one": p50_alone,
        **percentiles(together),
        "p99_to_p50_of_one": percentiles(together)["p99_ms"] / p50_alone,
    }


def _during_huge_prompt(api: Api, saved: SavedModel, options: argparse.Namespace) -> Figures:
    """Keystrokes alone, and during the prefill of another client's prompt of a million characters."""
    path, typist = _path(saved), random.Random(2)
    keystroke = over_http(api, path, precision="float32")
    document = "".join(typist.choices(CHARACTERS, k=SHORT))

    def measured() -> Figures:
        nonlocal document
        taken = []
        for _ in range(options.requests):
            document += typist.choice(CHARACTERS)
            taken.append(_seconds(keystroke(document), times=1))
        return percentiles(taken)

    keystroke(document)()
    alone = measured()
    huge = "".join(typist.choices(CHARACTERS, k=options.huge))
    body = {"prompt": huge, "max_characters": 1, "timeout_ms": 600_000, "precision": "float32"}
    other = api.client()
    other.send("POST", path, json.dumps(body).encode())
    beside = measured()
    other.close()  # cancel it
    return {"characters": options.huge, "alone": alone, "beside": beside}


def percentiles(times: list[float]) -> Figures:
    """Return the median and the 99th percentile, in milliseconds."""
    p50, p99 = np.percentile(times, (50, 99)) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def _check_that_all_agree(others: dict[str, Peer]) -> None:
    logits = {name: peer.read("to be, or not to be") for name, peer in others.items()}
    first, *rest = logits.values()
    for other in rest:
        np.testing.assert_allclose(other, first, atol=1e-4)
    assert set(ID_OF) == set(CHARACTERS)


def _seconds(call: Callable[[], object], *, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def _path(saved: SavedModel) -> str:
    return f"/v1/models/{saved.card.name}/complete"


def _print(network: str, figures: Figures) -> None:
    keystrokes = figures["keystrokes"]
    base = keystrokes["ours, HTTP"]["p50_ms"]
    floor = figures["floor"]["floor_ms"]
    rows = {**keystrokes, "floor of the machine": {"p50_ms": floor, "p99_ms": floor}}
    for precision, crowded in figures["clients"].items():
        rows[f"{crowded['clients']} clients, HTTP, {precision}"] = crowded
    huge = figures["beside_a_huge_prompt"]
    rows |= {"before a huge prompt": huge["alone"], "beside a huge prompt": huge["beside"]}
    for name, row in rows.items():
        print(f"{network:8} {name:34} {row['p50_ms']:9.2f} {row['p99_ms']:9.2f} {row['p50_ms'] / base:8.2f}")
    for name, reason in figures["cannot_run"].items():
        print(f"{network:8} {name} cannot run here: {reason}")
    for precision, crowded in figures["clients"].items():
        print(
            f"{network:8} {crowded['clients']} clients, {precision}:"
            f" {crowded['characters_per_second']:,.0f} characters/s,"
            f" {crowded['ratio_to_one_client']:.1f} times one client; p99"
            f" {crowded['p99_to_p50_of_one']:.1f} times one client's p50; {crowded['errors']} errors"
        )
    print(
        f"{network:8} first answer {figures['first_answer_s']:.2f} s after the start,"
        f" {figures['resident_mb']:.0f} MB resident; event loop timers late by more than 20 ms:"
        f" {figures['event_loop']['over_20_ms']:.0f} of {figures['event_loop']['timers']:.0f}",
        flush=True,
    )


def _network(text: str) -> tuple[int, int]:
    layers, units = map(int, text.split("x"))
    return layers, units


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=300, help="keystrokes for each figure")
    parser.add_argument("--clients", type=int, default=64, help="clients at once")
    parser.add_argument("--threads", type=int, default=1, help="NEXTCHAR_MODEL_THREADS")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="LAYERSxUNITS")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    add_isa_argument(parser)
    options = parser.parse_args()
    options.huge, options.predicts = HUGE, 5
    if options.quick:
        options.networks, options.requests, options.clients = ["1x16"], 3, 4
        options.huge, options.predicts = 100_000, 1
    return options


if __name__ == "__main__":
    main()
