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
from nextchar.launcher import batch
from nextchar.local import Model, prepare_kernels, read_model
from nextchar.models.anomaly.line_scores import StreamOptions
from nextchar.models.kernels.compile_cache import SERVING, compile_in_child_process
from nextchar.store.input_files import find_files

_WORDS = ("accepted", "closed", "connection", "daemon", "failed", "from", "port", "root", "session", "user")


def main() -> None:
    """Measure every number of workers and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--engines", nargs="+", choices=("ray", "local"), default=["ray"])
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
        part_bytes = int(options.part_megabytes * 1e6)
        with Model(saved, threads=1) as model:
            model.save(Path(folder) / "model")
            alone = _alone(model, str(log), Path(folder) / "alone", part_bytes)
        found: dict[str, Any] = {"one process": {"lines_per_s": alone, "start_s": 0.0, "efficiency": 1.0}}
        for engine in options.engines:
            for actors in options.actors:
                name = f"{engine}, {actors} workers"
                found[name] = _measure(engine, actors, Path(folder), part_bytes)
                found[name]["efficiency"] = found[name]["lines_per_s"] / alone / actors
        size = log.stat().st_size
    rows = [
        [name, f"{f['lines_per_s']:,.0f}", f"{f['efficiency']:.2f}", f"{f['start_s']:.1f}"]
        for name, f in found.items()
    ]
    print_table(("", "lines/s", "efficiency", "start, s"), rows)
    print_json_line("batch", network=saved.card.name, bytes=size, runs=found)


def _alone(model: Model, log: str, output: Path, part_bytes: int) -> float:
    """Return the lines per second of one process; its first part, which warms up, does not count."""
    scoring: dict[str, Any] = {"query": StreamOptions(), "calibration": None, "request": None}
    how: dict[str, Any] = {"engine": "local", "actors": 1, "threads": 1, "address": None}
    work = batch.Work(model, output.as_uri(), **scoring, format="jsonl", is_json=False, **how)
    (file,) = find_files([log])
    first, *parts = [batch.Part(file, at, at + part_bytes) for at in range(0, file.bytes, part_bytes)]
    work.process(first)
    started = time.perf_counter()
    results = [*map(work.process, parts), work.process(batch.Scored((first, *parts)))]
    assert not any(result.error for result in results), results
    share = len(parts) / (1 + len(parts))
    return results[-1].counts["lines"] * share / (time.perf_counter() - started)


def _measure(engine: str, actors: int, folder: Path, part_bytes: int) -> dict[str, float]:
    """Return the rate after as many parts as there are workers, and the seconds until then."""
    started = begun = time.perf_counter()
    lines = 0
    parts, _, _, results = batch.begin(
        [str(folder / "log")],
        str(folder / "model"),
        str(folder / f"{engine}-{actors}"),
        query={},
        part_bytes=part_bytes,
        format="jsonl",
        is_json=False,
        engine=engine,
        actors=actors,
        threads=1,
        address=None,
    )
    with closing(results):
        for number, result in enumerate(results, 1):
            assert not result.error, result
            begun = time.perf_counter() if number <= actors else begun
            lines += result.counts["lines"]
    rate = lines * (1 - actors / parts) / (time.perf_counter() - begun)
    return {"lines_per_s": rate, "start_s": begun - started}


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
