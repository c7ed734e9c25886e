"""Checks for memory leaks: many completions with changing prompts, of all kinds, over HTTP.

Documents grow, are edited and replaced; requests are plain and streamed, seeded and not, and some clients
disconnect during the answer. Prints the memory of the API process, and one JSON line. The state cache is
small, so that it fills soon: growth after the first tenth is a leak. Fails if it exceeds 5 %.

    python -m benchmarks.soak [--requests 100000] [--clients 8]
"""

import argparse
import json
import random
import sys
import threading
import time

from benchmarks.networks import CHARACTERS, random_model
from benchmarks.server import Api, running_api

LAYERS, UNITS = 1, 64
CACHE_BYTES = 8 << 20
GROWTH = 0.05
"""The share by which memory may grow after the first tenth: allocators round up now and then."""


def main() -> None:
    """Run, print, and exit with 1 if memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    saved = random_model(LAYERS, UNITS)
    with running_api([saved], state_cache_bytes=CACHE_BYTES) as api:
        samples = soak(api, saved.card.name, requests=options.requests, clients=options.clients)
        metrics = api.metrics()
    first, last = samples[max(1, len(samples) // 10)], samples[-1]
    growth = last["resident_mb"] / first["resident_mb"] - 1
    active = sum(value for name, value in metrics.items() if name.startswith("nextchar_engine_active"))
    print(f"after the first tenth memory grew by {growth:.1%}; {active:.0f} requests still under way")
    print(json.dumps({"benchmark": "soak", "growth": growth, "samples": samples}))
    sys.exit(growth > GROWTH or active > 0)


def soak(api: Api, name: str, *, requests: int, clients: int) -> list[dict[str, float]]:
    """Send `requests` by `clients` concurrently; return memory and speed at intervals."""
    each = max(1, requests // clients)
    done = [0] * clients
    failed: list[BaseException] = []

    def work(client: int) -> None:
        try:
            _type(api, f"/v1/models/{name}/complete", client, each, done)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    began = time.perf_counter()
    samples: list[dict[str, float]] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.02)
        if sum(done) >= len(samples) * max(1, requests // 50):
            samples.append(_sample(api, sum(done), began))
            print("{requests:8.0f} requests {resident_mb:8.1f} MB {seconds:8.1f} s".format(**samples[-1]))
    samples.append(_sample(api, sum(done), began))
    if failed:
        raise failed[0]
    return samples


def _sample(api: Api, requests: int, began: float) -> dict[str, float]:
    seconds = time.perf_counter() - began
    return {"requests": requests, "resident_mb": api.resident_bytes() / 1e6, "seconds": seconds}


def _type(api: Api, path: str, client: int, count: int, done: list[int]) -> None:
    random_of = random.Random(client)
    connection = api.client()
    document = ""
    for i in range(count):
        kind = random_of.random()
        if kind < 0.05 or len(document) > 3000:
            document = "".join(random_of.choices(CHARACTERS + "äЖ", k=random_of.randint(0, 500)))
        elif kind < 0.15:
            at = random_of.randint(0, len(document))
            document = document[:at] + random_of.choice(CHARACTERS) + document[at:]
        else:
            document += random_of.choice(CHARACTERS)
        body = {
            "prompt": document,
            "max_characters": random_of.randint(1, 8),
            "n": random_of.choice([1, 1, 1, 2]),
            "seed": random_of.choice([None, i]),
            "stream": random_of.random() < 0.2,
        }
        content = json.dumps(body).encode()
        if random_of.random() < 0.01:
            connection.send("POST", path, content)
            connection.close()
            connection = api.client()
        elif body["stream"]:
            connection.stream("POST", path, content)
        else:
            connection.ask("POST", path, content)
        done[client] += 1
    connection.close()


if __name__ == "__main__":
    main()
