from pathlib import Path

import pytest

from store.settings import StoreSettings
from worker.settings import WorkerSettings


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
