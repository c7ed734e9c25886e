"""How long a keystroke takes: one new character typed, 20 completed, in this process.

Contestants answer the same prompts with the same random network, interleaved, so that a busy machine is
equally busy for all of them:

    loop      a plain loop over Network.step, the state at hand, sampling by hand; nothing else it could do
    engine    the engine: threads, cache, batcher, decoding, events; waiting for the last event

and the engine with int8 weights, at the end of a long document, and with many clients at once. Weights
are random: they cost what trained ones do. Prints one table and one JSON line.

    python -m benchmarks.serving [--requests 200] [--clients 64]
"""

import argparse
import json
import platform
import random
import string
import threading
import time
from collections.abc import Callable

import numpy as np

from models.config import NetworkConfig, TrainingConfig
from models.runtime.engine import FLOAT32_FILE, INT8_FILE, Engine
from models.runtime.graph import quantize, stateful_lstm_graph
from models.runtime.requests import CompletionRequest, Event, Failed, Usage
from models.runtime.session import Network
from models.saved_model import Card, SavedModel, describe_files

CHARACTERS = "".join(sorted(set(string.printable) - set("\t\r\x0b\x0c")))
EMBEDDING = 64
COMPLETED = 20
NETWORKS = ((1, 256), (2, 256), (2, 512))
SHORT, LONG = 100, 100_000

Keystroke = Callable[[str], None]


def main() -> None:
    """Measure every network and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="keystrokes for each figure")
    parser.add_argument("--clients", type=int, default=64, help="clients at once")
    options = parser.parse_args()
    results = {}
    print(f"{'network':8} {'contestant':22} {'p50 ms':>8} {'p99 ms':>8} {'/ loop':>8}")
    for layers, units in NETWORKS:
        name = f"{layers}x{units}"
        results[name] = measure_network(layers, units, requests=options.requests, clients=options.clients)
        loop = results[name]["loop"]["p50_ms"]
        for contestant, figures in results[name].items():
            if "p50_ms" in figures:
                p50, p99 = figures["p50_ms"], figures["p99_ms"]
                print(f"{name:8} {contestant:22} {p50:8.2f} {p99:8.2f} {p50 / loop:8.2f}")
        crowd = results[name]["clients"]
        print(
            f"{name:8} {options.clients} clients: {crowd['characters_per_second']:,.0f} characters/s,"
            f" {crowd['ratio_to_one_client']:.1f} times one client; p99 {crowd['p99_ms_of_all']:.1f} ms"
        )
    print(json.dumps({"benchmark": "serving", "machine": platform.machine(), "results": results}))


def measure_network(layers: int, units: int, *, requests: int, clients: int) -> dict[str, dict[str, float]]:
    """Return the figures of each contestant, by name."""
    saved = random_model(layers, units)
    float32, int8 = Engine(saved), Engine(saved)
    contestants: dict[str, tuple[Keystroke, int]] = {
        "loop": (plain_loop(saved), SHORT),
        "engine": (in_process(float32, precision="float32"), SHORT),
        "engine at 100,000": (in_process(float32, precision="float32"), LONG),
        "engine, no streaming": (in_process(float32, precision="float32", stream=False), SHORT),
        "engine int8": (in_process(int8, precision="int8"), SHORT),
    }
    results = {name: percentiles(times) for name, times in interleave(contestants, requests).items()}
    results["clients"] = crowd(float32, clients, each=max(2, requests // 20))
    float32.close()
    int8.close()
    return results


def interleave(contestants: dict[str, tuple[Keystroke, int]], requests: int) -> dict[str, list[float]]:
    """Type `requests` characters to each contestant in turn; return the seconds each took."""
    typist = random.Random(1)
    documents = {name: "".join(typist.choices(CHARACTERS, k=n)) for name, (_, n) in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for name, (keystroke, _) in contestants.items():
        keystroke(documents[name])  # read the document once
    for _ in range(requests):
        for name, (keystroke, _) in contestants.items():
            documents[name] += typist.choice(CHARACTERS)
            started = time.perf_counter()
            keystroke(documents[name])
            times[name].append(time.perf_counter() - started)
    return times


def plain_loop(saved: SavedModel) -> Keystroke:
    """One thread, one request: the least that can be done."""
    network = Network(saved.file(FLOAT32_FILE))
    known = {character: i for i, character in enumerate(saved.vocabulary.characters, 1)}
    sampler = np.random.default_rng(0)
    kept = [network.initial_state()]

    def keystroke(prompt: str) -> None:
        logits, state = network.step(np.array([[known[prompt[-1]]]], np.int32), kept[0])
        kept[0] = state
        for place in range(COMPLETED):
            z = logits[0, 0, 1:]
            reached = np.exp(z - z.max()).cumsum()
            chosen = int(reached.searchsorted(reached[-1] * sampler.random(), "right")) + 1
            if place < COMPLETED - 1:
                logits, state = network.step(np.array([[chosen]], np.int32), state)

    return keystroke


def in_process(engine: Engine, **options: object) -> Keystroke:
    """The engine, and a caller that waits for the last event."""

    def keystroke(prompt: str) -> None:
        over = threading.Event()

        def on_event(event: Event) -> None:
            if isinstance(event, Usage | Failed):
                over.set()

        request = CompletionRequest(prompt=prompt, max_characters=COMPLETED, **options)  # type: ignore[arg-type]
        engine.complete(request, on_event)
        over.wait()

    return keystroke


def crowd(engine: Engine, clients: int, *, each: int) -> dict[str, float]:
    """Return the throughput of many clients that type `each` characters, beside that of one."""
    alone_s, _ = _serve(engine, 1, each=4 * each)
    together_s, times = _serve(engine, clients, each=each)
    one = 4 * each * COMPLETED / alone_s
    all_of_them = clients * each * COMPLETED / together_s
    return {
        "clients": clients,
        "characters_per_second": all_of_them,
        "ratio_to_one_client": all_of_them / one,
        "p99_ms_of_all": float(np.percentile(times, 99) * 1e3),
    }


def _serve(engine: Engine, clients: int, *, each: int) -> tuple[float, list[float]]:
    """Let clients type without a pause, each driven by its own events; return all seconds, and each's."""
    times: list[float] = []
    over = threading.Semaphore(0)
    typist = random.Random(clients)

    def start(prompt: str, left: int) -> None:
        started = time.perf_counter()

        def on_event(event: Event) -> None:
            if isinstance(event, Usage | Failed):
                times.append(time.perf_counter() - started)
                if left > 1:
                    start(prompt + "a", left - 1)
                else:
                    over.release()

        request = CompletionRequest(
            prompt=prompt, max_characters=COMPLETED, precision="float32", stream=False
        )
        engine.complete(request, on_event)

    prompts = ["".join(typist.choices(CHARACTERS, k=SHORT)) for _ in range(clients)]
    for prompt in prompts:  # every document has been read before
        in_process(engine, precision="float32")(prompt)
    began = time.perf_counter()
    for prompt in prompts:
        start(prompt + "a", each)
    for _ in prompts:
        over.acquire()
    return time.perf_counter() - began, times


