"""The wheel, installed into an empty virtual environment, as people get it."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import httpx
import pytest

from nextchar.launcher.stack import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
_PACKAGES = ("app", "clients", "launcher", "models", "store", "worker")
_BUILD_FILES = ("LICENSE", "README.md", "pyproject.toml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy.

    A build writes `nextchar.egg-info` anew, where other processes read the version in the meantime.
    """
    copy, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in (*_PACKAGES, *_BUILD_FILES):
        source, target = ROOT / name, copy / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(source, target)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, copy)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and our environment's packages behind it."""
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    [packages] = folder.glob("lib/python*/site-packages")
    _run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    )
    (packages / "dependencies.pth").write_text(_site_packages())
    return folder / "bin"


def test_the_wheel_has_one_top_level_package_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"nextchar", f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"}
    for data in ("app/console/files/index.html", "js/nextchar.js", "py.typed"):
        assert f"nextchar/{data}" in names


def test_the_wheel_has_the_source_of_the_repository(wheel: Path) -> None:
    """Every Python file of the packages, unchanged."""
    with zipfile.ZipFile(wheel) as files:
        sources = {name: files.read(name) for name in files.namelist() if name.endswith(".py")}
    roots = {ROOT / "clients/python/nextchar": "nextchar"} | {
        ROOT / name: f"nextchar/{name}" for name in _PACKAGES if name != "clients"
    }
    expected = {
        f"{package}/{path.relative_to(root)}": path.read_bytes()
        for root, package in roots.items()
        for path in root.rglob("*.py")
    }
    assert len(sources) > 340 and sources == expected


@pytest.mark.long  # downloads packages
def test_a_bare_install_is_the_client_and_the_command(wheel: Path, tmp_path: Path) -> None:
    _run(sys.executable, "-m", "venv", "--without-pip", tmp_path)
    pip = (sys.executable, "-m", "pip", "--python", str(tmp_path), "install", "--quiet", str(wheel))
    done = subprocess.run(pip, env=_environment(), check=False, capture_output=True, text=True)
    if "No matching distribution" in done.stderr or "Connection" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in next(tmp_path.glob("lib/python*/site-packages")).iterdir()}
    assert "typer" in names and not names & {"numpy", "fastapi", "tensorflow", "redis"}
    script = "from nextchar import Client; Client('http://127.0.0.1:1').close()"
    _run(tmp_path / "bin/python", "-c", script)
    refused = subprocess.run(
        [tmp_path / "bin/nextchar", "serve"], check=False, capture_output=True, text=True
    )
    assert refused.returncode == 1 and "pip install 'nextchar[serve]'" in refused.stderr


@pytest.mark.long  # installs the wheel
def test_the_version_is_that_of_the_project(installed: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    script = "from nextchar.app.main import installed_version; print(installed_version())"
    assert _run(installed / "python", "-c", script).strip() == version
    assert json.loads((ROOT / "clients/js/package.json").read_text())["version"] == version


@pytest.mark.long  # of the image: the files are compared above
def test_the_installed_service_compiles_in_a_child_process(installed: Path, tmp_path: Path) -> None:
    script = """
from nextchar.models.kernels.compile_cache import compile_in_child_process, use_cache_folder
from pathlib import Path
use_cache_folder(Path("data"))
compile_in_child_process("nextchar.models.errors")
"""
    environment = _environment() | {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    done = subprocess.run(
        [installed / "python", "-c", script],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.stderr == ""
    assert list(tmp_path.glob("numba/nextchar-kernels-*/nextchar.models.errors.compiled"))


@pytest.mark.long  # compiles all kernels at another path
def test_the_installed_service_trains_and_completes(installed: Path, tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    environment = _environment() | {
        "NEXTCHAR_SERVER": f"http://127.0.0.1:{port}",
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(tmp_path / "numba")),
        "NUMBA_OPT": "1",  # its kernels are at another path, so they are compiled: in half the time
    }
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    service = subprocess.Popen(
        [installed / "nextchar", "serve", "--port", str(port), "--data-dir", tmp_path / "data"],
        env=environment,
        cwd=tmp_path,
    )
    try:

        def command(*arguments: object) -> str:
            return _run(installed / "nextchar", *arguments, env=environment, cwd=tmp_path)

        # Asked over HTTP: a process per question would slow down the start.
        eventually(lambda: _is_ready(port), what="the service is ready")
        command("status")
        command("corpus", "add", text, "--name", "foxes")
        command("train", "foxes", "--name", "foxes", "--preset", "tiny", "--steps", "5")
        answer = json.loads(command("complete", "foxes", "the ", "--json"))
        assert answer["model"] == "foxes@1"
    finally:
        service.terminate()
        assert service.wait(120) == 0


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env=env or _environment(),
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").json()["status"] == "ready"
    except httpx.HTTPError:
        return False


def _site_packages() -> str:
    import fastapi

    return str(Path(fastapi.__file__).parents[1])
