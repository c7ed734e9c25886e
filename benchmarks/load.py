"""Many clients for minutes, during a training job: errors, latencies, deadlines and memory.

Each client has a connection of its own and sends one request after the other, without pauses: it types into
a document and completes it, plainly or streamed, asks for likely next characters, or scores lines. A worker
trains on the same processors. Statuses except 200 and 429 are failures; after a 429 a client waits as long
as its `Retry-After` says. With --timeout-ms all requests are long completions that end by a deadline, of half
to one and a half of that; how late they are is measured at the client.

Fails if a request failed, or if in a run of a minute or more the memory of the API grew by more than 5 %
after the first fifth.

    python -m benchmarks.load [--clients 256] [--seconds 600] [--network 1x256]
    python -m benchmarks.load --clients 64 --seconds 30 --network 2x1024 --timeout-ms 300 --no-training
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks import machine
from benchmarks.networks import CHARACTERS, random_model
from benchmarks.our_kernels import our_kernels
from benchmarks.report import print_json_line, print_table
from benchmarks.server import ROOT, Api, running_api
from nextchar.launcher.processes import start_bound, stop

GROWTH = 0.05
SAMPLES = 50
"""How often memory is measured."""

KINDS = {"complete": 6, "stream": 2, "next": 1, "score": 1}
"""What clients ask for, and how often."""

MAX_DOCUMENT = 1_000

LONG = 2_000
"""Characters that a completion with a deadline asks for, more than any network writes until then."""


@dataclass
class Figures:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by kind
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)  # after the deadline


def main() -> None:
    """Run, print, and exit with 1 if something failed or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--network", default="1x256", help="layers x units (default 1x256)")
    parser.add_argument("--timeout-ms", type=int, help="only completions that end by deadlines about this")
    parser.add_argument("--no-training", action="store_true", help="without a training job")
    options = parser.parse_args()
    if folder := our_kernels({})["folder"]:
        os.environ["NUMBA_CACHE_DIR"] = folder
    layers, units = map(int, options.network.split("x"))
    saved = random_model(layers, units)
    print(machine.described(machine.machine()))
    figures, memory = Figures(), []
    with running_api([saved]) as api, _training(api, is_on=not options.no_training) as steps:
        path = f"/v1/models/{saved.card.name}"
        memory = asyncio.run(_load(api, path, options, figures))
        trained = steps()
    for seconds in figures.seconds.values():
        seconds.sort()
    rows = [
        [kind, f"{len(s):,}", *(f"{1e3 * _quantile(s, q):.1f}" for q in (0.5, 0.95, 0.99, 1.0))]
        for kind, s in sorted(figures.seconds.items())
    ]
    print_table(["request", "count", "p50 ms", "p95", "p99", "worst"], rows)
    first, last = memory[len(memory) // 5], statistics.median(memory[-len(memory) // 5 :])
    growth = last / first - 1
    print(
        "statuses:", ", ".join(f"{status}: {count:,}" for status, count in sorted(figures.statuses.items()))
    )
    series = " ".join(f"{value / 1e6:.0f}" for value in memory[:: SAMPLES // 10])
    print(f"memory of the API: {series}, {last / 1e6:.0f} MB")
    if not options.no_training:
        print(f"the training job made {trained:,} steps")
    for failure in figures.failures[:10]:
        print(failure)
    late = sorted(figures.late_s)
    if late:
        quantiles = ", ".join(f"{1e3 * _quantile(late, q):.1f}" for q in (0.5, 0.95, 0.99, 1.0))
        print(f"after the deadline, of {len(late):,}: median, p95, p99, worst {quantiles} ms")
    print_json_line(
        "load",
        **vars(options),
        statuses=figures.statuses,
        failures=len(figures.failures),
        growth=growth,
        late_ms=[1e3 * _quantile(late, q) for q in (0.5, 0.95, 0.99, 1.0)] if late else None,
        requests={row[0]: row[1:] for row in rows},
        training_steps=trained,
    )
    sys.exit(bool(figures.failures) or (options.seconds >= 60 and growth > GROWTH))


@contextlib.contextmanager
def _training(api: Api, *, is_on: bool) -> Iterator[Any]:
    """Train meanwhile; yield a function that returns the steps so far."""
    if not is_on:
        yield lambda: 0
        return
    log = Path(api.environment["NEXTCHAR_DATA_DIR"]) / "worker.log"
    command = [sys.executable, "-m", "nextchar.worker.main"]
    worker = start_bound(command, log=log, environment=dict(api.environment), directory=ROOT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=60) as http:
            text = " ".join("".join(random.choices(CHARACTERS, k=7)) for _ in range(50_000))
            corpus = http.post("/v1/corpora", params={"name": "load"}, content=text.encode())
            corpus.raise_for_status()
            # An hour: it is still running when the clients have finished.
            body = {"name": "load", "corpus": "load", "preset": "small", "budget": {"seconds": 3600}}
            job = http.post("/v1/jobs", json=body)
            path = f"/v1/jobs/{job.raise_for_status().json()['id']}"
            while _steps(http, path) == 0:
                time.sleep(0.1)
            yield lambda: _steps(http, path)
    finally:
        stop(worker, grace_s=20)


def _steps(http: httpx.Client, path: str) -> int:
    """Return the steps that a job has made. Raises RuntimeError: it has ended."""
    job = http.get(path).raise_for_status().json()
    if job["status"] not in ("queued", "running"):
        raise RuntimeError(f"the training job has ended: {job}")
    return int(job["progress"]["step"]) if job["progress"] else 0


async def _load(api: Api, path: str, options: argparse.Namespace, figures: Figures) -> list[float]:
    """Let all clients work; return the memory of the API in bytes at SAMPLES moments."""
    end = time.perf_counter() + options.seconds
    clients = [
        asyncio.create_task(_client(api.port, path, number, end, options.timeout_ms, figures))
        for number in range(options.clients)
    ]
    memory = []
    for _ in range(SAMPLES):
        await asyncio.sleep(options.seconds / SAMPLES)
        memory.append(float(api.resident_bytes()))
    await asyncio.gather(*clients)
    return memory


async def _client(
    port: int, path: str, number: int, end: float, timeout_ms: int | None, figures: Figures
) -> None:
    random_of = random.Random(number)
    document = "".join(random_of.choices(CHARACTERS, k=random_of.randint(0, 400)))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        document += random_of.choice(CHARACTERS)
        if len(document) > MAX_DOCUMENT:  # as clients do that send the end of a document
            document = document[-MAX_DOCUMENT // 2 :]
        kind, body = _request(random_of, document, timeout_ms)
        call = f"{path}/{'complete' if kind == 'stream' else kind}"
        began = time.perf_counter()
        try:
            status, headers, content = await _exchange(reader, writer, call, json.dumps(body).encode())
        except (OSError, asyncio.IncompleteReadError) as error:
            figures.failures.append(f"{call}: {error!r}")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        took_s = time.perf_counter() - began
        figures.statuses[status] += 1
        if status == 429:
            await asyncio.sleep(float(headers["retry-after"]))
        elif status != 200:
            figures.failures.append(f"{call}: {status} {content[:300].decode()}")
        else:
            figures.seconds[kind].append(took_s)
            if b'"finish_reason":"timeout"' in content:
                figures.late_s.append(took_s - body["timeout_ms"] / 1e3)
    writer.close()


def _request(random_of: random.Random, document: str, timeout_ms: int | None) -> tuple[str, dict[str, Any]]:
    """Return the kind of a client's next request, and its body."""
    if timeout_ms is not None:
        deadline_ms = random_of.randint(timeout_ms // 2, timeout_ms * 3 // 2)
        return "complete", {"prompt": document, "max_characters": LONG, "timeout_ms": deadline_ms}
    [kind] = random_of.choices(list(KINDS), list(KINDS.values()))
    if kind == "score":
        return kind, {"lines": ["".join(random_of.choices(CHARACTERS, k=60)) for _ in range(20)]}
    if kind == "next":
        return kind, {"prompt": document}
    return kind, {"prompt": document, "max_characters": 20, "stream": kind == "stream"}


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, content: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Send a body; return the status, the headers and the body of the response."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    return int(lines[0].split()[1]), headers, body


def _quantile(ordered: list[float], fraction: float) -> float:
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


if __name__ == "__main__":
    main()
