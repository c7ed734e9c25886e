"""Cores and memory of the process, on Linux and macOS."""

import os
import re
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nextchar.models import machine
from nextchar.models.machine import Processor, available_cores, peak_memory_bytes, processor

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.10GHz
flags\t\t: fpu: vme

processor\t: 1
model name\t: another
"""


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


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_bytes_on_every_system(
    platform: str, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    assert peak_memory_bytes() == 5000 * unit


def test_the_processor_is_named_with_its_family_and_model(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(XEON)
    found = processor(tmp_path / "cpuinfo")
    assert found == Processor("INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.10GHz", "6", "207")
    assert str(found) == f"{found.name} (family 6, model 207)"


def test_a_processor_without_a_model_name_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    found = processor(tmp_path / "cpuinfo")
    assert found.name and str(found) == found.name
    assert processor(tmp_path / "absent").name


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
