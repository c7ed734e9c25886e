"""The measured choice between variants of the products."""

import json
import logging
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from nextchar.models.kernels import measurement, variants
from nextchar.models.kernels.product_kernels import INT8, available
from nextchar.models.kernels.variants import Measurement, chosen


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_the_fastest_variant_that_passed_is_chosen() -> None:
    measurements = [
        Measurement("int8", "wide", giga_per_s={"1": 40.0, "16": 90.0}),
        Measurement("int8", "narrow", giga_per_s={"1": 70.0, "16": 70.0}),
        Measurement("int8", "broken", failure="its products are wrong by 0.5"),
        Measurement("float32", "broken", failure="its process ended with status -4"),
    ]
    assert chosen(measurements) == {"int8": "narrow"}


def test_this_machine_is_measured_once_and_again_if_the_file_is_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / variants.FILE_NAME).write_text('{"measurements": [{"product": 1')
    assert variants.load() == []
    script = line("int8", "narrow") + line("int8", "narrow", giga_per_s={"1": 5.0})
    monkeypatch.setattr(sys, "executable", interpreter(folder, script))
    variants.measure()
    measurements = variants.load()
    assert chosen(measurements) == {"int8": "narrow"}
    monkeypatch.setattr(sys, "executable", "/bin/no-such-program")
    variants.measure()
    assert variants.load() == measurements


@pytest.mark.long  # compiles every product of this processor
def test_a_check_measures_the_widest_variant_of_one_product_and_a_measurement_all(folder: Path) -> None:
    variants.check("int8")
    (one,) = variants.load()
    assert (one.product, one.variant, one.failure) == ("int8", available(INT8)[0].name, "")
    assert variants.is_checked("int8")
    assert not variants.is_checked("float32")
    assert not variants.is_complete()
    assert list(folder.glob(f"*/product_kernels.int8_product_{one.variant}-*.nbc"))  # for the kernels
    variants.measure()
    assert variants.is_complete()
    measurements = variants.load()
    assert {"int8", "float32"} <= chosen(measurements).keys()
    assert all(one.speed > 0 for one in measurements if not one.failure)


def test_a_check_goes_on_to_the_next_variant_after_one_that_crashes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = script_that_crashes_unless("--first int8 int8:wide")
    monkeypatch.setattr(sys, "executable", interpreter(folder, script))
    variants.check("int8")
    assert [bool(one.failure) for one in variants.load()] == [True, False]
    assert chosen(variants.load()) == {"int8": "narrow"}
    monkeypatch.setattr(sys, "executable", "/bin/no-such-program")
    variants.check("int8")  # runs nothing


def interpreter(folder: Path, script: str) -> str:
    """Return a program in place of Python; its arguments are `-m MODULE OPTIONS SKIPPED…`."""
    program = folder / "python"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    return str(program)


def line(product: str, variant: str, **fields: object) -> str:
    return f"echo '{json.dumps(asdict(replace(Measurement(product, variant), **fields)))}'\n"  # type: ignore[arg-type]


def script_that_crashes_unless(arguments: str, name: str = "ILL") -> str:
    """Return a script that ends by a signal in the variant `wide`, unless its arguments say to skip it."""
    return (
        f'case "$*" in *"{arguments}"*) ;; *)\n'
        + line("int8", "wide")
        + f"kill -{name} $$ ;;\nesac\n"
        + line("int8", "narrow")
        + line("int8", "narrow", giga_per_s={"1": 5.0})
    )


def test_a_variant_that_crashes_is_not_used_and_the_others_are_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = script_that_crashes_unless("int8:wide")
    monkeypatch.setattr(sys, "executable", interpreter(folder, script))
    variants.measure()
    assert chosen(variants.load()) == {"int8": "narrow"}
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("the wide variant of int8 products is not used on this machine: its process")
    assert "-4" in warning


@pytest.mark.parametrize("name", ["KILL", "TERM"])
def test_a_measurement_that_is_killed_says_nothing_about_the_variant_and_is_done_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    narrow = line("int8", "narrow") + line("int8", "narrow", giga_per_s={"1": 5.0})
    script = narrow + script_that_crashes_unless("int8:wide", name)
    monkeypatch.setattr(sys, "executable", interpreter(folder, script))
    variants.measure()
    assert [(one.variant, one.failure) for one in variants.load()] == [("narrow", "")]
    assert not variants.is_complete()
    number = int(signal.Signals[f"SIG{name}"])
    assert f"kernels could not be measured: its process ended with status -{number}" in caplog.text
    wide = line("int8", "wide") + line("int8", "wide", giga_per_s={"1": 9.0})
    monkeypatch.setattr(sys, "executable", interpreter(folder, narrow + wide))
    variants.measure()
    assert variants.is_complete() and chosen(variants.load()) == {"int8": "wide"}


def test_a_variant_that_hangs_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'case "$*" in *int8:wide*) exit ;; esac\n' + line("int8", "wide") + "exec sleep 60\n"
    monkeypatch.setattr(sys, "executable", interpreter(folder, script))
    monkeypatch.setattr(variants, "_TIMEOUT_S", 1.0)
    variants.measure()
    (measured,) = variants.load()
    assert (measured.variant, measured.failure) == ("wide", "it took longer than 1 s")


def test_a_child_process_that_cannot_be_started_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/no-such-program")
    variants.check("int8")
    variants.measure()
    assert not variants.is_checked("int8") and not variants.is_complete()
    assert caplog.text.count("kernels could not be measured: [Errno 2]") == 2


def test_a_variant_with_wrong_products_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = available(INT8)[-1]
    assert not measurement.measured("int8", kernel).failure
    weights, x, expected = measurement.operands("int8", kernel, 11, 260)
    monkeypatch.setattr(measurement, "operands", lambda *_: (weights, x, expected + np.int32(1)))
    assert measurement.measured("int8", kernel).failure.startswith("its products are wrong by ")
