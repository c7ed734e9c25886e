"""The instructions that kernels may use, and NEXTCHAR_ISA."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from nextchar.models.kernels import instruction_sets
from nextchar.models.kernels.instruction_sets import (
    UnknownInstructionSetError,
    available_levels,
    highest_level,
    limit_target,
    target_features,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.setenv(name, "")  # restores the absence of a variable that is set by the test
        monkeypatch.delenv(name)


def pretend(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets, "_host_features", lambda: dict.fromkeys(features, True))


def test_without_a_limit_all_features_of_the_processor_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "sse2", "avx2", "avx512f", "amx-tile")
    for value in ("", "auto"):
        limit_target({"NEXTCHAR_ISA": value})
    assert "NUMBA_CPU_FEATURES" not in os.environ
    assert available_levels() == ["amx", "avx512", "avx2", "generic"]
    assert highest_level() == "amx"


def test_on_arm64_the_features_that_linux_reports_are_added(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("processor\t: 0\nFeatures\t: fp asimd atomics asimddp bf16\nCPU part\t: 0x051\n")
    monkeypatch.setattr(instruction_sets, "_CPU_INFO", cpu_info)
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: {"neon": True, "sve": False})
    limit_target({"NEXTCHAR_ISA": "neon"})
    assert target_features() == {"neon"}
    limit_target({})
    assert target_features() == {"neon", "dotprod", "bf16"}
    assert highest_level() == "dotprod"
    limit_target({"NUMBA_CPU_FEATURES": "+neon"})  # set by the user: kept
    assert target_features() == {"neon", "dotprod", "bf16"}


def test_a_level_takes_away_what_is_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(
        monkeypatch, "sse2", "sse4.2", "avx", "avx2", "fma", "avx512f", "avx512vnni", "amx-int8", "avx10.1"
    )
    limit_target({"NEXTCHAR_ISA": "avx512"})
    assert target_features() == {"sse2", "sse4.2", "avx", "avx2", "fma", "avx512f", "avx512vnni"}
    limit_target({"NEXTCHAR_ISA": "avx2"})
    assert target_features() == {"sse2", "sse4.2", "avx", "avx2", "fma"}
    assert highest_level() == "avx2"
    limit_target({"NEXTCHAR_ISA": "generic"})
    assert target_features() == {"sse2"}


@pytest.mark.parametrize("name", ["avx512", "sse5", "AVX2"])
def test_a_level_that_the_processor_lacks_is_an_error_that_names_what_it_has(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "sse2", "avx2")
    with pytest.raises(UnknownInstructionSetError, match="this processor has avx2, generic; use one"):
        limit_target({"NEXTCHAR_ISA": name})


def test_amx_is_missing_if_linux_denies_the_tile_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    features = {"sse2": True, "avx512f": True, "amx-tile": True, "amx-int8": True}
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: features)
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets, "has_tile_registers", lambda: True)
    assert target_features() == set(features)
    monkeypatch.setattr(instruction_sets, "has_tile_registers", lambda: False)
    assert target_features() == {"sse2", "avx512f"}
    assert available_levels() == ["avx512", "generic"]
    with pytest.raises(UnknownInstructionSetError, match="this processor has avx512, generic"):
        limit_target({"NEXTCHAR_ISA": "amx"})
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse2,-avx,+amx-tile,+amx-bf16")
    assert target_features() == {"sse2"}


def test_a_system_without_tile_registers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if not binding.get_host_cpu_features().get("amx-tile"):
        assert not instruction_sets.has_tile_registers()
    instruction_sets.has_tile_registers.cache_clear()
    monkeypatch.setattr(instruction_sets.platform, "system", lambda: "Darwin")
    assert not instruction_sets.has_tile_registers()
    instruction_sets.has_tile_registers.cache_clear()


def test_kernels_are_compiled_for_the_level() -> None:
    lowest = available_levels()[-1]
    code = (
        "from nextchar.models.kernels import selection;"
        "print(selection.INT8_KERNEL.name, selection.FLOAT32_KERNEL.name);"
        "from numba.core.registry import cpu_target;"
        "print(cpu_target.target_context.codegen().magic_tuple()[2])"
    )
    environment = os.environ | {"NEXTCHAR_ISA": lowest}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    names, features = done.stdout.splitlines()
    assert names in {"generic generic", "generic neon"}
    assert "+avx" not in features and "+dotprod" not in features
