"""A large corpus: rate, CPU time and peak memory of its upload, and of the start of a job that trains on it.

The whole service is started. A corpus is made and sent piece by piece, so this process does not hold it
either. Then a small network is trained on it until its first steps are reported. The upload is timed until
the answer has the statistics; the start of the job from its submission on, which includes the import of
TensorFlow and the first evaluation. Memory is the peak resident memory of the API and of the worker's
processes (VmHWM), which includes pages of files that are mapped; the part that is not in files is sampled
every half second, as is the CPU time of these processes.

    python -m benchmarks.corpus [--gigabytes 1] [--kind text|records|log] [--deduplicate]
        [--cache-gigabytes 16] [--folder FOLDER]
"""

import argparse
import contextlib
import itertools
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import print_json_line, print_table
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack

_MODEL = "large-corpus"
_GB = 10**9
_MIB = 1 << 20
_BLOCKS = 8  # different ones, of about _BLOCK_WORDS words each
_BLOCK_WORDS = 200_000
_WORDS = 20_000
_SAMPLE_S = 0.5
_TIMEOUT_S = 6 * 3600
_LETTERS = "etaoinshrdlucmfwypvbgkjqxzé"
_LINES = {"text": (" ", 10), "records": (".", 2)}  # what is between words, and words per line
_LOG_LINE = (
    "2026-11-{:02}T{:02}:{:02}:{:02}Z host{} sshd[{}]: Failed password for invalid user u{} from {}.{}.{}.{}"
    " port {} ssh2\n"
)
_LOG_LINES = 30_000  # per block
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Upload a corpus, start a job on it and print what was measured."""
    options = _arguments()
    size = round(options.gigabytes * _GB)
    environment = {
        "NEXTCHAR_MAX_CORPUS_BYTES": str(2 * size),
        "NEXTCHAR_CORPUS_CACHE_BYTES": str(round(options.cache_gigabytes * _GB)),
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        settings = LauncherSettings(data_dir=Path(folder) / "data", port=0)
        with Stack(settings, environment=environment) as stack:
            found = measure(stack, size, options.kind, deduplicate=options.deduplicate)
    _print(found)


def blocks_of(kind: str) -> list[bytes]:
    """Return made texts of some megabytes: lines of words, the frequent ones often."""
    random = np.random.default_rng(0)
    if kind == "log":
        return [_log_lines(random) for _ in range(_BLOCKS)]
    separator, words_per_line = _LINES[kind]
    lengths = random.integers(2, 10, _WORDS)
    letters = random.choice(list(_LETTERS), lengths.sum(), p=_zipf(len(_LETTERS)))
    words = ["".join(part) for part in np.split(letters, np.cumsum(lengths)[:-1])]
    blocks = []
    for _ in range(_BLOCKS):
        drawn = random.choice(_WORDS, (_BLOCK_WORDS // words_per_line, words_per_line), p=_zipf(_WORDS))
        lines = (separator.join([words[i] for i in line]) for line in drawn.tolist())
        blocks.append("\n".join(lines).encode() + b"\n")
    return blocks


def text_of(blocks: list[bytes], size: int) -> Iterator[bytes]:
    """Yield a text of `size` bytes, in pieces that are all different."""
    left = size
    for number, block in enumerate(itertools.cycle(blocks)):
        piece = f"block {number}\n".encode() + block
        if left <= len(piece):
            yield piece[:left].decode("utf-8", "ignore").encode().ljust(left, b"\n")
            return
        yield piece
        left -= len(piece)


def _log_lines(random: np.random.Generator) -> bytes:
    """Return lines of a server's log; the default masks of a job replace four values in each."""
    highs = (28, 24, 60, 60, 9, 10**5, 500, 256, 256, 256, 256, 65536)
    values = random.integers(0, highs, (_LOG_LINES, len(highs)))
    return "".join(_LOG_LINE.format(*line) for line in values.tolist()).encode()


def _zipf(count: int) -> NDArray[np.float64]:
    shares = 1 / np.arange(1, count + 1)
    return shares / shares.sum()


