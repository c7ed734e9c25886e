"""Events of suggestions next to completions: does the service take them without slowing keystrokes down?

A client types into the API, which completes 20 characters after each key, with and without another process
that sends events, so many per second, in batches. Both are measured in turn, in an order that alternates;
each pair gives a ratio of the 99th percentiles. Prints one table and one JSON line.

    python -m benchmarks.events [--network 2x256] [--pairs 10] [--keys 2000] [--per-second 2000]
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event
from statistics import median
from typing import Any

import httpx

from benchmarks.networks import CHARACTERS, random_model
from benchmarks.report import print_json_line, print_table
from benchmarks.server import Api, Client, running_api
from benchmarks.serving import over_http, percentiles

_DOCUMENT_CHARACTERS = 100
_BATCH = 50
_WARM_UP = 20  # keystrokes
_KINDS = ("shown", "accepted", "kept")


def batch(number: int, model: str) -> list[dict[str, Any]]:
    """Return events that no other batch has: suggestions that are shown, some of which are accepted."""
    return [
        {
            "id": f"{number}.{n}",
            "type": _KINDS[n % len(_KINDS)],
            "suggestion_id": f"{number}.{n // len(_KINDS)}",
            "model": model,
            "typed": 3,
            "characters": 5,
            "latency_ms": 4.0,
            "client": "benchmark",
        }
        for n in range(_BATCH)
    ]


def send(port: int, model: str, per_second: float, first: int, stop: Event, sent: Any) -> None:
    """Send events until `stop` is set; `sent` gets how many were acknowledged, and how many were not."""
    with Client(port) as client:
        began, number = time.perf_counter(), 0
        while not stop.is_set():
            body = json.dumps({"events": batch(first + number, model)}).encode()
            due_s = began + number * _BATCH / per_second - time.perf_counter()
            if due_s > 0:
                time.sleep(due_s)
            try:
                client.ask("POST", "/v1/events", body)
                sent[0] += _BATCH
            except RuntimeError:
                sent[1] += _BATCH
            number += 1
        sent[2] = time.perf_counter() - began


@contextlib.contextmanager
def sending(api: Api, model: str, per_second: float, first: int) -> Iterator[Any]:
    """Send events from another process during the block; yield what was sent."""
    context = multiprocessing.get_context("spawn")
    stop, sent = context.Event(), context.Array("d", 3)
    process = context.Process(target=send, args=(api.port, model, per_second, first, stop, sent))
    process.start()
    try:
        while process.is_alive() and not sent[0]:
            time.sleep(0.01)
        yield sent
    finally:
        stop.set()
        process.join(60)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the pairs and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="2x256", help="layers x units")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--keys", type=int, default=2000, help="per measurement")
    parser.add_argument("--per-second", type=float, default=2000.0, help="events")
    options = parser.parse_args(arguments)
    saved = random_model(*map(int, options.network.split("x")))
    path, reference = f"/v1/models/{saved.card.name}/complete", f"{saved.card.name}@1"
    pairs: list[dict[str, dict[str, float]]] = []
    acknowledged = refused = seconds = 0.0
    with running_api([saved], model_threads=1) as api:
        for number in range(options.pairs):
            pair = {}
            for how in ("alone", "with events")[:: 1 if number % 2 else -1]:
                first = number * 1_000_000
                if how == "alone":
                    pair[how] = percentiles(_keystrokes(api, path, options.keys))
                    continue
                with sending(api, reference, options.per_second, first) as sent:
                    pair[how] = percentiles(_keystrokes(api, path, options.keys))
                acknowledged, refused, seconds = acknowledged + sent[0], refused + sent[1], seconds + sent[2]
            pairs.append(pair)
        counted = _counted(api, saved.card.name)
    ratios = {
        p: sorted(pair["with events"][p] / pair["alone"][p] for pair in pairs) for p in pairs[0]["alone"]
    }
    rows = [
        [how, *(f"{median(pair[how][p] for pair in pairs):.2f} ms" for p in ratios)]
        for how in ("alone", "with events")
    ]
    spread = [f"{median(r):.3f} ({r[0]:.3f} to {r[-1]:.3f})" for r in ratios.values()]
    print_table(
        [f"{options.network}, {options.pairs} pairs", "p50", "p99"], [*rows, ["ratio of pairs", *spread]]
    )
    rate = acknowledged / seconds if seconds else 0.0
    print(f"{rate:,.0f} events per second acknowledged, {refused:.0f} refused; counted: {counted:,}")
    print_json_line(
        "events",
        network=options.network,
        pairs=pairs,
        per_second=rate,
        acknowledged=acknowledged,
        refused=refused,
        counted=counted,
        load_average=os.getloadavg()[0],
    )


def _keystrokes(api: Api, path: str, keys: int) -> list[float]:
    """Type into one document; return the seconds of each completion."""
    keystroke = over_http(api, path)
    rng = random.Random(1)
    document = "".join(rng.choices(CHARACTERS, k=_DOCUMENT_CHARACTERS))
    times = []
    for n in range(_WARM_UP + keys):
        document += rng.choice(CHARACTERS)
        complete = keystroke(document)
        began = time.perf_counter()
        complete()
        if n >= _WARM_UP:
            times.append(time.perf_counter() - began)
    return times


def _counted(api: Api, name: str) -> int:
    """Return how many of the sent outcomes are counted."""
    url = f"http://127.0.0.1:{api.port}/v1/models/{name}/acceptance"
    total = httpx.get(url, timeout=60).raise_for_status().json()["total"]
    return sum(total[kind] for kind in _KINDS)


if __name__ == "__main__":
    main()
