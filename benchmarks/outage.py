"""Two API processes behind HAProxy, two workers, one Redis and an S3 server; each is killed once under load.

Clients complete prompts, a log agent sends lines and training jobs run, while one process after the other is
killed with SIGKILL and started again. At the end nothing may be lost and nothing doubled: each job has ended
as one model, each accepted line is scored once, and as many lines are flagged as `/score` flags of the same
lines. A request that fails is sent once more, RETRY_S later, as a client would. Lines are sent until they are
accepted, as log agents do.

The S3 server is moto's, from the development requirements; it is not killed, because it keeps objects in
memory. HAProxy must be installed.

    python -m benchmarks.outage [--completions 10000] [--lines 1000000] [--jobs 4]
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
from redis import Redis, RedisError

from benchmarks.report import print_json_line, print_table
from benchmarks.server import ROOT
from nextchar.launcher.processes import Output, SupervisedProcess, start_bound
from nextchar.launcher.stack import free_port
from nextchar.launcher.valkey import EmbeddedValkey

VICTIMS = ("api1", "worker1", "redis", "haproxy", "api2", "worker2")
RETRY_S = 1.0
RATE = "0.01"
BATCH_LINES = 1_000
START_S = 180.0
RECOVERY_S = 60.0
_MODEL = "/v1/models/lines"
_MULTIPLIER = 3_456_789  # has no divisor in common with 26, so it changes the order only
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_VERBS = ("opened", "closed", "read", "wrote", "moved", "copied", "found", "lost")


def line(number: int) -> str:
    """Return a line with a name of its own among 26**5; each five-hundredth is of another kind."""
    mixed = number * _MULTIPLIER % 26**5
    name = "".join(_LETTERS[mixed // 26**i % 26] for i in range(5))
    if number % 500 == 499:
        return f"PANIC {name} → 0x{number:06X}"
    return f"{_VERBS[number % len(_VERBS)]} {name}"


class Installation:
    """All processes, restarted when they end, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.urls = {
            name: f"http://127.0.0.1:{free_port('127.0.0.1')}" for name in ("api1", "api2", "haproxy", "s3")
        }
        self.url = self.urls["haproxy"]
        self.processes: dict[str, SupervisedProcess] = {}
        self._valkey = EmbeddedValkey(folder)
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._supervise)

    def __enter__(self) -> Self:
        self._valkey.open()
        self._thread.start()
        self._started.wait()
        if not self._thread.is_alive():
            raise RuntimeError("a process could not be started")
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._valkey.close()

    def kill(self, name: str) -> float:
        """Kill a process; return the seconds until one in its place works."""
        before = self.processes[name].pid
        os.kill(before, signal.SIGKILL)
        began = time.monotonic()
        wait_for(
            lambda: self.processes[name].pid != before and self.works(name), RECOVERY_S, f"{name} works again"
        )
        return time.monotonic() - began

    def works(self, name: str) -> bool:
        """Whether a process does its work; a worker does once both have reported."""
        if name == "redis":
            with contextlib.suppress(RedisError), Redis.from_url(self._valkey.url) as redis:
                return bool(redis.ping())
            return False
        with contextlib.suppress(httpx.HTTPError):
            if name == "s3":
                return httpx.get(f"{self.urls['s3']}/moto-api/data.json").status_code == 200
            if name.startswith("worker"):
                return self.live_workers() == 2
            return httpx.get(f"{self.urls[name]}/readyz", timeout=10).status_code == 200
        return False

    def live_workers(self) -> int:
        """Return how many workers an API process knows."""
        metrics = httpx.get(f"{self.urls['api1']}/metrics", timeout=10).text
        [workers] = [line for line in metrics.splitlines() if line.startswith("nextchar_workers ")]
        return int(float(workers.split()[1]))

    def _supervise(self) -> None:
        try:
            self._start()
            self._started.set()
            while not self._stopping.wait(0.05):
                for process in self.processes.values():
                    process.keep_running()
        finally:
            self._started.set()
            for process in reversed(self.processes.values()):
                process.stop(20)
                process.close()

    def _start(self) -> None:
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
        port = self.urls["s3"].rpartition(":")[2]
        self._run("s3", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port], keys)
        wait_for(lambda: self.works("s3"), START_S, "the S3 server answers")
        httpx.put(f"{self.urls['s3']}/bucket").raise_for_status()
        self.processes["redis"] = SupervisedProcess("redis", self._valkey.launch, self._valkey.log, Output())
        self.processes["redis"].keep_running()
        self._valkey.wait_until_ready()
        for name, module in (("api1", "app"), ("api2", "app"), ("worker1", "worker"), ("worker2", "worker")):
            scratch = self.folder / name  # as on hosts of their own
            variables = keys | {
                "AWS_ENDPOINT_URL": self.urls["s3"],
                "AWS_ALLOW_HTTP": "true",
                "NEXTCHAR_STORE_URL": "s3://bucket/nextchar",
                "NEXTCHAR_REDIS_URL": self._valkey.url,
                "NEXTCHAR_DATA_DIR": str(scratch),
                "NEXTCHAR_CHECKPOINT_SECONDS": "2",
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            }
            if module == "app":
                variables["NEXTCHAR_PORT"] = self.urls[name].rpartition(":")[2]
            self._run(name, [sys.executable, "-m", f"{module}.main"], variables)
        addresses = {name: self.urls[name].removeprefix("http://") for name in ("api1", "api2", "haproxy")}
        program = shutil.which("haproxy")
        if program is None:
            raise RuntimeError("haproxy is not installed")
        variables = {
            "NEXTCHAR_API_1": addresses["api1"],
            "NEXTCHAR_API_2": addresses["api2"],
            "NEXTCHAR_BIND": addresses["haproxy"],
            "NEXTCHAR_HAPROXY_SOCKET": str(self.folder / "haproxy.sock"),
        }
        self._run("haproxy", [program, "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")], variables)

    def _run(self, name: str, command: list[str], variables: dict[str, str]) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NEXTCHAR_", "AWS_"))}
        log = self.folder / "logs" / f"{name}.log"
        start = partial(start_bound, command, log=log, environment=inherited | variables)
        self.processes[name] = SupervisedProcess(name, start, log, Output())
        self.processes[name].keep_running()