def percentiles(times: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    p50, p99 = np.percentile(times, (50, 99)) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def random_model(layers: int, units: int) -> SavedModel:
    """Return a saved model of random weights, float32 and int8."""
    files = {FLOAT32_FILE: stateful_lstm_graph(random_weights(len(CHARACTERS) + 1, layers, units))}
    files[INT8_FILE] = quantize(files[FLOAT32_FILE])
    card = Card(
        id="model_random",
        name="random",
        version=1,
        created_at=0,
        network=NetworkConfig(layers=layers, units=units, embedding=EMBEDDING),
        training=TrainingConfig(),
        characters=CHARACTERS,
        parameters=0,
        files=describe_files(files),
    )
    return SavedModel(card, files.__getitem__)


def random_weights(vocabulary_size: int, layers: int, units: int) -> dict[str, np.ndarray]:
    """Return float32 weights of the size that training leaves."""
    generator = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embedding": (vocabulary_size, EMBEDDING)}
    width = EMBEDDING
    for i in range(layers):
        shapes[f"lstm_{i}/kernel"] = (width, 4 * units)
        shapes[f"lstm_{i}/recurrent"] = (units, 4 * units)
        shapes[f"lstm_{i}/bias"] = (4 * units,)
        width = units
    shapes |= {"dense/kernel": (width, vocabulary_size), "dense/bias": (vocabulary_size,)}
    return {name: generator.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


if __name__ == "__main__":
    main()
