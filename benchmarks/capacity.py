"""What a deployment needs for a rate of completions, and for an amount of logs per day.

Measures the CPU time of each part on this machine: of the API's event loop for a request, of the scheduler
for turns of 1 to 64 sequences, of HAProxy and of Redis for a request, and of the API and of Redis for an
ingested character. From these a simulation predicts what this machine does with 1, 8 and 64 clients; the same
is measured, and the ratio printed. Then it prints what larger deployments need: processes of one core, of
which clients and proxies take nothing.

    python -m benchmarks.capacity [--network 1x512] [--p99-ms 20] [--requests 2000]
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.concurrent_clients import run_clients
from benchmarks.machine import described, machine, other_cores_busy
from benchmarks.networks import CHARACTERS, COMPLETED, random_model
from benchmarks.report import print_json_line, print_table
from benchmarks.server import ROOT, Api, Client, running_api
from benchmarks.serving_simulation import Costs, closed_loop, highest_rate
from nextchar.launcher.stack import free_port
from nextchar.models.machine import available_cores
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.requests import CompletionRequest, Event, Failed, Usage
from nextchar.models.saved_model import SavedModel

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CLIENTS = (1, 8, 64)
RATES = (10, 1_000, 100_000)
DAY_S = 86_400
TERABYTE = 1e12
PROMPT = 100
LINE = 100  # characters of a line of a log
CORES = 1  # of a process: Python runs one thread at a time
UTILIZATION = 0.7
"""The share of one core that HAProxy and Redis may be planned with."""


def main() -> None:
    """Measure, check the simulation, and print what deployments need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="1x512", metavar="LAYERSxUNITS")
    parser.add_argument("--p99-ms", type=float, default=20)
    parser.add_argument("--requests", type=int, default=2_000, help="of each measurement")
    parser.add_argument("--lines", type=int, default=20_000, help="ingested")
    options = parser.parse_args()
    saved = random_model(*map(int, options.network.split("x")))
    print(f"{described(machine())}; other processes keep {other_cores_busy():.2f} cores busy")
    figures = measured(saved, options)
    costs = Costs(figures["http_s"], figures["client_s"], tuple(figures["turns"]))
    checked = check(costs, figures["clients"])
    needs = completions(costs, figures, p99_s=options.p99_ms / 1e3)
    logs = logs_of_a_day(figures)
    print_json_line("capacity", figures=figures, checked=checked, needs=needs, logs=logs)


