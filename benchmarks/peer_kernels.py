"""Which kernels a peer's libraries use, by the verbose output of oneDNN, in a short run of its own.

oneDNN prints lines of comma-separated fields: information about itself, and for each primitive that it
executes the kind, the implementation and the milliseconds
(https://uxlfoundation.github.io/oneDNN/dev_guide_verbose.html).
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import describe_kill
from benchmarks.machine import ROOT

_TIMEOUT_S = 300.0
_RUN = """
import importlib, json, sys
peer = importlib.import_module(f"benchmarks.peers.{sys.argv[1]}")
peer.prepare(**json.loads(sys.argv[2]))
print("\\n" + json.dumps({"versions": peer.versions(**json.loads(sys.argv[2]))}))
"""


@dataclass(frozen=True)
class OneDnn:
    """What a process said that oneDNN did."""

    version: str
    isa: str
    """The instructions that it may use, such as Intel AVX2."""
    main_primitive: str
    """The kind and implementation that took most time, such as `rnn brgemm:avx512_core_amx`; no reorder."""
    share: float
    """Of the time in primitives."""

    def __str__(self) -> str:
        said = f"oneDNN {self.version}, {self.isa}"
        return f"{said}, mostly {self.main_primitive} ({self.share:.0%})" if self.main_primitive else said


def parse(lines: Iterable[str]) -> OneDnn | None:
    """Return what ONEDNN_VERBOSE=1 printed; None if it printed nothing."""
    version = isa = ""
    took_ms: dict[str, float] = defaultdict(float)
    for line in lines:
        fields = line.strip().split(",")
        if fields[0] != "onednn_verbose" or "graph" in fields[:4]:  # whose primitives have their own lines
            continue
        if found := re.search(r",info,oneDNN v([\w.]+)", line):
            version = found[1]
        elif found := re.search(r",info,cpu,isa:(.+)", line):
            isa = found[1].strip()
        elif "exec" in fields[:4]:  # after it: engine, primitive, implementation, …, milliseconds
            place = fields.index("exec")
            took_ms[" ".join(fields[place + 2 : place + 4]).strip()] += _number(fields[-1])
    if not isa:
        return None
    computing = [name for name in took_ms if not name.startswith("reorder")] or list(took_ms)
    main = max(computing, key=lambda name: took_ms[name], default="")
    return OneDnn(version, isa, main, took_ms[main] / (sum(took_ms.values()) or 1.0) if main else 0.0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def peer_kernels(module: str, options: Mapping[str, Any], limits: Mapping[str, str]) -> str:
    """Prepare a module of `benchmarks.peers` in a process of its own; return what its libraries used."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **limits,
        "ONEDNN_VERBOSE": "1",
    }
    command = [sys.executable, "-c", _RUN, module, json.dumps(options)]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"not known: it took longer than {_TIMEOUT_S:.0f} s"
    if done.returncode < 0:
        return f"cannot run here: {describe_kill(done.returncode)}"
    if done.returncode:
        said = [f"its process ended with status {done.returncode}", *done.stderr.splitlines()]
        return f"cannot run here: {[line.strip() for line in said if line.strip()][-1]}"
    *lines, last = done.stdout.splitlines()
    versions = json.loads(last)["versions"]
    return f"{versions}; {parse(lines) or 'oneDNN was not used'}"
