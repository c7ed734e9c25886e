"""The training benchmark at a size that costs nothing: what it prints, not how fast anything is."""

import contextlib
import importlib.util
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import training
from benchmarks.contestants import Contestant, ContestantDied, Turn
from benchmarks.training import main

OURS = {"ours", "ours, float32", "ours, bfloat16", "Keras", "Keras, XLA"}
THEIRS = {"torch", "torch, bfloat16"}


def test_everybody_takes_part_and_the_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    training._print_missing.cache_clear()  # another test may have had it said
    main(["--networks", "2x5/3", "--rounds", "2", "--seconds", "0.01"])
    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    network = result["networks"]["2x5/3"]
    has_torch = importlib.util.find_spec("torch") is not None
    everyone = OURS | (THEIRS if has_torch else set())
    assert set(network["contestants"]) | set(network["cannot_run"]) == everyone
    assert set(network["cannot_run"]) <= {"ours, bfloat16", "torch, bfloat16"}  # not on every processor
    assert all(len(one["rounds"]) == 2 and min(one["rounds"]) > 0 for one in network["contestants"].values())
    assert network["contestants"]["ours"]["ours_over_it"] == 1
    assert ("torch is left out: torch is not installed" in printed.err) is not has_torch
    ran = result["ran"]
    assert set(ran["peers"]) - {"ONNX Runtime"} == {"Keras", "Keras, XLA"} | (THEIRS if has_torch else set())
    assert f"\ninstruction set: {ran['ours']['level']}\n" in printed.out
    assert f"\nKeras: {ran['peers']['Keras']}\n" in printed.out


def test_without_a_gpu_the_benchmark_on_gpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(RuntimeError, match=r"(?s)ours died.*TensorFlow sees no GPU"):
        main(["--networks", "1x5/3", "--gpu", "--quick"])


def test_a_contestant_that_dies_in_a_turn_has_no_figures_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    died = ContestantDied("other", "Traceback\nRuntimeError: could not create a primitive descriptor\n")
    turns = {"ours": itertools.repeat(None), "other": iter([None, died])}

    @contextlib.contextmanager
    def fake(one: Contestant) -> Iterator[Turn]:
        def turn(_: float) -> dict[str, Any]:
            if error := next(turns[one.name]):
                raise error
            return {"steps": 3, "seconds": 1.0, "cores_others_kept_busy": 0.0}

        yield turn

    monkeypatch.setattr(training, "prepared", fake)
    everyone = [Contestant("other", "", {}), Contestant("ours", "", {})]
    rates, failed, _ = training.measure(everyone, rounds=3, seconds=1)
    assert rates == {"ours": [3.0, 3.0, 3.0]}
    assert failed == {"other": "RuntimeError: could not create a primitive descriptor"}