def measured(saved: SavedModel, options: argparse.Namespace) -> dict[str, Any]:
    """Return the CPU seconds of each part, and what clients get."""
    figures: dict[str, Any] = {"turns": [(size, turn_s(saved, size)) for size in BATCHES]}
    path = f"/v1/models/{saved.card.name}/complete"
    with tempfile.TemporaryDirectory() as folder, running_api([saved]) as api:
        with api.client() as client:  # waits until the kernels are compiled
            client.post(path, {"prompt": "a", "max_characters": 1, "precision": "int8"})
        figures["clients"] = []
        for clients in CLIENTS:
            each = max(2, options.requests // clients)
            event_loop, own = thread_cpu_s(api.pid), time.thread_time()
            took_s, times, errors = run_clients(api.port, path, clients, each=each, characters=PROMPT)
            if errors:
                raise RuntimeError(f"{errors} of {len(times)} requests failed")
            times.sort()
            figures["clients"].append(
                {
                    "clients": clients,
                    "per_second": len(times) / took_s,
                    "p50_ms": 1e3 * times[len(times) // 2],
                    "p99_ms": 1e3 * times[int(len(times) * 0.99)],
                }
            )
            sent = len(times) + clients
            if clients == max(CLIENTS):  # without pauses, so that both threads always work
                figures["http_s"] = (thread_cpu_s(api.pid) - event_loop) / sent
                figures["client_s"] = (time.thread_time() - own) / sent
        if shutil.which("haproxy"):
            figures["haproxy_s"] = haproxy_s(api, Path(folder), requests=options.requests)
        figures |= ingestion_s(api, saved, lines=options.lines)
    return figures


def turn_s(saved: SavedModel, sequences: int) -> float:
    """Return the seconds of one step of the scheduler with this many sequences, in process."""
    engine = Engine(saved)
    took = []
    for attempt in range(12):
        over = threading.Semaphore(0)

        def on_event(event: Event, over: threading.Semaphore = over) -> None:
            if isinstance(event, Usage | Failed):
                over.release()

        prompts = [CHARACTERS[i % len(CHARACTERS)] + CHARACTERS[attempt] for i in range(sequences)]
        began = time.perf_counter()
        for prompt in prompts:
            engine.complete(
                CompletionRequest(prompt=prompt, max_characters=COMPLETED * 4, precision="int8"), on_event
            )
        for _ in prompts:
            over.acquire()
        took.append((time.perf_counter() - began) / (COMPLETED * 4))
    engine.close()
    return sorted(took)[len(took) // 2]


def haproxy_s(api: Api, folder: Path, *, requests: int) -> float:
    """Return the CPU seconds of HAProxy for one small request."""
    port = free_port("127.0.0.1")
    variables = {f"NEXTCHAR_API_{i}": f"127.0.0.1:{api.port}" for i in (1, 2)}
    variables |= {"NEXTCHAR_BIND": f"127.0.0.1:{port}", "NEXTCHAR_HAPROXY_SOCKET": str(folder / "socket")}
    command = [shutil.which("haproxy") or "", "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Client(port)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError, RuntimeError):
                client.get("/healthz")
                break
            if time.monotonic() > deadline:
                raise RuntimeError("HAProxy does not answer")
            client.close()
            client = Client(port)
            time.sleep(0.05)
        before = process_cpu_s(process.pid)
        for _ in range(requests):
            client.get("/healthz")
        return (process_cpu_s(process.pid) - before) / requests
    finally:
        process.kill()
        process.wait()


def ingestion_s(api: Api, saved: SavedModel, *, lines: int) -> dict[str, float]:
    """Return the CPU seconds of the API for one ingested character."""
    model = f"/v1/models/{saved.card.name}"
    with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=120) as http:
        normal = {"lines": [line(number) for number in range(500)]}
        http.post(f"{model}/calibrate", json=normal).raise_for_status()
        before, began = process_cpu_s(api.pid), time.perf_counter()
        for first in range(500, 500 + lines, 1_000):
            body = "".join(json.dumps(line(n)) + "\n" for n in range(first, first + 1_000))
            headers = {"Content-Type": "application/x-ndjson"}
            http.post(f"{model}/ingest", content=body.encode(), headers=headers).raise_for_status()
        while http.get(f"{model}/ingest").raise_for_status().json()["waiting"]:
            time.sleep(0.2)
        took_s = time.perf_counter() - began
    return {
        "ingest_s_per_character": (process_cpu_s(api.pid) - before) / (lines * LINE),
        "ingest_characters_per_second": lines * LINE / took_s,
    }


def line(number: int) -> str:
    """Return a line of LINE characters that no other is like."""
    random_of = random.Random(number)
    return "".join(random_of.choices(CHARACTERS[:60], k=LINE))


def thread_cpu_s(pid: int) -> float:
    """Return the CPU seconds that the first thread of a process has used: the event loop's. Linux only."""
    return _cpu_s(Path(f"/proc/{pid}/task/{pid}/stat"))


def process_cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used. Linux only."""
    return _cpu_s(Path(f"/proc/{pid}/stat"))


def _cpu_s(stat: Path) -> float:
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def check(costs: Costs, clients: list[dict[str, float]]) -> list[dict[str, float]]:
    """Compare what clients on this machine got with the simulation, and print it."""
    found, rows = [], []
    for row in clients:
        simulated = closed_loop(
            costs, clients=int(row["clients"]), requests=4_000, characters=COMPLETED, cores=available_cores()
        )
        p50_ms = 1e3 * simulated.percentile(50)
        ratio = simulated.per_second / row["per_second"]
        found.append(
            {**row, "simulated_per_second": simulated.per_second, "ratio": ratio, "simulated_p50_ms": p50_ms}
        )
        rows.append(
            [
                f"{row['clients']:.0f}",
                f"{row['per_second']:,.0f}",
                f"{simulated.per_second:,.0f}",
                f"{ratio:.2f}",
                f"{row['p50_ms']:.2f}",
                f"{p50_ms:.2f}",
                f"{row['p99_ms']:.2f}",
            ]
        )
    print()
    print_table(["clients", "completions/s", "simulated", "ratio", "p50 ms", "simulated", "p99 ms"], rows)
    return found


def completions(costs: Costs, figures: dict[str, Any], *, p99_s: float) -> list[dict[str, float]]:
    """Print and return what so many completions per second need."""
    each, reached_s = highest_rate(costs, p99_s=p99_s, characters=COMPLETED, cores=CORES)
    print(
        f"\none process: {each:,.0f} completions of {COMPLETED} characters per second"
        f" at a p99 of {1e3 * reached_s:.1f} ms; {1e6 * figures['http_s']:.0f} µs of its event loop for each"
    )
    found, rows = [], []
    for rate in RATES:
        need = {"per_second": float(rate), "processes": float(math.ceil(rate / each))}
        need["cores"] = need["processes"] * CORES
        if "haproxy_s" in figures:
            need["haproxy_cores"] = rate * figures["haproxy_s"] / UTILIZATION
        found.append(need)
        haproxy = f"{need['haproxy_cores']:.1f}" if "haproxy_s" in figures else "not measured"
        rows.append([f"{rate:,}", f"{need['processes']:,.0f}", f"{need['cores']:,.0f}", haproxy])
    print_table(["completions/s", "API processes", "cores", "cores of HAProxy"], rows)
    return found


def logs_of_a_day(figures: dict[str, Any]) -> dict[str, float]:
    """Print and return what a terabyte of logs per day needs."""
    per_second = TERABYTE / DAY_S
    cores = per_second * figures["ingest_s_per_character"] / UTILIZATION
    print(
        f"\n1 TB of logs per day: {per_second / 1e6:.1f} MB/s; one process scores"
        f" {figures['ingest_characters_per_second']:,.0f} characters/s here"
        f" ({1e6 * figures['ingest_s_per_character']:.1f} µs of CPU each): {cores:,.0f} cores"
    )
    return {"characters_per_second": per_second, "cores": cores}


if __name__ == "__main__":
    main()
