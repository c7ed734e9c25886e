"""Speed of a training step: forward, backward, clipping, AdamW update, states carried over.

    ours             nextchar.worker.kernel_step, in the precision that a job would measure to be faster
    ours, float32    the same with NEXTCHAR_PRECISION=float32
    ours, bfloat16   the same with NEXTCHAR_PRECISION=mixed
    Keras            keras.layers.LSTM and tf.function
    Keras, XLA       the same with jit_compile=True
    torch            torch.nn.LSTM, float32
    torch, bfloat16  the same under autocast

Only ours normalizes the embedding. Each contestant has a process; they run in turns, in another order each
round, so that other load affects all equally, and so does NumPy's matrix product, on one thread and on all.
Everything runs on the CPU, on the cores of this process (`taskset -c 0` for one). A contestant that cannot
run here, such as torch's bfloat16 on an older processor, is reported as such.

With --gpu everything runs on GPUs: ours is nextchar.worker.distributed.DistributedStep, in mixed precision
and in float32, on all that CUDA_VISIBLE_DEVICES shows; the others use the first. Keras has no XLA there,
since cuDNN cannot be used with it, and the CPU's matrix product does not take part.

The FLOP of a character are counted as 6 for each weight of a matrix: forward, gradient of the input and
gradient of the weight, a product and a sum each,

    6 (4H (E + H) + (L - 1) 4H (H + H) + H V)

whatever a contestant really executes. The share is that rate over the matrix product's, on all threads or
on one, whichever is faster. Prints the machine and the kernels that run, a table for each network and one
JSON line. --isa limits all contestants to the instructions of an older processor.

    python -m benchmarks.training [--quick] [--gpu | --isa avx2] [--networks 1x256/32 2x256/64]
"""

import argparse
import contextlib
import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.contestants import Contestant, ContestantDied, Turn, describe_other_load, prepared
from benchmarks.machine import add_isa_argument, limits
from benchmarks.our_kernels import our_kernels
from benchmarks.report import print_json_line, print_table, print_what_runs

WINDOW = 64
EMBEDDING = 64
VOCABULARY = 65
SGEMM_SIZE = 1024
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "VECLIB", "BLIS")}
OURS = "ours"
_PEERS = {"keras_step", "torch_step"}  # modules that say what they used
SGEMM_ONE, SGEMM_ALL = "sgemm, one thread", "sgemm, all threads"

Rates = dict[str, list[float]]  # by contestant: steps per second, one figure per turn


