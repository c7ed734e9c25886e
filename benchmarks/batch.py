"""Scoring of a file by `nextchar batch`: lines per second with 1, 2 and 4 workers, and with one process.

The model is a network of random weights, unless --model names a folder or one in the storage. What one
process scores is measured without workers, in this process. Of runs with workers the rate counts from as many
results on as there are workers, so starting them is not included; the time until then is in the table.
Efficiency is the rate divided by that of one process times the workers. Prints one table and one JSON line.

    python -m benchmarks.batch [--actors 1 2 4] [--engines ray local] [--megabytes 20] [--network 1x256]
"""

import argparse
import random
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.machine import described, machine
from benchmarks.networks import random_model
from benchmarks.report import print_json_line, print_table
from nextchar.app.schemas.scores import StreamQuery
from nextchar.launcher.batch.engines import run_in_processes, run_on_ray
from nextchar.launcher.batch.inputs import Part, find_files, parts_of
from nextchar.launcher.batch.part_worker import PartWorker, Work
from nextchar.launcher.batch.run_folder import RunFolder
from nextchar.local import ModelFiles, prepare_kernels, read_model
from nextchar.models.kernels.compile_cache import SERVING, compile_in_child_process

_WORDS = ("accepted", "closed", "connection", "daemon", "failed", "from", "port", "root", "session", "user")
_RUN = {"ray": run_on_ray, "local": run_in_processes}


def main() -> None:
    """Measure every number of workers and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--engines", nargs="+", choices=_RUN, default=["ray"])
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--part-megabytes", type=float, default=0.5)
    parser.add_argument("--network", default="1x256", help="layers x units")
    parser.add_argument("--model", help="a folder or store:name, instead of random weights")
    options = parser.parse_args()
    layers, units = map(int, options.network.split("x"))
    saved = read_model(options.model) if options.model else random_model(layers, units)
    prepare_kernels()
    compile_in_child_process(*SERVING)
    print(described(machine()))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.write_bytes(log_text(int(options.megabytes * 1e6)))
        parts = parts_of(find_files([str(log)]), int(options.part_megabytes * 1e6))
        model = ModelFiles.of(saved)
        alone = _alone(_work(model, folder, "alone"), parts)
        found: dict[str, Any] = {"one process": {"lines_per_s": alone, "start_s": 0.0, "efficiency": 1.0}}
        for engine in options.engines:
            for actors in options.actors:
                name = f"{engine}, {actors} workers"
                found[name] = _measure(engine, actors, _work(model, folder, name.replace(", ", "-")), parts)
                found[name]["efficiency"] = found[name]["lines_per_s"] / alone / actors
    rows = [
        [name, f"{f['lines_per_s']:,.0f}", f"{f['efficiency']:.2f}", f"{f['start_s']:.1f}"]
        for name, f in found.items()
    ]
    print_table(("", "lines/s", "efficiency", "start, s"), rows)
    print_json_line("batch", network=saved.card.name, bytes=sum(part.bytes for part in parts), runs=found)


def _work(model: ModelFiles, folder: str, name: str) -> Work:
    output = RunFolder.at(str(Path(folder) / name.replace(" ", "-")), suffix=".jsonl")
    return Work(model, output, query=StreamQuery())


def _alone(work: Work, parts: list[Part]) -> float:
    """Return the lines per second of one process; its first part, which warms up, does not count."""
    with closing(PartWorker(work)) as worker:
        worker.run(parts[0])
        started = time.perf_counter()
        results = [worker.run(part) for part in parts[1:]]
        seconds = time.perf_counter() - started
    assert not any(result.error for result in results), results
    return sum(result.counts.get("lines", 0) for result in results) / seconds  # a part may have no line


def _measure(engine: str, actors: int, work: Work, parts: list[Part]) -> dict[str, float]:
    """Return the rate after as many parts as there are workers, and the seconds until then."""
    started = begun = time.perf_counter()
    lines = 0
    for number, result in enumerate(_RUN[engine](work, parts, workers=actors), 1):
        assert result.error is None, result.error
        if number <= actors:
            begun = time.perf_counter()
        else:
            lines += result.counts.get("lines", 0)
    return {"lines_per_s": lines / (time.perf_counter() - begun), "start_s": begun - started}


def log_text(size: int) -> bytes:
    """Return about `size` bytes of lines that hardly repeat, since repeated ones are scored once."""
    draw = random.Random(1)
    lines: list[str] = []
    length = 0
    while length < size:
        words = " ".join(draw.choices(_WORDS, k=draw.randint(4, 9)))
        lines.append(f"{draw.randrange(10**6):06d} {words} {draw.randrange(65536)}\n")
        length += len(lines[-1])
    return "".join(lines).encode()


if __name__ == "__main__":
    main()
