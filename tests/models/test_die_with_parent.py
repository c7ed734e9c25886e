import os
import signal
import sys

import pytest

from tests.launcher.processes import is_alive
from tests.waiting import eventually

_START_A_CHILD = """
import os, subprocess, sys, threading
code = "import sys; from nextchar.models.die_with_parent import main; "
code += "main(int(sys.argv[1]), ['sleep', '300'], platform=sys.argv[2])"
child = subprocess.Popen([sys.executable, "-c", code, str(os.getpid()), sys.argv[1]])
print(child.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_child_dies_with_a_killed_parent(platform, run_script):
    parent = run_script(_START_A_CHILD, platform)
    child_pid = int(parent.stdout.readline())
    assert is_alive(child_pid)
    parent.kill()
    eventually(lambda: not is_alive(child_pid))


_COMPILE = (
    "from nextchar.models.kernels.compile_cache import compile_in_child_process as start; start('json')"
)
_MEASURE = "from nextchar.models.kernels.variants import measure as start; start()"


@pytest.mark.parametrize("code", [_COMPILE, _MEASURE], ids=["compiler", "measurement"])
def test_kernels_are_not_compiled_for_a_killed_parent(code, tmp_path, monkeypatch, run_script):
    parent, child_pid = start_child(code, tmp_path, monkeypatch, run_script)
    assert is_alive(child_pid)
    parent.kill()
    eventually(lambda: not is_alive(child_pid))


def test_compiler_that_may_outlive_its_parent_does(tmp_path, monkeypatch, run_script):
    code = _COMPILE.replace("'json'", "'json', may_outlive=True")
    parent, child_pid = start_child(code, tmp_path, monkeypatch, run_script)
    parent.kill()
    parent.wait()
    assert is_alive(child_pid)
    os.kill(child_pid, signal.SIGKILL)


def start_child(code, folder, monkeypatch, run_script):
    """Run code that starts Python for the kernels; return its process, and the pid of what it started."""
    python = folder / "python"  # in place of Python: does nothing, but runs what binds it to its parent
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *die_with_parent.py*) exec {sys.executable} "$@" ;; esac\n'
        f"echo $$ > {folder}/pid.new; mv {folder}/pid.new {folder}/pid; exec sleep 300\n"
    )
    python.chmod(0o755)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    parent = run_script(f"import sys; sys.executable = sys.argv[1]; {code}", python)
    eventually((folder / "pid").exists)
    return parent, int((folder / "pid").read_text())
