"""Events of suggestions next to completions: does the service take them without slowing keystrokes down?

A client types into the API, which completes 20 characters after each key, while another process sends so
many events per second, in batches, to no service, to this one, or to a second one on the same machine, which
shows what the load on the processors costs by itself. They are measured in turn, in an order that rotates;
each round gives ratios of the percentiles to those of typing alone. Prints one table and one JSON line.

    python -m benchmarks.events [--network 2x256] [--rounds 10] [--keys 2000] [--per-second 2000]
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
_ALONE, _SAME, _OTHER = _HOW = ("alone", "with events", "with events elsewhere")


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
def sending(api: Api | None, model: str, per_second: float, first: int) -> Iterator[Any]:
    """Send events to a service, if any, from another process during the block; yield what was sent."""
    context = multiprocessing.get_context("spawn")
    stop, sent = context.Event(), context.Array("d", 3)
    if api is None:
        yield sent
        return
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
    """Measure the rounds and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="2x256", help="layers x units")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keys", type=int, default=2000, help="per measurement")
    parser.add_argument("--per-second", type=float, default=2000.0, help="events")
    options = parser.parse_args(arguments)
    saved = random_model(*map(int, options.network.split("x")))
    path, reference = f"/v1/models/{saved.card.name}/complete", f"{saved.card.name}@1"
    rounds: list[dict[str, dict[str, float]]] = []
    sent_in_all = [0.0, 0.0, 0.0]  # acknowledged, refused, seconds
    with running_api([saved], model_threads=1) as api, running_api([saved], model_threads=1) as other:
        for number in range(options.rounds):
            one, first = {}, number * 1_000_000
            for how in _HOW[number % 3 :] + _HOW[: number % 3]:
                receiver = {_SAME: api, _OTHER: other}.get(how)
                with sending(receiver, reference, options.per_second, first) as sent:
                    one[how] = percentiles(_keystrokes(api, path, options.keys))
                if how == _SAME:
                    sent_in_all = [before + now for before, now in zip(sent_in_all, sent, strict=True)]
            rounds.append(one)
        counted = _counted(api, saved.card.name)
    acknowledged, refused, seconds = sent_in_all
    rows = []
    for how in _HOW:
        cells = [how]
        for p in rounds[0][how]:
            ratios = sorted(one[how][p] / one[_ALONE][p] for one in rounds)
            spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            cells += [f"{median(one[how][p] for one in rounds):.2f} ms", "" if how == _ALONE else spread]
        rows.append(cells)
    print_table([f"{options.network}, {options.rounds} rounds", "p50", "ratio", "p99", "ratio"], rows)
    rate = acknowledged / seconds if seconds else 0.0
    print(f"{rate:,.0f} events per second acknowledged, {refused:.0f} refused; counted: {counted:,}")
    print_json_line(
        "events",
        network=options.network,
        rounds=rounds,
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
