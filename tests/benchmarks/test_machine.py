"""What benchmarks say about the machine, and how they are limited to a level of instructions."""

import argparse

import pytest

from benchmarks.machine import add_isa_argument, described, limits, machine
from nextchar.models.kernels.instruction_sets import available_levels


def test_the_line_on_the_machine_has_processor_date_and_commit() -> None:
    found = machine() | {"processor": "EPYC", "family": "25", "model": "1", "commit": "1234567-dirty"}
    line = described(found)
    assert line.startswith(f"EPYC (family 25, model 1), {found['cores']} cores, ")
    assert line.endswith(f"{found['date']}, commit 1234567-dirty")
    assert described({**found, "commit": None}).endswith(found["date"])


def test_a_level_limits_ours_and_the_libraries_of_the_peers() -> None:
    assert limits("auto", {"XLA_FLAGS": "--xla_a"}) == {}
    assert limits("amx", {}) == {"NEXTCHAR_ISA": "amx"}  # all that there is
    variables = limits("avx2", {"XLA_FLAGS": "--xla_a --xla_cpu_max_isa=AMX"})
    assert variables == {
        "NEXTCHAR_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "XLA_FLAGS": "--xla_a --xla_cpu_max_isa=AVX2",
    }
    assert limits("avx2", variables) == variables
    assert limits("avx512", {})["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_FP16"


def test_a_level_that_the_processor_lacks_is_an_argument_error_that_names_those_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NEXTCHAR_ISA", raising=False)
    parser = argparse.ArgumentParser()
    add_isa_argument(parser)
    assert parser.parse_args([]).isa == "auto"
    lowest = available_levels()[-1]
    assert parser.parse_args(["--isa", lowest]).isa == lowest
    with pytest.raises(SystemExit):
        parser.parse_args(["--isa", "sse5"])
    has = ", ".join(available_levels())
    assert f"argument --isa: 'sse5': this processor has {has}; use one of these" in capsys.readouterr().err
