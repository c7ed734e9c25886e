"""The benchmarks of the mixture, in short."""

import random
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.mixture import compressed_bytes
from tests.benchmarks.test_serving import run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    draw = random.Random(1)
    path.write_text(" ".join(draw.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(3000)))
    return path


def test_mixture_is_compared_with_its_experts_and_the_best_baseline(text: Path) -> None:
    table, found = run("benchmarks.mixture", str(text), "--seconds", "1")
    (figures,) = cast(dict[str, dict[str, Any]], found["texts"])["words.txt"].values()
    assert 0 < figures["mixture"] < 1 and 0 < figures["best_baseline"] < 1
    assert figures["steps"] > 0 and figures["network"] in table[1]
    assert "in" in table[-1] and "of 1" in table[-1]


def test_compressors_are_measured_on_the_end_of_a_text() -> None:
    """Where they are installed; here a program that all have is one."""
    draw = random.Random(1)
    text = "".join(draw.choice("abcd") for _ in range(40_000))
    gzip = ("sh", "-c", "gzip -9 < {file} > {to}")
    whole, before = compressed_bytes(text, gzip), compressed_bytes(text[:38_000], gzip)
    assert 2 < (whole - before) * 8 / 2000 < 2.6


def test_latency_is_measured_for_both_experts(text: Path) -> None:
    arguments = ("--networks", "1x16", "--requests", "3", "--text", str(text))
    table, found = run("benchmarks.mixture_latency", *arguments)
    figures = cast(dict[str, dict[str, Any]], found["networks"])["1x16"]
    assert list(figures) == [
        f"{how}, {p}" for p in ("int8", "float32") for how in ("in process", "over HTTP")
    ]
    for row in figures.values():
        assert row["mixture"]["p50_ms"] > 0 and row["p50_ratio"] > 0
    assert len(table) == 5
