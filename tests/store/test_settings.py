import subprocess
import sys
from pathlib import Path

import pytest

from models.kernels.instruction_sets import available_levels
from store.settings import StoreSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]


def test_the_storage_is_in_the_data_folder_by_default(tmp_path: Path) -> None:
    assert StoreSettings(data_dir=tmp_path).blobs_url == (tmp_path / "store").as_uri()
    assert StoreSettings(store_url="s3://bucket/x").blobs_url == "s3://bucket/x"


def test_a_wrong_setting_stops_start_up_naming_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEXTCHAR_TRAINING_THREADS", "many")
    monkeypatch.setenv("NEXTCHAR_STORE_URL", "bucket/prefix")
    with pytest.raises(SystemExit) as caught:
        WorkerSettings.load()
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert any("NEXTCHAR_TRAINING_THREADS='many'" in line for line in lines)
    assert any("NEXTCHAR_STORE_URL='bucket/prefix': " in line and "s3://" in line for line in lines)


@pytest.mark.parametrize("command", [["app.main"], ["worker.main"], ["nextchar", "serve"]])
def test_an_instruction_set_that_the_processor_lacks_stops_every_program_with_one_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEXTCHAR_ISA", "sse5")
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    started = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert started.returncode == 2
    (line,) = started.stderr.splitlines()
    assert line.startswith("nextchar: NEXTCHAR_ISA='sse5': ")
    assert f"this processor has {', '.join(available_levels())}; use one of these, or auto" in line


def test_a_level_of_the_processor_is_accepted() -> None:
    for level in ("", "auto", available_levels()[-1]):
        assert StoreSettings(isa=level).isa == level
