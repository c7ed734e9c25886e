"""Where compiled kernels are kept, and who compiles them when."""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from models.kernels import compile_cache
from models.kernels.compile_cache import (
    compile_in_child_process,
    compile_kernels,
    fingerprint,
    machine_folder,
    use_cache_folder,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_folder_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR")


def test_compiled_code_is_kept_in_the_data_folder_and_nobody_else_can_write_there(tmp_path: Path) -> None:
    use_cache_folder(tmp_path)
    folder = tmp_path / "compiled" / fingerprint()
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_the_environment_names_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    use_cache_folder(tmp_path)
    assert os.environ["NUMBA_CACHE_DIR"] == "/elsewhere"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["jit.py", "tile.py", "lstm_training.py", "lstm_inference.py"])
def test_a_change_of_any_kernel_source_takes_another_folder(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint()
    copy = shutil.copytree(compile_cache._FOLDER, tmp_path / "kernels")
    monkeypatch.setattr(compile_cache, "_FOLDER", copy)
    assert fingerprint() == before
    with (copy / source).open("a") as file:
        file.write("# changed")
    assert fingerprint() != before


def test_another_processor_takes_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from llvmlite import binding

    before = fingerprint()
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: "another")
    other = fingerprint()
    assert other != before
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert fingerprint() not in (before, other)


def test_a_folder_that_cannot_be_written_is_not_used_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "compiled").write_text("a file")
    use_cache_folder(tmp_path)
    assert "NUMBA_CACHE_DIR" not in os.environ
    assert "compiled kernels cannot be kept in" in caplog.text


def test_code_of_another_user_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_folder(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert machine_folder(tmp_path) is None


def test_folders_unused_for_a_month_are_deleted_and_others_stay(tmp_path: Path) -> None:
    old, recent = tmp_path / "compiled" / "old", tmp_path / "compiled" / "recent"
    for folder, days in ((old, 31), (recent, 29)):
        folder.mkdir(parents=True)
        (folder / "code").touch()
        os.utime(folder, (time.time() - days * 86400,) * 2)
    here = machine_folder(tmp_path)
    assert here and sorted(here.parent.iterdir()) == sorted([here, recent])


def test_two_processes_do_not_compile_the_same_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    done = threading.Event()
    with (tmp_path / "json.lock").open("w") as held:  # as by another process
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Thread(target=lambda: (compile_kernels("json"), done.set()), daemon=True).start()
        assert not done.wait(0.5)
    assert done.wait(20)


def test_a_process_that_holds_the_lock_for_ever_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compile_cache, "_LOCKED_S", 0.2)
    with (tmp_path / "json.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert compile_kernels("json") < 20


def test_kernels_are_compiled_even_where_nothing_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "absent"))
    compile_kernels("json")
    assert "compiled" not in caplog.text  # it was loaded already


def test_what_is_compiled_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compile_kernels("json")
    monkeypatch.setattr(sys, "executable", "/bin/no-such-program")
    compile_in_child_process("json")
    with pytest.raises(FileNotFoundError):
        compile_in_child_process("json", "models.there_is_no_such_module")


KERNEL = """
from numba import int64, njit

@njit(int64(int64), cache=True)
def add_one(x):
    return x + 1

assert add_one(1) == 2
"""


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_compiled_code_that_a_loss_of_power_has_emptied_is_compiled_again(kind: str, tmp_path: Path) -> None:
    (tmp_path / "kernel_of_test.py").write_text(KERNEL)
    cache = tmp_path / "cache"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(tmp_path)}

    def compile_kernel() -> str:
        command = [sys.executable, "-m", "models.kernels.compile_cache", "kernel_of_test"]
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stderr

    cache.mkdir()
    compile_kernel()
    (cut_off,) = cache.glob(f"*/*.{kind}")
    cut_off.write_bytes(b"")
    assert "are damaged; compiling them again" in compile_kernel()
    written = cut_off.stat()
    assert written.st_size > 0
    assert "damaged" not in compile_kernel()
    assert cut_off.stat().st_mtime_ns == written.st_mtime_ns


def test_kernels_count_as_compiled_only_once_they_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kept = tmp_path / "models_0" / "kernels.nbi"
    kept.parent.mkdir()
    kept.touch()
    synced = []

    def sync(descriptor: int) -> None:
        assert not list(tmp_path.glob("*.compiled"))
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    compile_kernels("json")
    assert set(synced) == {path.stat().st_ino for path in (kept, kept.parent, tmp_path)}
    assert list(tmp_path.glob("*.compiled"))


def test_a_compiler_that_fails_is_logged_and_no_error(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    compile_in_child_process("models.there_is_no_such_module")
    assert "kernels could not be compiled in advance (exit status 1)" in caplog.text
    assert "ModuleNotFoundError" in caplog.text
    assert capfd.readouterr().err == ""  # else it would stand between the log's records, in no format


def test_warming_up_compiles_once_for_all_later_processes() -> None:
    """In the folder that all tests share, so that little is compiled for this test alone."""

    def warmed_up() -> dict[Path, int]:
        environment = {**os.environ, "NEXTCHAR_DATA_DIR": "data"}
        subprocess.run([sys.executable, "-m", "worker.warm_up"], cwd=ROOT, env=environment, check=True)
        files = (ROOT / "data" / "compiled" / fingerprint()).glob("*/*.nb?")
        return {path: path.stat().st_mtime_ns for path in files}

    first = warmed_up()
    assert {"lstm_training.forward", "lstm_inference._run_flat"} <= {
        path.name.partition("-")[0] for path in first
    }
    assert warmed_up() == first
