"""`nextchar doctor` on this machine, and on broken ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nextchar.launcher import doctor
from nextchar.launcher.doctor import Finding, examine
from nextchar.launcher.settings import LauncherSettings
from nextchar.models.kernels import variants
from nextchar.models.kernels.variants import Measurement


def findings(settings: LauncherSettings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    monkeypatch.setattr(doctor, "compile_in_child_process", lambda *_: None)  # has its own tests
    return {finding.name: finding for finding in examine(settings)}


@pytest.mark.long  # a process with all libraries; the findings are tested below
def test_the_command_names_what_this_machine_has() -> None:
    """Uses the cache folder that all tests share."""
    program = (
        "import sys; from nextchar.cli.main import main; sys.argv = ['nextchar', 'doctor', '--json']; main()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, done.stdout
    assert {"software", "processor", "memory", "data folder", "redis"} <= found.keys()
    assert found["processor"]["state"] == "ok"


def test_the_chosen_kernels_and_the_failed_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements = [
        Measurement("int8", "amx", failure="its process ended with status -4"),
        Measurement("int8", "avx2", giga_per_s={"1": 50.0, "16": 70.0}),
        Measurement("float32", "avx2", giga_per_s={"16": 35.0}),
    ]
    monkeypatch.setattr(variants, "load", lambda: measurements)
    found = findings(LauncherSettings(data_dir=tmp_path), monkeypatch)
    assert found["int8 kernels"].state == "warning"
    assert found["int8 kernels"].detail.startswith("avx2; measured: amx failed (its process ended with ")
    assert found["float32 kernels"] == Finding("float32 kernels", "ok", "avx2; measured: avx2 16 rows 35 G/s")


def test_what_would_stop_the_service_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    settings = LauncherSettings(data_dir=tmp_path / "file", redis_url="redis://127.0.0.1:1/0")
    found = findings(settings, monkeypatch)
    assert found["data folder"].state == found["redis"].state == "error"
    assert "set NEXTCHAR_DATA_DIR to another" in found["data folder"].detail
    assert "NEXTCHAR_REDIS_URL does not respond" in found["redis"].detail


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("", None),
        ("GPU:0, GPU:1", ("ok", "training uses GPU:0")),
        ("TensorFlow sees no GPU", ("warning", "")),
    ],
)
def test_gpus_are_named_and_those_that_cannot_be_used_are_warned_of(
    printed: str, expected: tuple[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout=printed + "\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: answer)
    found = list(doctor._gpus())
    assert [(one.name, one.state) for one in found] == ([("GPU", expected[0])] if expected else [])
    assert all(expected and expected[1] in one.detail and printed in one.detail for one in found)
