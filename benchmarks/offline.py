"""Packed models without a server: size, steps in WebAssembly, cold starts, and whether texts are the same.

Networks of random weights with a mixture of a real text of about a megabyte. Steps are compared with those of
the service's kernels, in processor time; texts with those of the service for the same seeds, by the mixture
in WebAssembly and by `nextchar-run`. Needs Node.js and a C compiler. Prints one table and one JSON line.

    python -m benchmarks.offline [--networks 1x256 2x256] [--prompts 100] [--text FILE] [--models FOLDER …]

`--models` measures saved models, folders with model.json, instead of networks of random weights.
"""

import argparse
import gzip
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks import CHARACTERS, random_weights, saved_model
from benchmarks.report import print_json_line, print_table
from nextchar.local import Model, load
from nextchar.models.pack import pack
from nextchar.models.runtime import mixture
from nextchar.models.runtime.mixture_learning import learn_text
from nextchar.models.runtime.model_networks import load_networks
from nextchar.models.saved_model import SavedModel
from nextchar.models.text.vocabulary import Vocabulary

_ROOT = Path(__file__).parents[1]
_TEXT = _ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
_KNOWN = 1_000_000  # characters
_TEMPERATURES = (0.0, 0.5, 0.8, 1.0)
_STEPS, _ROUNDS = 1_000, 5


def main() -> None:
    """Measure every model and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["1x256", "2x256"])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--text", type=Path, default=_TEXT)
    parser.add_argument("--models", nargs="+", type=Path, default=[])
    options = parser.parse_args()
    text = options.text.read_text(errors="replace")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["sh", _ROOT / "clients/offline/build.sh", folder], check=True)
        if options.models:
            models = {path.name: load(path) for path in options.models}
        else:
            models = {one: Model(_random(one, text)) for one in options.networks}
        found = {one: measure(model, text, options.prompts, folder) for one, model in models.items()}
    heads = (
        "model", "gzip MB", "with tables", "step µs", "service", "ratio", "first ms", "with tables",
        "key p50 ms", "nextchar-run ms", "same texts",
    )  # fmt: skip
    rows = [
        [one, f"{f['gzip_bytes'] / 1e6:.2f}", f"{f['tables_bytes'] / 1e6:.1f}", f"{f['step_us']:.1f}",
         f"{f['service_step_us']:.1f}", f"{f['step_us'] / f['service_step_us']:.2f}", f"{f['cold_ms']:.0f}",
         f"{f['tables_cold_ms']:.0f}", f"{f['key_p50_ms']:.1f}", f"{f['run_ms']:.1f}",
         f"{f['same']} of {f['prompts']}"]
        for one, f in found.items()
    ]  # fmt: skip
    print_table(heads, rows, words=1)
    print_json_line("offline", models=found)


def measure(model: Model, text: str, prompts: int, folder: Path) -> dict[str, Any]:
    """Return the figures of one model; `folder` has the built runtime."""
    saved = model._saved
    files = {name: folder / f"{name}.nextchar" for name in ("plain", "tables")}
    for name, file in files.items():
        file.write_bytes(pack(saved, with_tables=name == "tables"))
    cases = _cases(text, prompts)
    (folder / "cases.json").write_text(json.dumps(cases))
    plain, tables = (_in_node(folder, file) for file in files.values())
    wanted = [model.complete(**case) for case in cases]
    same = [a == b == c for a, b, c in zip(wanted, plain.pop("texts"), tables["texts"], strict=True)]
    return plain | {
        "gzip_bytes": len(gzip.compress(files["plain"].read_bytes())),
        "tables_bytes": files["tables"].stat().st_size,
        "service_step_us": _service_step_us(saved),
        "tables_cold_ms": tables["cold_ms"],
        "run_ms": _run_ms(folder / "nextchar-run", files["tables"], cases[0]["prompt"]),
        "same": sum(same),
        "prompts": len(cases),
    }


def _random(network: str, text: str) -> SavedModel:
    layers, units = map(int, network.split("x"))
    vocabulary = Vocabulary(CHARACTERS)
    ids = vocabulary.encode("".join(c for c in text if c in CHARACTERS)[:_KNOWN])
    learned, _ = learn_text(ids, vocabulary)
    return saved_model(
        layers, units, random_weights(layers, units), {mixture.FILE: mixture.dump(ids, learned)}
    )


def _cases(text: str, count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    starts = random.integers(len(text) - 200, size=count).tolist()
    return [
        {
            "prompt": text[start : start + int(random.integers(150))],
            "max_characters": 60,
            "temperature": _TEMPERATURES[seed % len(_TEMPERATURES)],
            "seed": seed,
        }
        for seed, start in enumerate(starts)
    ]


def _in_node(folder: Path, file: Path) -> dict[str, Any]:
    script, runtime = _ROOT / "benchmarks/offline.mjs", _ROOT / "clients/offline/nextchar.wasm"
    command = ["node", script, runtime, file, folder / "cases.json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def _service_step_us(saved: SavedModel) -> float:
    """Return the processor time of a step of the service's kernels, the least of some rounds."""
    networks = load_networks(saved, threads=1).networks
    network: Any = networks.get(("int8", "mixture")) or networks["int8", "network"]
    uniforms = np.random.default_rng(0).random((_STEPS, 1))
    times = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        network.generate(np.ones(1, np.int32), network.initial_state(), np.ones(1, np.float32), uniforms)
        times.append(time.process_time() - started)
    return min(times) / _STEPS * 1e6


def _run_ms(command: Path, file: Path, prompt: str) -> float:
    """Return how long the command takes to complete 20 characters, the median of some runs."""
    times = []
    for _ in range(11):
        started = time.perf_counter()
        arguments = [command, "complete", file, prompt, "--max-characters", "20"]
        subprocess.run(arguments, capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e3


if __name__ == "__main__":
    main()
