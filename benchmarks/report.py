"""Output of benchmarks: a table for people, one JSON line for programs."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from models.machine import available_cores


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


def print_json_line(benchmark: str, **results: Any) -> None:
    """Print the results and the machine on one line."""
    print(json.dumps({"benchmark": benchmark, "machine": machine()} | results), flush=True)


def machine() -> Mapping[str, Any]:
    """Return the properties of this machine that affect speed."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": available_cores(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
