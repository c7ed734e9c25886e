"""The workflow files: they parse, and run what everybody runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.release import IMAGES, ROOT, version_of

WORKFLOWS = ROOT / ".github" / "workflows"


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


def test_ci_fails_before_the_tests_if_the_setup_fails(tmp_path: Path) -> None:
    programs, script, called = tmp_path / "bin", tmp_path / ".ci" / "run", tmp_path / "called"
    script.parent.mkdir()
    script.write_text((WORKFLOWS.parents[1] / ".ci" / "run").read_text())
    programs.mkdir()
    (programs / "make").write_text(f'#!/bin/sh\necho "$@" >> {called}\n! echo "$@" | grep -q setup\n')
    # Those that it would install, and npm.
    for name in re.findall(r"command -v ([a-z-]+)", script.read_text()):
        (programs / name).write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", str(script)], env={"PATH": path}, check=False)
    assert done.returncode == 1
    assert called.read_text().splitlines() == ["--jobs=2 .venv/.dev .venv/.node", "--jobs=2 setup lint"]


def test_what_is_published_is_what_the_tested_commit_builds() -> None:
    release = jobs("release.yml")
    build = commands(release["build"])
    assert build.index("bash .ci/run") < build.index("make audit release")
    others = {name: job for name, job in release.items() if name != "build"}
    assert set(others) == {"python", "npm", "images", "repository"}
    for name, job in others.items():
        assert job["needs"] == ("build" if name != "repository" else ["python", "npm", "images"])
        uses = [step.get("uses", "") for step in job["steps"]]
        assert any("download-artifact" in one for one in uses) and not any("checkout" in one for one in uses)
    assert others["images"]["strategy"]["matrix"]["target"] == list(IMAGES)


def test_the_commands_of_a_release_find_its_files(tmp_path: Path) -> None:
    release = jobs("release.yml")
    [check] = [step["run"] for step in release["build"]["steps"] if "The tag" in step.get("name", "")]
    for tag, status in ((f"v{version_of(ROOT)}", 0), ("v9.9.9", 1)):
        environment = {**os.environ, "GITHUB_REF_NAME": tag}
        assert (
            subprocess.run(["bash", "-c", check], cwd=ROOT, env=environment, check=False).returncode == status
        )
    images = [f"nextchar-{image}-1.2.0-amd64.tar.gz" for image in IMAGES]
    for name in ("nextchar-1.2.0-py3-none-any.whl", "nextchar-1.2.0.tar.gz", "nextchar-1.2.0.tgz", *images):
        (tmp_path / name).touch()
    subprocess.run(["bash", "-ec", commands(release["python"])], cwd=tmp_path, check=True)
    packages = {path.name for path in (tmp_path / "packages").iterdir()}
    assert packages == {"nextchar-1.2.0-py3-none-any.whl", "nextchar-1.2.0.tar.gz"}


@pytest.mark.long  # of a release
def test_the_bill_of_materials_has_every_locked_package_with_its_hashes(tmp_path: Path) -> None:
    requirements, out = ROOT / "requirements" / "api.txt", tmp_path / "sbom.json"
    command = ["cyclonedx-py", "requirements", str(requirements), "--pyproject", str(ROOT / "pyproject.toml")]
    command[:1] = [str(Path(sys.executable).parent / command[0])]
    subprocess.run([*command, "--output-reproducible", "--output-file", str(out)], check=True)
    bill = json.loads(out.read_text())
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["name"] == "nextchar"
    pinned = re.findall(r"^([a-z0-9-]+)==([^ ;]+)", requirements.read_text(), flags=re.MULTILINE)
    found = {(one["name"], one["version"]) for one in bill["components"]}
    assert found == set(pinned) and len(found) > 20
    assert all("hashes" in json.dumps(one) for one in bill["components"])
