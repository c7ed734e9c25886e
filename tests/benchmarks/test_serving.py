import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> tuple[list[str], dict[str, object]]:
    """Run a benchmark; return its table and the JSON of its last line."""
    said = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout[-2000:] + said.stderr[-2000:]
    *table, last = said.stdout.splitlines()
    return table, json.loads(last)


def test_serving_is_measured_beside_the_peers_that_are_installed() -> None:
    table, found = run("benchmarks.serving", "--quick")
    (figures,) = found["results"].values()  # type: ignore[attr-defined]
    rows = figures["keystrokes"]
    assert {"ours, HTTP", "ours, in process", "empty route", "Keras tf.function loop"} <= set(rows)
    has_torch = importlib.util.find_spec("torch") is not None
    assert ("torch.nn.LSTM loop" in rows) == has_torch == (found["missing"] == [])
    if not has_torch:
        assert "left out, for it is not installed: torch" in table
    assert all(row["p50_ms"] > 0 for row in rows.values())
    ran = found["ran"]
    assert f"instruction set: {ran['ours']['level']}" in table  # type: ignore[index]
    keras = ran["peers"]["Keras tf.function loop"]  # type: ignore[index]
    assert f"Keras tf.function loop: {keras}" in table
    assert figures["clients"]["float32"]["errors"] == 0


def test_load_reports_statuses_latencies_and_how_late_deadlines_are() -> None:
    options = ("--clients", "4", "--seconds", "1", "--network", "1x16", "--no-training")
    # No network writes 2,000 characters in 2 ms: every completion reaches its deadline.
    table, found = run("benchmarks.load", *options, "--timeout-ms", "2")
    assert found["failures"] == 0 and list(found["statuses"]) == ["200"]  # type: ignore[call-overload]
    assert found["requests"]["complete"] and len(found["late_ms"]) == 4  # type: ignore[index,arg-type]
    assert table[-1].startswith(f"after the deadline, of {found['statuses']['200']:,}: ")  # type: ignore[index]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_seeds_give_the_same_texts_alone_and_in_a_crowd(precision: str) -> None:
    options = ("--requests", "60", "--clients", "12", "--network", "1x48", "--precision", precision)
    _, found = run("benchmarks.seeds", *options)
    assert found["requests"] == 60
    assert found["different"] == 0
    assert found["event_loop"]["timers"] > 0  # type: ignore[index]