@dataclass
class Traffic:
    """What clients have sent, and which requests failed at the first and at the second try."""

    url: str
    completions: int
    lines: int
    stopping: threading.Event = field(default_factory=threading.Event)
    completed: list[float] = field(default_factory=list)  # seconds of requests
    accepted: int = 0
    first_failures: list[str] = field(default_factory=list)
    second_failures: list[str] = field(default_factory=list)
    repeated_batches: int = 0

    @property
    def share(self) -> float:
        """The part of the requests that has been answered."""
        return min(len(self.completed) / max(1, self.completions), self.accepted / max(1, self.lines))

    def send(self, http: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request, and once more if it fails. Raises RuntimeError if both fail."""
        for failures in (self.first_failures, self.second_failures):
            try:
                answer = http.request(method, path, **options)
                while answer.status_code == 429:  # the service asks for a pause
                    time.sleep(float(answer.headers.get("Retry-After", "1")))
                    answer = http.request(method, path, **options)
                if answer.is_success:
                    return answer
                failures.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            except httpx.TransportError as error:
                failures.append(f"{method} {path}: {error!r}")
            time.sleep(RETRY_S)
        raise RuntimeError(self.second_failures[-1])

    def type(self, document: int, count: int) -> None:
        """Complete a growing document `count` times."""
        headers, text = {"X-Document": f"document {document}"}, ""
        with httpx.Client(base_url=self.url, timeout=60) as http:
            for number in range(count):
                text = (text + line(document * count + number) + "\n")[-400:]
                began = time.perf_counter()
                body = {"prompt": text[: -1 - number % 8], "max_characters": 8}
                self.send(http, "POST", f"{_MODEL}/complete", json=body, headers=headers)
                self.completed.append(time.perf_counter() - began)

    def ingest(self) -> None:
        """Send all lines in batches, each under an idempotency key."""
        with httpx.Client(base_url=self.url, timeout=60) as http:
            for first in range(0, self.lines, BATCH_LINES):
                batch = [line(number) for number in range(first, min(first + BATCH_LINES, self.lines))]
                body = "".join(json.dumps(text) + "\n" for text in batch).encode()
                while not self._is_accepted(http, body, key=f"batch {first}"):
                    self.repeated_batches += 1
                    time.sleep(RETRY_S)
                self.accepted += len(batch)

    def _is_accepted(self, http: httpx.Client, body: bytes, *, key: str) -> bool:
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key}
        params = {"false_alarms": RATE}
        try:
            answer = http.post(f"{_MODEL}/ingest", content=body, headers=headers, params=params)
        except httpx.TransportError:
            return False
        if answer.status_code not in (202, 429, 502, 503):
            raise RuntimeError(answer.text)
        return answer.status_code == 202


def main() -> None:
    """Run, print, and exit with 1 if anything was lost, doubled, or failed twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--completions", type=int, default=10_000)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--job-seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Installation(Path(folder)) as installation:
        wait_for(
            lambda: installation.works("haproxy") and installation.works("worker1"), START_S, "all is ready"
        )
        found = run(installation, options)
    print_table(
        ["killed", "works again after, s", "lines accepted", "completions"],
        [
            [k["name"], f"{k['recovery_s']:.2f}", f"{k['lines']:,}", f"{k['completions']:,}"]
            for k in found["kills"]
        ],
    )
    print(
        f"{found['completions']:,} completions, p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms;"
        f" {found['lines']:,} lines in {found['lines_s']:.0f} s, {found['flagged']:,} flagged;"
        f" {found['first_failures']} requests failed at the first try,"
        f" {found['second_failures']} at the second; {found['repeated_batches']} batches of lines repeated"
    )
    print("nothing lost, nothing doubled" if not found["problems"] else "\n".join(found["problems"]))
    print_json_line("outage", **found)
    sys.exit(bool(found["problems"]))


def run(installation: Installation, options: argparse.Namespace) -> dict[str, Any]:
    """Train a model, send the traffic, kill each process once, and compare."""
    traffic = Traffic(installation.url, options.completions, options.lines)
    with httpx.Client(base_url=installation.url, timeout=600) as http:
        text = "".join(line(number) + "\n" for number in range(40_000) if number % 500 != 499)
        traffic.send(http, "POST", "/v1/corpora?name=lines", content=text.encode())
        train(traffic, http, "lines", seconds=10)
        with ThreadPoolExecutor(options.clients + options.jobs + 1) as pool:
            each = options.completions // options.clients
            typing = [pool.submit(traffic.type, client, each) for client in range(options.clients)]
            jobs = [
                pool.submit(train, traffic, http, f"job{number}", seconds=options.job_seconds)
                for number in range(options.jobs)
            ]
            began = time.monotonic()
            sending = pool.submit(traffic.ingest)
            tasks = (*typing, *jobs, sending)
            kills = list(kill_each(installation, traffic, lambda: all(task.done() for task in tasks)))
            for task in tasks:
                task.result()
        wait_for(lambda: ingested(http)["waiting"] == 0, 600, "all lines are scored", pause_s=1)
        lines_s = time.monotonic() - began
        problems = differences(http, traffic, options)
        flagged = ingested(http)["flagged"]
    milliseconds = sorted(1e3 * seconds for seconds in traffic.completed)
    return {
        "kills": kills,
        "completions": len(milliseconds),
        "p50_ms": statistics.median(milliseconds),
        "p99_ms": milliseconds[int(0.99 * len(milliseconds))],
        "lines": traffic.accepted,
        "lines_s": lines_s,
        "flagged": flagged,
        "first_failures": len(traffic.first_failures),
        "second_failures": len(traffic.second_failures),
        "repeated_batches": traffic.repeated_batches,
        "problems": problems,
    }


def kill_each(
    installation: Installation, traffic: Traffic, is_over: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Kill the victims at equal parts of the traffic; yield what was under way."""
    for place, name in enumerate(VICTIMS, 1):
        at = place / (len(VICTIMS) + 1)
        while traffic.share < at and not is_over():
            time.sleep(0.05)
        lines, completions = traffic.accepted, len(traffic.completed)
        recovery_s = installation.kill(name)
        yield {"name": name, "recovery_s": recovery_s, "lines": lines, "completions": completions}


def train(traffic: Traffic, http: httpx.Client, name: str, *, seconds: float) -> None:
    """Train a model on the lines and wait for the job's end. Raises RuntimeError unless it succeeds."""
    body = {"corpus": "lines", "name": name, "preset": "tiny", "budget": {"seconds": seconds}}
    headers = {"Idempotency-Key": f"train {name}"}
    job = traffic.send(http, "POST", "/v1/jobs", json=body, headers=headers).json()["id"]
    while (found := traffic.send(http, "GET", f"/v1/jobs/{job}").json())["status"] in ("queued", "running"):
        time.sleep(0.5)
    if found["status"] != "succeeded":
        raise RuntimeError(f"job {name} ended as {found['status']}: {found['error']}")


def ingested(http: httpx.Client) -> dict[str, Any]:
    """Return the counters of ingestion."""
    return dict(http.get(f"{_MODEL}/ingest").raise_for_status().json())


def differences(http: httpx.Client, traffic: Traffic, options: argparse.Namespace) -> list[str]:
    """Return what was lost or doubled, in words."""
    problems = [f"failed twice: {failure}" for failure in traffic.second_failures]
    found = ingested(http)
    if (found["accepted"], found["scored"], found["failed"]) != (options.lines, options.lines, 0):
        problems.append(f"of {options.lines} lines: {found}")
    expected = flagged_by_score(http, options.lines)
    if found["flagged"] != expected:
        problems.append(f"{found['flagged']} lines were flagged, and /score flags {expected}")
    for name in ("lines", *(f"job{number}" for number in range(options.jobs))):
        versions = [m["id"] for m in pages(http, "/v1/models") if m["name"] == name]
        if len(versions) != 1:
            problems.append(f"model {name} has the versions {versions}")
    jobs = [job["status"] for job in pages(http, "/v1/jobs")]
    if jobs != ["succeeded"] * (options.jobs + 1):
        problems.append(f"the jobs have ended as {jobs}")
    return problems


def flagged_by_score(http: httpx.Client, lines: int) -> int:
    """Return how many of the lines `/score` flags."""
    flagged = 0
    for first in range(0, lines, 50_000):
        text = "".join(line(number) + "\n" for number in range(first, min(first + 50_000, lines)))
        answer = http.post(
            f"{_MODEL}/score",
            content=text.encode(),
            headers={"Content-Type": "text/plain"},
            params={"false_alarms": RATE, "only": "anomalous", "detail": "none", "repeats": "flag"},
        ).raise_for_status()
        flagged += len(answer.text.splitlines()) - 2  # a head and a summary
    return flagged


def pages(http: httpx.Client, path: str) -> list[dict[str, Any]]:
    """Return all that a list has."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = http.get(path, params={"limit": "100"} | after).raise_for_status().json()
        found += page["data"]
        if not page.get("has_more"):
            return found
        after = {"after": page["data"][-1]["id"]}


def wait_for(condition: Callable[[], bool], within_s: float, what: str, *, pause_s: float = 0.02) -> None:
    """Wait until a condition holds. Raises RuntimeError if it does not within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {within_s:.0f} s: {what}")
        time.sleep(pause_s)


if __name__ == "__main__":
    main()
