"""The cache of compiled kernels, and compiling in advance."""

import fcntl
import importlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nextchar.models.kernels import compile_cache, variants
from nextchar.models.kernels.compile_cache import (
    _KERNELS,
    RUNTIME_KERNELS,
    TRAINING_KERNELS,
    compile_in_child_process,
    compile_kernels,
    fingerprint,
    is_compiling,
    machine_folder,
    needs_compiling,
    use_cache_folder,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")  # as for a user without a cache folder
    monkeypatch.setattr(variants, "measure", lambda: None)  # has its own tests
    monkeypatch.setattr(variants, "is_complete", lambda: True)


def test_compiled_code_is_cached_in_a_private_folder_of_the_data_folder(tmp_path: Path) -> None:
    use_cache_folder(tmp_path)
    folder = tmp_path / "compiled" / fingerprint()
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700


def test_a_users_kernels_are_compiled_once_for_all_data_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    used = {machine_folder(tmp_path / data) for data in ("one", "two")} | {machine_folder(None)}
    assert used == {tmp_path / "cache" / "nextchar" / "compiled" / fingerprint()}
    assert [folder.name for folder in tmp_path.iterdir()] == ["cache"]


def test_each_version_has_its_own_folder_in_the_one_that_the_user_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "named"
    for version in ("0123456789abcdef", "fedcba9876543210"):
        monkeypatch.setattr(compile_cache, "fingerprint", lambda version=version: version)
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(named))
        for module in _KERNELS:
            assert needs_compiling(tmp_path)
            (named / f"nextchar-kernels-{version}" / f"{module}.compiled").touch()
        assert not needs_compiling(tmp_path)
        for _ in range(2):
            use_cache_folder(tmp_path)
            assert os.environ["NUMBA_CACHE_DIR"] == str(named / f"nextchar-kernels-{version}")
    assert list(tmp_path.iterdir()) == [named]


@pytest.mark.parametrize("isa", ["auto", "generic" if platform.machine() == "x86_64" else "neon"])
def test_a_child_process_keeps_the_folder_of_its_parent(tmp_path: Path, isa: str) -> None:
    program = """
import os, pathlib, subprocess, sys
from nextchar.models.kernels.compile_cache import use_cache_folder
use_cache_folder(pathlib.Path("data"))
print(os.environ["NUMBA_CACHE_DIR"], flush=True)
if len(sys.argv) < 2:
    subprocess.run([sys.executable, "-c", os.environ["PROGRAM"], "child"], check=True)
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PROGRAM": program, "NEXTCHAR_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    (folder,) = tmp_path.iterdir()
    assert done.stdout.split() == [str(folder)] * 2


@pytest.mark.parametrize("source", ["jit.py", "tile.py", "lstm_training.py", "lstm_inference.py"])
def test_a_change_of_any_kernel_source_changes_the_fingerprint(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint()
    copy = shutil.copytree(compile_cache._FOLDER, tmp_path / "kernels")
    monkeypatch.setattr(compile_cache, "_FOLDER", copy)
    assert fingerprint() == before
    with (copy / source).open("a") as file:
        file.write("# changed")
    assert fingerprint() != before


def test_an_unusable_folder_is_logged_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "compiled").write_text("a file")
    use_cache_folder(tmp_path)
    assert "NUMBA_CACHE_DIR" not in os.environ
    assert "compiled kernels cannot be cached in" in caplog.text


def test_a_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_folder(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert machine_folder(tmp_path) is None


def test_folders_unused_for_a_month_are_deleted(tmp_path: Path) -> None:
    old, recent = tmp_path / "compiled" / "old", tmp_path / "compiled" / "recent"
    for folder, days in ((old, 31), (recent, 29)):
        folder.mkdir(parents=True)
        (folder / "code").touch()
        os.utime(folder, (time.time() - days * 86400,) * 2)
    here = machine_folder(tmp_path)
    assert here and sorted(here.parent.iterdir()) == sorted([here, recent])


def test_one_of_several_processes_compiles_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    done = threading.Event()
    with (tmp_path / "json.lock").open("w") as held:  # as if by another process
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Thread(target=lambda: (compile_kernels("json"), done.set()), daemon=True).start()
        assert not done.wait(0.5)
    assert done.wait(120)


def test_compiling_is_seen_by_other_processes_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_compiling()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not is_compiling()
    with (tmp_path / f"{RUNTIME_KERNELS}.lock").open("w") as held:  # as if by another process
        fcntl.flock(held, fcntl.LOCK_EX)
        assert is_compiling()
        (tmp_path / f"{RUNTIME_KERNELS}.compiled").touch()
        assert not is_compiling()  # it only loads them
    with (tmp_path / "variants.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not is_compiling()
        monkeypatch.setattr(variants, "is_complete", lambda: False)
        assert is_compiling()


def test_cached_modules_start_no_child_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compile_kernels("json")
    monkeypatch.setattr(sys, "executable", "/bin/no-such-program")
    compile_in_child_process("json")
    assert "/bin/no-such-program" not in caplog.text
    compile_in_child_process("json", "models.there_is_no_such_module")
    assert (
        "could not be compiled in advance: [Errno 2]" in caplog.text and "/bin/no-such-program" in caplog.text
    )


def test_variants_that_are_not_measured_are_measured_in_a_child_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compile_kernels("json")
    monkeypatch.setattr(variants, "is_complete", lambda: False)
    monkeypatch.setattr(sys, "executable", "/bin/no-such-program")
    compile_in_child_process("json")
    assert "/bin/no-such-program" in caplog.text


@pytest.mark.parametrize(
    ("modules", "expected"),
    [([RUNTIME_KERNELS], ["check int8"]), ([TRAINING_KERNELS, RUNTIME_KERNELS], ["measure"]), (["json"], [])],
)
def test_only_training_waits_for_the_measurement_of_all_variants(
    modules: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(variants, "measure", lambda: done.append("measure"))
    monkeypatch.setattr(variants, "check", lambda product: done.append(f"check {product}"))
    monkeypatch.setattr(variants, "is_checked", lambda _: False)
    monkeypatch.setattr(importlib, "import_module", lambda _: None)
    compile_kernels(*modules)
    assert done == expected


KERNEL = """
from nextchar.models.kernels.jit import compiled

