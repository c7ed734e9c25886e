import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_the_runtime_sends_no_telemetry(tmp_path):
    environment = {
        k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY" and not k.startswith("XDG_")
    }
    subprocess.run(
        [sys.executable, "-c", "import nextchar.models.runtime.session"],
        cwd=_ROOT,
        env={**environment, "HOME": str(tmp_path)},
        check=True,
        timeout=500,
    )
    assert list(tmp_path.rglob("*")) == []  # ONNX Runtime's telemetry stores a device id in the home folder
