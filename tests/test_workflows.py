"""The workflow files: they parse, and run what everybody runs."""

from pathlib import Path
from typing import Any

import yaml

WORKFLOWS = Path(__file__).parents[1] / ".github" / "workflows"


def jobs(name: str) -> dict[str, Any]:
    """The jobs of a workflow file."""
    document: dict[str, Any] = yaml.safe_load((WORKFLOWS / name).read_text())
    assert True in document  # YAML reads the key `on` as true
    jobs: dict[str, Any] = document["jobs"]
    return jobs


def commands(job: dict[str, Any]) -> str:
    """All shell commands of a job."""
    return "\n".join(step.get("run", "") for step in job["steps"])


def test_ci_runs_the_script_for_every_supported_python() -> None:
    [job] = jobs("ci.yml").values()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "bash .ci/run" in commands(job)


def test_nothing_is_released_before_the_tests_have_passed() -> None:
    release = jobs("release.yml")
    assert "bash .ci/run" in commands(release["test"]) and "make dist" in commands(release["test"])
    others = {name: job for name, job in release.items() if name != "test"}
    assert set(others) == {"python", "npm", "images"}
    assert all(job["needs"] == "test" for job in others.values())
    assert others["images"]["strategy"]["matrix"]["target"] == ["api", "worker"]