@compiled("int64(int64)")
def add_one(x):
    return x + 1

assert add_one(1) == 2
"""


def test_damaged_cache_files_are_compiled_again(tmp_path: Path) -> None:
    (tmp_path / "kernel_of_test.py").write_text(KERNEL)
    cache = tmp_path / "cache"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(tmp_path)}

    def compile_kernel() -> str:
        command = [sys.executable, "-m", "nextchar.models.kernels.compile_cache", "kernel_of_test"]
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stderr

    cache.mkdir()
    compile_kernel()
    for kind in ("nbi", "nbc"):
        (damaged,) = cache.glob(f"*/kernel_of_test.*.{kind}")
        whole = damaged.read_bytes()
        damaged.write_bytes(b"" if kind == "nbi" else bytes([whole[0] ^ 0xFF]) + whole[1:])
        assert "the compiled code of kernel_of_test.add_one" in compile_kernel(), kind
    written = {path: path.stat().st_mtime_ns for path in cache.glob("*/*.nb?")}
    assert "damaged" not in compile_kernel()
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*/*.nb?")} == written


def test_kernels_are_marked_as_compiled_after_their_files_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = tmp_path / "models_0" / "kernels.nbi"
    code.parent.mkdir()
    code.touch()
    synced = []

    def sync(descriptor: int) -> None:
        assert not list(tmp_path.glob("*.compiled"))
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    compile_kernels("json")
    assert set(synced) == {path.stat().st_ino for path in (code, code.parent, tmp_path)}
    assert list(tmp_path.glob("*.compiled"))


def test_a_failure_of_the_child_process_is_logged_and_raises_nothing(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    compile_in_child_process("models.there_is_no_such_module")
    assert "kernels could not be compiled in advance (exit status 1)" in caplog.text
    assert "ModuleNotFoundError" in caplog.text
    assert capfd.readouterr().err == ""  # it is in the log, in the log's format


def test_warming_up_compiles_for_all_later_processes() -> None:
    """Uses the cache folder that all tests share, so that it compiles little."""

    def warm_up() -> dict[Path, int]:
        environment = {**os.environ, "NEXTCHAR_DATA_DIR": "data"}
        subprocess.run(
            [sys.executable, "-m", "nextchar.worker.warm_up"], cwd=ROOT, env=environment, check=True
        )
        files = (ROOT / "data" / "compiled" / fingerprint()).glob("*/*.nb?")
        return {path: path.stat().st_mtime_ns for path in files}

    first = warm_up()
    names = {path.name for path in first}
    for function in ("lstm_training.forward-", "lstm_inference._run_flat-", "product_kernels.int8_product_"):
        assert any(name.startswith(function) for name in names)
    assert warm_up() == first