def measure(stack: Stack, size: int, kind: str, *, deduplicate: bool = False) -> dict[str, Any]:
    """Upload a made corpus and start a job on it; return what was measured. Raises HTTPStatusError."""
    with httpx.Client(base_url=stack.url, timeout=_TIMEOUT_S) as http:
        blocks = blocks_of(kind)
        with Use(lambda: [stack.api_pid]) as api:
            began = time.monotonic()
            params = {"name": _MODEL, "kind": kind} | ({"deduplicate": "lines"} if deduplicate else {})
            answer = http.post("/v1/corpora", params=params, content=text_of(blocks, size)).raise_for_status()
            upload_s = time.monotonic() - began
        corpus = answer.json()
        assert deduplicate or corpus["bytes"] == size
        body = {"corpus": corpus["id"], "name": _MODEL, "preset": "tiny", "budget": {"steps": 10**6}}
        with Use(lambda: descendants(stack.worker_pid)) as worker:
            began = time.monotonic()
            job = http.post("/v1/jobs", json=body).raise_for_status().json()
            start_s = _first_step_s(http, job["id"], began)
        http.post(f"/v1/jobs/{job['id']}/cancel", json={}).raise_for_status()
    return {
        "kind": kind,
        "bytes": size,
        "upload": {"seconds": upload_s, "bytes_per_second": round(size / upload_s)} | api.summary(),
        "job_start": {"seconds": start_s, "bytes_per_second": round(size / start_s)} | worker.summary(),
    }


class Use:
    """Watches memory and CPU time of processes while it is entered.

    `peak_bytes` is the largest peak of one of them, `anonymous_bytes` the most seen of what is not in files.
    """

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak_bytes = self.anonymous_bytes = 0
        self._cpu_s: dict[int, float] = {}  # by process, the last seen
        self._cpu_s_before: dict[int, float] = {}

    def __enter__(self) -> Self:
        self.sample()
        self._cpu_s_before = dict(self._cpu_s)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.sample()

    @property
    def cpu_s(self) -> float:
        """The CPU time of all processes since it was entered, in seconds."""
        return sum(self._cpu_s.values()) - sum(self._cpu_s_before.values())

    def summary(self) -> dict[str, float]:
        """Return the figures, by name."""
        return {
            "cpu_seconds": round(self.cpu_s, 1),
            "peak_bytes": self.peak_bytes,
            "anonymous_bytes": self.anonymous_bytes,
        }

    def sample(self) -> None:
        """Read memory and CPU time now."""
        for pid in self._pids():
            with contextlib.suppress(OSError, TypeError):  # it has ended
                status = Path(f"/proc/{pid}/status").read_text()
                self.peak_bytes = max(self.peak_bytes, _kib(status, "VmHWM") << 10)
                self.anonymous_bytes = max(self.anonymous_bytes, _kib(status, "RssAnon") << 10)
                user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
                self._cpu_s[pid] = (int(user) + int(system)) / _TICKS_PER_S

    def _watch(self) -> None:
        while not self._stopped.wait(_SAMPLE_S):
            self.sample()


def descendants(pid: int) -> list[int]:
    """Return a process and all below it. Linux only."""
    found = [pid]
    for parent in found:  # grows
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _kib(status: str, field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1])  # type: ignore[index]


def _first_step_s(http: httpx.Client, job_id: str, began: float) -> float:
    """Return the seconds until a job has made steps. Exits if it ends before."""
    while True:
        job = http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if (job["progress"] or {}).get("step"):
            return time.monotonic() - began
        if job["status"] not in ("queued", "running"):
            sys.exit(f"the job {job['status']}: {job['error']}")
        time.sleep(0.2)


def _print(found: dict[str, Any]) -> None:
    rows = []
    for name in ("upload", "job_start"):
        row = found[name]
        memory = (f"{row[field] / _MIB:,.0f}" for field in ("peak_bytes", "anonymous_bytes"))
        rate = f"{row['bytes_per_second'] / 1e6:.0f}"
        seconds = (f"{row[field]:.1f}" for field in ("seconds", "cpu_seconds"))
        rows.append([name.replace("_", " "), *seconds, rate, *memory])
    print(f"{found['bytes'] / _GB:g} GB of {found['kind']}")
    print_table(["", "seconds", "CPU s", "MB/s", "peak MiB", "not in files, MiB"], rows)
    print_json_line("corpus", **found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-corpus",
        description="A large corpus: rate, CPU time and memory of upload and job start.",
    )
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the corpus")
    parser.add_argument("--kind", choices=["text", "records", "log"], default="text", help="what the text is")
    parser.add_argument(
        "--cache-gigabytes", type=float, default=16.0, help="NEXTCHAR_CORPUS_CACHE_BYTES, in gigabytes"
    )
    parser.add_argument("--deduplicate", action="store_true", help="remove repeated lines from the upload")
    parser.add_argument("--folder", type=Path, help="where the service keeps its data; four times the size")
    return parser.parse_args()


if __name__ == "__main__":
    main()
