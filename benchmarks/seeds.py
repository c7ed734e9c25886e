"""Checks that a seed gives the same text alone and under load, and that the event loop is not blocked.

Sends requests of all kinds in sequence, then all of them in another order by concurrent clients. Prints the
differences, the delays of the event loop's timers under load, and one JSON line. Fails if a text differed.

    python -m benchmarks.seeds [--requests 1000] [--clients 64] [--precision float32] [--network 2x256]
"""

import argparse
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.networks import CHARACTERS, random_model
from benchmarks.server import Api, running_api

LATE_MS = (5, 10, 20, 50)


def main() -> None:
    """Run, print, and exit with 1 if a text differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--network", default="2x256", metavar="LAYERSxUNITS")
    options = parser.parse_args()
    layers, units = map(int, options.network.split("x"))
    bodies = [body | {"precision": options.precision} for body in varied_bodies(options.requests)]
    saved = random_model(layers, units)
    with running_api([saved]) as api:
        path = f"/v1/models/{saved.card.name}/complete"
        different, late = compare(api, path, bodies, clients=options.clients)
    for body in different[:5]:
        print("another text in the crowd:", json.dumps(body))
    print(
        f"{len(bodies)} requests by {options.clients} clients, {options.precision}: {len(different)} texts"
        f" differ from those alone; event loop timers late by more than 20 ms: {late['over_20_ms']:.0f}"
        f" of {late['timers']:.0f}"
    )
    result = {"requests": len(bodies), "clients": options.clients, "precision": options.precision}
    print(json.dumps({"benchmark": "seeds", **result, "different": len(different), "event_loop": late}))
    sys.exit(bool(different))


def varied_bodies(count: int) -> list[dict[str, Any]]:
    """Return seeded requests: short and long, with and without filters and stops."""
    typist = random.Random(1)
    return [
        {
            "prompt": "".join(typist.choices(CHARACTERS, k=typist.choice([0, 3, 80, 300, 2000]))),
            "max_characters": typist.randint(1, 40),
            "n": typist.choice([1, 1, 3]),
            "temperature": typist.choice([0, 0.7, 1.0]),
            "top_k": typist.choice([None, None, 5]),
            "top_p": typist.choice([None, None, 0.9]),
            "until": typist.choice([None, "word", "line"]),
            "seed": seed,
        }
        for seed in range(count)
    ]


def compare(
    api: Api, path: str, bodies: list[dict[str, Any]], *, clients: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the requests whose texts differ under load, and the delays of timers."""
    alone = _texts(api, path, bodies)
    order = random.Random(2).sample(range(len(bodies)), len(bodies))
    before = api.metrics()
    shares = [order[client::clients] for client in range(clients)]
    with ThreadPoolExecutor(clients) as threads:
        answers = list(threads.map(lambda share: _texts(api, path, [bodies[i] for i in share]), shares))
    after = api.metrics()
    crowd = {
        i: text
        for share, texts in zip(shares, answers, strict=True)
        for i, text in zip(share, texts, strict=True)
    }
    different = [body for i, body in enumerate(bodies) if crowd[i] != alone[i]]
    return different, late_timers({name: after[name] - before.get(name, 0) for name in after})


def late_timers(metrics: dict[str, float]) -> dict[str, float]:
    """Return the number of timers of the event loop, and of those delayed by more than each bound."""
    name = "nextchar_event_loop_lag_seconds"
    total = metrics[f"{name}_count"]
    late = {f"over_{ms}_ms": total - metrics[f'{name}_bucket{{le="{ms / 1000:g}"}}'] for ms in LATE_MS}
    return {"timers": total, **late}


def _texts(api: Api, path: str, bodies: list[dict[str, Any]]) -> list[list[str]]:
    with api.client() as client:
        answers = [client.post(path, body) for body in bodies]
    return [[one["text"] for one in answer["completions"]] for answer in answers]


if __name__ == "__main__":
    main()
