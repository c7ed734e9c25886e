import re
import subprocess
import sys
from pathlib import Path

import pytest

from nextchar.app.core_settings import ServingSettings
from nextchar.app.rooms import ApiSettings
from nextchar.launcher.settings import LauncherSettings
from nextchar.models.kernels.instruction_sets import available_levels
from nextchar.store.settings import StoreSettings
from nextchar.worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]


def test_the_storage_is_in_the_data_folder_by_default(tmp_path: Path) -> None:
    assert StoreSettings(data_dir=tmp_path).blobs_url == (tmp_path / "store").as_uri()
    assert StoreSettings(store_url="s3://bucket/x").blobs_url == "s3://bucket/x"


def test_a_wrong_setting_stops_start_up_naming_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEXTCHAR_TRAINING_THREADS", "many")
    monkeypatch.setenv("NEXTCHAR_STORE_URL", "key:secret@bucket/prefix")
    with pytest.raises(SystemExit) as caught:
        WorkerSettings.load()
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert any("NEXTCHAR_TRAINING_THREADS='many'" in line for line in lines)
    assert any("NEXTCHAR_STORE_URL: not a storage URL" in line and "s3://" in line for line in lines)
    assert not any("secret" in line for line in lines)


def test_a_misspelled_setting_stops_start_up_naming_the_one_that_is_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEXTCHAR_PROT", "9000")
    with pytest.raises(SystemExit) as caught:
        ApiSettings.load()
    assert caught.value.code == 2
    assert "NEXTCHAR_PROT: there is no such setting" in (said := capsys.readouterr().err)
    assert "did you mean NEXTCHAR_PORT?" in said


@pytest.mark.parametrize("settings", [ApiSettings, LauncherSettings, ServingSettings, WorkerSettings])
def test_no_process_takes_a_setting_of_another_for_a_misspelled_one(
    settings: type[StoreSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    documented = (ROOT / "docs" / "reference" / "settings.md").read_text()
    for name in re.findall(r"^\| `(NEXTCHAR_[A-Z0-9_]+)`", documented, re.MULTILINE):
        monkeypatch.setenv(name, "1")
    settings._check_names()


def test_an_instruction_set_that_the_processor_lacks_stops_a_program_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEXTCHAR_ISA", "sse5")
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    command = [sys.executable, "-m", "nextchar.worker.main"]
    started = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert started.returncode == 2
    (line,) = started.stderr.splitlines()
    assert line.startswith("nextchar: NEXTCHAR_ISA='sse5': ")
    assert f"this processor has {', '.join(available_levels())}; use one of these, or auto" in line


def test_a_level_of_the_processor_is_accepted() -> None:
    for level in ("", "auto", available_levels()[-1]):
        assert StoreSettings(isa=level).isa == level


def test_a_storage_url_that_is_empty_is_none_given(tmp_path: Path) -> None:
    settings = StoreSettings(store_url="", data_dir=tmp_path)
    assert settings.store_url is None and settings.blobs_url == (tmp_path / "store").as_uri()
    for url in ("file:///x", "memory:///", "s3://b", "s3a://b", "gs://b", "az://c", "azure://c", "abfss://c"):
        assert StoreSettings(store_url=url).blobs_url == url
    with pytest.raises(ValueError, match="not a storage URL"):
        StoreSettings(store_url="http://bucket/x")


def test_an_embedded_redis_is_started_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXTCHAR_REDIS_URL", raising=False)
    assert StoreSettings().given_redis_url is None
    assert StoreSettings().redis_url == "redis://127.0.0.1:6379/0"
    monkeypatch.setenv("NEXTCHAR_REDIS_URL", "redis://other/1")
    assert StoreSettings().given_redis_url == "redis://other/1"


def test_space_for_copies_of_model_files_is_4_gibibytes_and_may_be_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NEXTCHAR_MODEL_FILE_CACHE_BYTES", raising=False)
    assert StoreSettings().model_file_cache_bytes == 4 * 1024**3
    assert StoreSettings(model_file_cache_bytes=0).model_file_cache_bytes == 0
    monkeypatch.setenv("NEXTCHAR_MODEL_FILE_CACHE_BYTES", "-1")
    with pytest.raises(SystemExit):
        StoreSettings.load()
    assert capsys.readouterr().err.startswith("nextchar: NEXTCHAR_MODEL_FILE_CACHE_BYTES='-1': ")
