import json
from pathlib import Path

import pytest

from benchmarks import mixing
from nextchar.models.config import NetworkConfig

TINY = NetworkConfig(units=8, embedding=4)


def test_every_contestant_trains_and_the_last_line_is_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("STUDENT", "LARGE", "DOMAIN"):
        monkeypatch.setattr(mixing, name, TINY)
    text = tmp_path / "fox.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 600)
    mixing.main(["--text", str(text), "--seeds", "1", "--quick"])
    table, line = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert "labeled by the small model" in table
    told = json.loads(line)
    assert len(told["bits"]) == 6
    assert all(0 < bits < 8 for found in told["bits"].values() for bits in found)
