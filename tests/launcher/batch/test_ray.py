"""Runs on Ray: the results of one machine, also when an actor is killed, and what is wrong with a cluster.

One cluster of this machine serves all tests of this module.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nextchar.launcher.batch import engines, runs
from nextchar.launcher.batch.part_worker import PartResult
from nextchar.models.errors import InvalidInput, Unavailable
from tests.launcher.batch.conftest import LINES, options, results, score


@pytest.fixture(scope="module")
def ray() -> Any:
    """Ray, which takes two seconds to load: no process that only collects these tests waits for it."""
    return pytest.importorskip("ray", reason="ray is not installed")


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[None]:
    """Ray on this machine, with two cores; with RAY_ADDRESS a cluster that runs already."""
    # Actors find the modules of this checkout in whatever folder they run.
    paths = os.pathsep.join(path for path in sys.path if path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        new: dict[str, Any] = (
            {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 2, "include_dashboard": False}
        )
        for left in (2, 1, 0):  # on a busy machine Ray gives up on its own agents (ray issue 65983)
            try:
                ray.init(**new, log_to_driver=False, logging_level="error")
                break
            except Exception as error:  # Ray raises no narrower class
                ray.shutdown()
                if not left or "timed out during startup" not in str(error):
                    raise
        yield
        ray.shutdown()


pytestmark = [  # Ray's own
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("storage", "cluster")
def test_killed_actor_loses_and_doubles_nothing(log: Path, tmp_path: Path) -> None:
    log.write_text("".join(f"{line} {i}\n" for i, line in enumerate(LINES * 20)))
    killed: list[int] = []

    def kill_once(totals: runs.Totals, result: PartResult | None) -> None:
        if result and not killed:
            killed.append(result.pid)
            os.kill(result.pid, signal.SIGKILL)

    wanted = options(log, tmp_path / "out", engine="ray", part_bytes=8_000)
    totals = runs.score(wanted, kill_once, echo=True)
    assert killed and totals.errors == [] and totals.parts > 20
    assert [record["text"] for record in results(tmp_path / "out")] == log.read_text().splitlines()
    assert json.loads((tmp_path / "out" / "done.json").read_text())["parts"] == totals.parts
    again = score(log, tmp_path / "out", engine="ray", part_bytes=8_000)  # without Ray: nothing is missing
    assert again.parts_before == totals.parts


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("storage", "cluster")
def test_error_of_a_part_is_reported_and_the_others_go_on(log: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "b.gz"
    damaged.write_bytes(b"no gzip")
    totals = score(log, tmp_path / "out", engine="ray", inputs=[str(damaged), str(log)])
    assert len(totals.errors) == 1 and "b.gz is not a complete gzip file" in totals.errors[0]
    assert len(results(tmp_path / "out")) == len(LINES)


@pytest.mark.usefixtures("storage")
def test_actor_returns_the_results_of_its_rows(
    ray: Any, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get", lambda shared: shared)  # no cluster is needed to call an actor's class

    def on_one_actor(work: Any, parts: Any, **_: Any) -> Iterator[PartResult]:
        actor = engines.BatchActor([(work, parts)])
        for index in range(len(parts)):
            answer = actor({"index": [index]})
            yield engines.result_of(parts, {name: column[0] for name, column in answer.items()})

    monkeypatch.setattr(runs, "run_on_ray", on_one_actor)
    totals = score(log, tmp_path / "out", engine="ray")
    assert totals.counts["lines"] == len(LINES) and totals.errors == []
    assert [record["text"] for record in results(tmp_path / "out")] == LINES


def raised(ray: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Exception:
    """Return what a run raises if Ray cannot connect for this reason."""

    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    work: Any = type("Work", (), {"threads": 1})
    with pytest.raises((InvalidInput, Unavailable)) as refused:
        next(engines.run_on_ray(work, [], workers=1, address="10.0.0.7:6379"))
    return refused.value


def test_cluster_of_another_python_is_refused_with_both_versions(
    ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as reported:
        check_version_info({"ray_version": ray.__version__, "python_version": "3.9.7"}, "10.0.0.8")
    error = raised(ray, monkeypatch, reported.value)
    assert isinstance(error, InvalidInput) and error.code == "cluster_version"
    mine = ".".join(map(str, sys.version_info[:3]))
    assert "Python: 3.9.7" in str(error) and f"this process (Python {mine})" in str(error)


def test_cluster_that_does_not_answer_is_named(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    error = raised(ray, monkeypatch, ConnectionError("Could not find any running Ray instance"))
    assert isinstance(error, Unavailable) and error.code == "ray_unavailable"
    assert "cluster 10.0.0.7:6379 cannot be used: Could not find" in str(error)
