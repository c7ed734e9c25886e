import os
import subprocess
import sys
from pathlib import Path

import pytest

from nextchar.models.kernels import instruction_sets, prebuilt
from nextchar.models.kernels.compile_cache import machine_folder
from nextchar.models.kernels.instruction_sets import available_levels, limit_target
from nextchar.models.kernels.prebuilt import TARGETS, settings, target

ROOT = Path(__file__).parents[3]
AVX2 = set(TARGETS["avx2"][1].split())

_IMAGE = """
import os, sys
from pathlib import Path
from nextchar.models.kernels import prebuilt
prebuilt.FOLDER = Path(sys.argv[1], "prebuilt")
"""

_PREBUILD = """
from nextchar.models.kernels import prebuild
prebuild.SERVING = ("nextchar.models.kernels.product_kernels",)
prebuild.compile_for_target("avx2", trains=False)
"""

_MEASURE = """
from nextchar.models.kernels import compile_cache, variants

def written():
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("kernels/*.nbc")}

folder = compile_cache.machine_folder(Path(sys.argv[1], "data"))
os.environ["NUMBA_CACHE_DIR"] = str(folder)
assert compile_cache.is_compiled("nextchar.models.kernels.product_kernels")
prebuilt = written()
variants.measure()
assert written() == prebuilt
print(*sorted(f"{one.product} {one.variant}" for one in variants.load() if not one.failure), sep=", ")
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of prebuilt kernels, with the two lower levels."""
    folder = tmp_path / "prebuilt"
    for level in ("avx2", "avxvnni"):
        (folder / level / "kernels_0").mkdir(parents=True)
        (folder / level / "kernels_0" / "code.nbc").write_text(level)
        (folder / level / "kernels.compiled").touch()
    monkeypatch.setattr(prebuilt, "FOLDER", folder)
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.setenv(name, "")  # restores the absence of a variable that is set by the test
        monkeypatch.delenv(name)
    return folder


def test_the_target_is_the_highest_prebuilt_level_that_the_processor_has(image: Path) -> None:
    assert target(AVX2 | {"gfni"}) == settings("avx2")
    assert target(AVX2 | {"avxvnni"}) == settings("avxvnni")
    assert target(TARGETS["amx"][1].split()) == settings("avx2")  # nothing higher is prebuilt
    assert target(AVX2 - {"bmi2"}) == {}


def test_an_image_compiles_for_its_level_and_everything_else_for_the_processor(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instruction_sets, "_host_features", lambda: dict.fromkeys(AVX2, True))
    limit_target({})
    assert settings("avx2").items() <= os.environ.items()
    for name in settings("avx2"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(prebuilt, "FOLDER", image / "missing")
    monkeypatch.setattr(instruction_sets, "_arm_features", dict)
    limit_target({})
    assert "NUMBA_CPU_FEATURES" not in os.environ


def test_a_new_cache_folder_begins_with_the_kernels_of_the_level(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")  # as in a container, whose user has no home
    native = machine_folder(tmp_path / "native")
    assert native and list(native.iterdir()) == []
    for name, value in settings("avxvnni").items():
        monkeypatch.setenv(name, value)
    folder = machine_folder(tmp_path / "data")
    assert folder and sorted(path.name for path in folder.iterdir()) == ["kernels.compiled", "kernels_0"]
    code = folder / "kernels_0" / "code.nbc"
    assert code.read_text() == "avxvnni"
    code.write_text("compiled again")
    assert machine_folder(tmp_path / "data") == folder
    assert code.read_text() == "compiled again"


@pytest.mark.skipif("avx2" not in available_levels(), reason="this processor has no AVX2")
def test_a_new_container_measures_the_variants_and_compiles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    folder = tmp_path / "prebuilt" / "avx2"
    folder.mkdir(parents=True)
    environment = {**os.environ, **settings("avx2"), "PYTHONPATH": str(ROOT / "clients/python")}

    def run(script: str, **more: str) -> str:
        command = [sys.executable, "-c", _IMAGE + script, str(tmp_path)]
        return subprocess.run(
            command, env=environment | more, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    run(_PREBUILD, NUMBA_CACHE_DIR=str(folder))
    assert run(_MEASURE).strip() == "float32 avx2, int8 avx2"
