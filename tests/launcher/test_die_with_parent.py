import pytest

from tests.launcher.processes import is_alive
from tests.waiting import eventually

_START_A_CHILD = """
import os, subprocess, sys, threading
code = "import sys; from launcher.die_with_parent import main; "
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
