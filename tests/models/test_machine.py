"""Cores and memory of the process, on Linux and macOS."""

import os
import re
from pathlib import Path

import pytest

from nextchar.models import machine
from nextchar.models.machine import available_cores


@pytest.fixture(autouse=True)
def _no_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CGROUP_CPU_MAX", tmp_path / "cpu.max")


def test_cores_are_limited_by_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert available_cores() == 3


def test_without_affinity_all_cores_are_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert available_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize(
    ("contents", "cores"),
    [("150000 100000\n", 2), ("50000 100000\n", 1), ("900000 100000\n", 4), ("max 100000\n", 4), ("", 4)],
)
def test_cores_are_limited_by_the_quota_of_the_container(
    contents: str, cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text(contents)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert available_cores() == cores


def test_no_other_module_queries_the_system() -> None:
    root = Path(__file__).parents[2]
    sources = [
        path
        for package in ("app", "benchmarks", "clients", "launcher", "models", "store", "worker")
        for path in (root / package).rglob("*.py")
        if path != root / "models" / "machine.py"
    ]
    assert sources
    system_calls = r"sched_getaffinity|ru_maxrss|machdep.cpu"
    querying = [path for path in sources if re.search(system_calls, path.read_text())]
    assert querying == []
