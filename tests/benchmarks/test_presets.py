import json
from pathlib import Path

import pytest

from benchmarks import presets
from nextchar.models.config import PRESETS, NetworkConfig, TrainingConfig


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a text; the presets' networks are tiny."""
    for preset in PRESETS:
        monkeypatch.setitem(
            PRESETS, preset, (NetworkConfig(units=8, embedding=4, dropout=None), TrainingConfig(rows=4))
        )
    path = tmp_path / "fox.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    return path


def test_auto_is_compared_with_every_recipe_and_the_last_line_is_json(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    presets.main([str(text), "--seconds", "1", "--steps", "5", "--recipes", "tiny-128-0.04", "tiny"])
    table, line = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert "5 steps" in table and "1 s" in table and "auto: loses up to" in table
    steps, seconds = json.loads(line)["comparisons"]
    assert [run["steps"] for run in steps["runs"].values()] == [5, 5]
    assert "auto" not in steps
    assert seconds["auto"] in seconds["runs"] and seconds["sentence"].startswith("auto: preset")
    best = min(run["bits"] for run in seconds["runs"].values())
    assert seconds["auto_lost_bits"] == pytest.approx(seconds["runs"][seconds["auto"]]["bits"] - best)
