"""The quality benchmark for a second: what it prints, and that its peer is what it says."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import main
from benchmarks.texts import SplitText

HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Sixty thousand characters, half of which follow from those before."""
    random = np.random.default_rng(5)
    path = tmp_path / "text.txt"
    path.write_text("".join(random.choice(["ab\n", "cd\r\n", "é "], 25_000)), encoding="utf-8", newline="")
    return path


def test_both_train_and_the_last_line_is_json(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--text", str(text), "--seconds", "1", "--preset", "tiny"])
    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert set(result["runs"]) == {"ours", "char-rnn"} if HAS_TORCH else {"ours"}
    assert ("char-rnn is left out: torch is not installed" in printed.err) is not HAS_TORCH
    for run in result["runs"].values():
        assert math.isfinite(run["held_out_nats"])
        assert run["seconds"] > 0 and run["characters"] > 0
        assert [point["seconds"] for point in run["curve"]] == sorted(p["seconds"] for p in run["curve"])


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed: make bench-quality installs it")
def test_char_rnn_reads_the_same_in_slices_as_in_one_piece() -> None:
    from benchmarks.peers.char_rnn import CharRNN

    network = CharRNN(7)
    ids = np.random.default_rng(2).integers(0, 7, (5, 3), np.int32)  # (T, B)
    whole, end = network.step(ids, network.initial_state(3))
    _, middle = network.step(ids[:2], network.initial_state(3))
    rest, end_of_rest = network.step(ids[2:], middle, 1)
    np.testing.assert_allclose(rest, whole[3:], atol=1e-6)
    np.testing.assert_allclose(end_of_rest, end, atol=1e-6)


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed: make bench-quality installs it")
def test_char_rnn_learns_and_slows_down_after_the_tenth_epoch(tmp_path: Path) -> None:
    from benchmarks.peers.char_rnn import DECAY, RATE, Recipe

    path = tmp_path / "text.txt"
    path.write_text("to be or not to be\n" * 20)
    recipe = Recipe(SplitText.read(path))
    windows = recipe.rows.windows_per_epoch
    losses = [recipe.step() for _ in range(10 * windows - 1)]
    assert recipe.optimizer.param_groups[0]["lr"] == RATE
    recipe.step()
    assert recipe.optimizer.param_groups[0]["lr"] == RATE * DECAY
    assert losses[-1] < 0.8 * losses[0]
