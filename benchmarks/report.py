"""Output of benchmarks: what runs and a table for people, one JSON line for programs."""

import contextlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

from benchmarks import machine, our_kernels, peer_kernels


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1, file: IO[str] | None = None
) -> None:
    """Print rows under heads; the first `words` columns are left-aligned, the others right-aligned.

    To `file`, by default standard output.
    """
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), flush=True, file=file)


def print_what_runs(
    isa: str, *, ours: Mapping[str, Any] | None, peers: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """Print the machine, its other load, and the kernels of ours and of peers; return the same.

    Args:
        isa: the value of --isa.
        ours: what `our_kernels.our_kernels` returned; None: ours does not run on the CPU.
        peers: by name the module in `benchmarks.peers`, which has `versions`, and its options.
    """
    limited = "" if isa == "auto" else f"; ours and the peers are limited to {isa}"
    print(f"{machine.described(machine.machine())}{limited}")
    busy = machine.other_cores_busy()
    print(f"other processes keep {busy:.2f} cores busy")
    if ours:
        print(*our_kernels.described(ours), sep="\n", flush=True)
    found = {}
    for name, (module, options) in peers.items():
        found[name] = peer_kernels.peer_kernels(module, options, machine.limits(isa))
        print(f"{name}: {found[name]}", flush=True)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["ONNX Runtime"] = importlib.metadata.version("onnxruntime")
        print(f"ONNX Runtime: {found['ONNX Runtime']}, which cannot be limited")
    return {"isa": isa, "other_cores_busy": busy, "ours": ours, "peers": found}


def print_json_line(benchmark: str, **results: Any) -> None:
    """Print the results and the machine on one line."""
    print(json.dumps({"benchmark": benchmark, "machine": machine.machine()} | results), flush=True)
