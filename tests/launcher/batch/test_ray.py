"""`nextchar batch` on Ray: the results of one machine, also when an actor is killed; and what is wrong.

One cluster of this machine serves all tests of this module.
"""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.batch.conftest import LINES, Command, results
from tests.waiting import eventually


@pytest.fixture(scope="module")
def ray() -> Any:
    """Ray, which takes two seconds to load: no process that only collects these tests waits for it."""
    return pytest.importorskip("ray", reason="ray is not installed")


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[str]:
    """The address of Ray on this machine, with two cores; or RAY_ADDRESS, of a cluster that runs already."""
    if "RAY_ADDRESS" in os.environ:
        yield os.environ["RAY_ADDRESS"]
        return
    with pytest.MonkeyPatch.context() as patch:
        # Actors find the modules of this checkout in whatever folder they run.
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        for left in (2, 1, 0):  # on a busy machine Ray gives up on its own agents (ray issue 65983)
            try:
                ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
                break
            except Exception as error:  # Ray raises no narrower class
                ray.shutdown()
                if not left or "timed out during startup" not in str(error):
                    raise
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()
        gc.collect()  # Ray's processes, which it does not wait for: here their warnings are ignored


pytestmark = [  # Ray's own
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def actors() -> list[int]:
    """Return the processes of actors that process parts."""
    commands = {path: (path / "cmdline").read_bytes() for path in Path("/proc").glob("[0-9]*")}
    return [int(path.name) for path, command in commands.items() if b"RayWorker" in command]


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("storage")
def test_killed_actor_loses_and_doubles_nothing(cluster: str, log: Path, tmp_path: Path) -> None:
    output, damaged = tmp_path / "out", tmp_path / "b.gz"
    log.write_text("".join(f"{line} {i}\n" for i, line in enumerate(LINES * 40)))
    damaged.write_bytes(b"no gzip")
    command = [sys.executable, "-m", "nextchar", "batch", "score", str(damaged), str(log), "--model", "real"]
    command += [
        "--output",
        str(output),
        "--part-size",
        "0.008",
        "--json",
        "--address",
        cluster,
        "--actors",
        "2",
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE)
    eventually(lambda: len(list(output.glob("scored/*"))) > 3 or running.poll() is not None, within_s=150)
    os.kill(actors()[0], signal.SIGKILL)
    printed, _ = running.communicate(timeout=150)
    totals = json.loads(printed)
    assert running.returncode == 1 and totals["parts_done"] == totals["parts"] - 1 > 40
    (error,) = totals["errors"]
    assert "b.gz cannot be processed" in error
    assert [record["text"] for record in results(output)] == log.read_text().splitlines()


def test_error_of_ray_is_one_sentence_with_the_versions_of_a_cluster(
    ray: Any, command: Command, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.utils import check_version_info

    def init(address: str, **_: Any) -> None:
        check_version_info({"ray_version": ray.__version__, "python_version": "3.9.7"}, address)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    more = ("--engine", "ray", "--address", "10.0.0.7:6379", "--output", tmp_path / "out")
    refused = command("score", log, *more)
    mine = ".".join(map(str, sys.version_info[:3]))
    assert refused.status == 1 and "Python: 3.9.7" in refused.err and f"Python: {mine}" in refused.err
