import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)


def locked(role: str) -> dict[str, set[str]]:
    """The versions of each package in a lock file; several where they depend on the machine."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([a-z0-9._-]+)==([^\s;]+)", (_ROOT / f"requirements/{role}.txt").read_text(), re.MULTILINE
    ):
        found.setdefault(name, set()).add(version)
    return found


def test_make_alone_lists_the_targets():
    said = make()
    assert said.returncode == 0
    for target in ("demo", "serve", "test", "lint", "lock", "clean"):
        assert f"make {target} " in said.stdout


def test_without_a_supported_python_setup_says_which_are_needed(tmp_path):
    said = make("setup", f"VENV={tmp_path}/venv", "PYTHON=/bin/false")
    assert said.returncode != 0
    assert "nextchar needs Python 3.11, 3.12 or 3.13" in said.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.long  # makes a virtual environment
def test_python_that_only_pretends_is_passed_over(tmp_path):
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\necho 'python3.13: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    said = make(f"{tmp_path}/venv/.made", f"VENV={tmp_path}/venv", f"PYTHONS={shim} {sys.executable}")
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "venv/bin/python").exists()


@pytest.mark.parametrize("stamp", [".serve", ".dev"])
def test_checkout_is_installed_again_when_its_packaging_has_changed(tmp_path, stamp):
    for name in (".made", ".serve", ".dev"):
        (tmp_path / name).touch()
    target = (f"{tmp_path}/{stamp}", f"VENV={tmp_path}", "--dry-run")
    assert "--editable" not in make(*target).stdout
    assert "--editable ." in make(*target, "--what-if=pyproject.toml").stdout


@pytest.mark.parametrize("role", ["api", "build", "serve", "worker"])
def test_every_lock_file_agrees_with_the_one_that_tests_use(role):
    tested = locked("dev")
    differing = {name: versions for name, versions in locked(role).items() if versions != tested.get(name)}
    assert differing == {}


def test_api_image_has_no_tensorflow():
    assert not {"tensorflow", "tensorflow-cpu", "keras"} & set(locked("api"))