@dataclass(frozen=True)
class Size:
    """One network and its rows."""

    layers: int
    units: int
    rows: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Return the size written as layers x units / rows: 2x256/64. Raises ArgumentTypeError."""
        numbers = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)/([1-9]\d*)", text)
        if not numbers:
            raise argparse.ArgumentTypeError(f"{text!r} is not layers x units / rows, like 1x256/32")
        return cls(*map(int, numbers.groups()))

    def __str__(self) -> str:
        return f"{self.layers}x{self.units}/{self.rows}"

    @property
    def flop_per_character(self) -> int:
        """FLOP of a training step per character, by the formula above."""
        h = self.units
        weights = 4 * h * (EMBEDDING + h) + (self.layers - 1) * 4 * h * (h + h) + h * VOCABULARY
        return 6 * weights


NETWORKS = (Size(1, 256, 32), Size(2, 256, 64), Size(2, 512, 64))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every network and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", type=Size.parse, default=NETWORKS, metavar="LxH/B")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn")
    parser.add_argument("--quick", action="store_true", help="two short turns: to see that it works")
    parser.add_argument("--gpu", action="store_true", help="on GPUs instead of the CPU")
    add_isa_argument(parser)
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one")
    if options.quick:
        options.rounds, options.seconds = 2, 0.3
    everyone = {
        size: gpu_contestants(size) if options.gpu else contestants(size) for size in options.networks
    }
    environment = limits(options.isa)
    ours = None if options.gpu else our_kernels(environment)
    if ours and ours["folder"]:
        environment["NUMBA_CACHE_DIR"] = ours["folder"]
    peers = {
        one.name: (one.module, one.options)
        for one in everyone[options.networks[0]]
        if one.module in _PEERS and not options.gpu
    }
    ran = print_what_runs(options.isa, ours=ours, peers=peers)
    results = {}
    for size in options.networks:
        limited = [replace(one, environment={**one.environment, **environment}) for one in everyone[size]]
        rates, failed, others = measure(limited, rounds=options.rounds, seconds=options.seconds)
        results[str(size)] = figures(size, rates) | {"cannot_run": failed, "cores_others_kept_busy": others}
        print_figures(size, results[str(size)])
    print_json_line(
        "training",
        ran=ran,
        gpu=options.gpu,
        rounds=options.rounds,
        turn_seconds=options.seconds,
        networks=results,
    )


def contestants(size: Size) -> list[Contestant]:
    """Return the contestants; missing packages are named on standard error, once."""
    shape = _shape(size)
    return _installed(
        [
            Contestant(SGEMM_ONE, "sgemm", {"size": SGEMM_SIZE}, ONE_THREAD),
            Contestant(SGEMM_ALL, "sgemm", {"size": SGEMM_SIZE}),
            Contestant(OURS, "ours_step", shape),
            Contestant("ours, float32", "ours_step", shape | {"precision": "float32"}),
            Contestant("ours, bfloat16", "ours_step", shape | {"precision": "mixed"}),
            Contestant("Keras", "keras_step", shape | {"jit_compile": False}),
            Contestant("Keras, XLA", "keras_step", shape | {"jit_compile": True}),
            Contestant("torch", "torch_step", shape | {"bfloat16": False}, package="torch"),
            Contestant("torch, bfloat16", "torch_step", shape | {"bfloat16": True}, package="torch"),
        ]
    )


def gpu_contestants(size: Size) -> list[Contestant]:
    """Return the contestants on GPUs."""
    shape = _shape(size)
    on_gpu = shape | {"gpu": True}
    exact = on_gpu | {"precision": "float32"}
    torch32, torch16 = on_gpu | {"bfloat16": False}, on_gpu | {"bfloat16": True}
    return _installed(
        [
            Contestant(OURS, "ours_step", on_gpu, gpu=True),
            Contestant("ours, float32", "ours_step", exact, gpu=True),
            Contestant("Keras", "keras_step", shape | {"jit_compile": False}, gpu=True),
            Contestant("torch", "torch_step", torch32, package="torch", gpu=True),
            Contestant("torch, bfloat16", "torch_step", torch16, package="torch", gpu=True),
        ]
    )


def _shape(size: Size) -> dict[str, Any]:
    return {
        "layers": size.layers,
        "units": size.units,
        "rows": size.rows,
        "window": WINDOW,
        "embedding": EMBEDDING,
        "vocabulary": VOCABULARY,
    }


def _installed(everyone: list[Contestant]) -> list[Contestant]:
    for one in everyone:
        if not one.is_installed:
            _print_missing(one.name, one.package)
    return [one for one in everyone if one.is_installed]


@functools.cache
def _print_missing(name: str, package: str) -> None:
    print(f"{name} is left out: {package} is not installed", file=sys.stderr)


def measure(
    everyone: Sequence[Contestant], *, rounds: int, seconds: float
) -> tuple[Rates, dict[str, str], float]:
    """Run the contestants in turns. One that dies is dropped.

    Returns:
        The steps per second of each turn; why contestants could not run, by name; and how many cores other
        processes of this machine kept busy meanwhile: figures from a busy machine are worth little.

    Raises:
        ContestantDied: ours did; there is nothing to compare the others with.
    """
    others: list[float] = []
    failed: dict[str, str] = {}
    rates: Rates = {}

    def drop(name: str, died: ContestantDied) -> None:
        if name == OURS:
            raise died
        failed[name] = died.reason
        rates.pop(name, None)

    with contextlib.ExitStack() as stack:
        turns: dict[str, Turn] = {}
        for one in everyone:
            try:
                turns[one.name] = stack.enter_context(prepared(one))
                rates[one.name] = []
            except ContestantDied as died:
                drop(one.name, died)
        names = list(turns)
        for r in range(rounds):
            first = r % len(names)  # vary the predecessor of each
            for name in names[first:] + names[:first]:
                if name in failed:
                    continue
                try:
                    found = turns[name](seconds)
                except ContestantDied as died:
                    drop(name, died)
                    continue
                others.append(found["cores_others_kept_busy"])
                rates[name].append(found["steps"] / found["seconds"])
    return rates, failed, float(np.mean(others))


def figures(size: Size, rates: Rates) -> dict[str, Any]:
    """Return medians, spreads, ratios to ours, and shares of the rate of the matrix product."""
    sgemm_flop = 2 * SGEMM_SIZE**3
    known = [name for name in (SGEMM_ONE, SGEMM_ALL) if name in rates]
    sgemm = {name: [sgemm_flop * rate for rate in rates[name]] for name in known}
    characters = {name: np.multiply(rates[name], size.rows * WINDOW) for name in rates if name not in sgemm}
    peak = max((float(np.median(flop)) for flop in sgemm.values()), default=None)
    found: dict[str, Any] = {}
    for name, per_second in characters.items():
        median = float(np.median(per_second))
        ratios = characters[OURS] / per_second  # of turns in the same round
        found[name] = {
            "characters_per_second": median,
            "rounds": per_second.round().tolist(),
            "ours_over_it": float(np.median(ratios)),
            "ours_over_it_rounds": ratios.round(3).tolist(),
            "gflop_per_second": median * size.flop_per_character / 1e9,
            "share_of_sgemm": median * size.flop_per_character / peak if peak else None,
        }
    gflop = {name: (np.array(values) / 1e9).round(1).tolist() for name, values in sgemm.items()}
    return {
        "flop_per_character": size.flop_per_character,
        "sgemm_gflop_per_second": {name: float(np.median(values)) for name, values in gflop.items()},
        "sgemm_gflop_per_second_rounds": gflop,
        "contestants": found,
    }


def print_figures(size: Size, found: dict[str, Any]) -> None:
    """Print the table of one network."""
    rows = [
        [
            name,
            f"{one['characters_per_second']:,.0f}",
            f"{min(one['rounds']):,.0f} - {max(one['rounds']):,.0f}",
            f"{one['ours_over_it']:.2f}",
            f"{min(one['ours_over_it_rounds']):.2f} - {max(one['ours_over_it_rounds']):.2f}",
            f"{one['gflop_per_second']:.1f}",
            "" if one["share_of_sgemm"] is None else f"{one['share_of_sgemm']:.0%}",
        ]
        for name, one in found["contestants"].items()
    ]
    for name, gflop in found["sgemm_gflop_per_second"].items():
        rows.append([name, "", "", "", "", f"{gflop:.1f}", ""])
    print(f"\n{size}: layers x units / rows; {found['flop_per_character'] / 1e6:.2f} MFLOP a character")
    heads = ("", "characters/s", "spread", "ours / it", "spread", "GFLOP/s", "of sgemm")
    print_table(heads, rows)
    for name, reason in found["cannot_run"].items():
        print(f"{name} cannot run here: {reason}")
    print(f"{size}: {describe_other_load(found['cores_others_kept_busy'])}")


if __name__ == "__main__":
    main()
