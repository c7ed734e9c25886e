"""The training benchmark at a size that costs nothing: what it prints, not how fast anything is."""

import contextlib
import importlib.util
import itertools
import json
from argparse import ArgumentTypeError
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import training
from benchmarks.contestants import Contestant, ContestantDied, Turn, prepared
from benchmarks.peers import ours_step
from benchmarks.training import SGEMM_ALL, SGEMM_ONE, Size, figures, main
from nextchar.worker.precision import PrecisionChoice

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


def test_ours_trains_in_the_precision_that_a_job_would_choose_unless_one_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[str] = []

    def build(*_: object, precision: str, **__: object) -> tuple[None, None]:
        used.append(precision)
        return None, None

    monkeypatch.setattr(ours_step, "choose_precision", lambda *_, **__: PrecisionChoice("float32", 0.8))
    monkeypatch.setattr(ours_step, "network_and_step", build)
    monkeypatch.setattr(ours_step, "timed", lambda step: step)
    for given in ({}, {"precision": "mixed"}, {"precision": "float32"}):
        ours_step.prepare(**training._shape(Size(1, 5, 3)), **given)
    assert used == ["float32", "mixed", "float32"]


def test_ratios_are_of_turns_in_the_same_round() -> None:
    size = Size(1, 256, 32)
    # A machine that is three times slower in its second round changes no ratio.
    rates = {"ours": [6.0, 2.0, 6.0], "Keras": [3.0, 1.0, 3.0], SGEMM_ONE: [1.0] * 3, SGEMM_ALL: [2.0] * 3}
    found = figures(size, rates)
    keras = found["contestants"]["Keras"]
    assert keras["ours_over_it_rounds"] == [2.0, 2.0, 2.0]
    assert keras["characters_per_second"] == 3 * 32 * 64
    assert found["sgemm_gflop_per_second"][SGEMM_ALL] == pytest.approx(2 * 2 * 1024**3 / 1e9, abs=0.1)
    assert keras["share_of_sgemm"] == pytest.approx(3 * 32 * 64 * size.flop_per_character / (2 * 2 * 1024**3))


def test_flop_are_six_for_each_weight_of_a_matrix() -> None:
    weights = 4 * 5 * (64 + 5) + 4 * 5 * (5 + 5) + 5 * 65
    assert Size(2, 5, 3).flop_per_character == 6 * weights


@pytest.mark.parametrize("text", ["256", "1x256", "0x256/32", "1x256/", "1x-4/2"])
def test_a_wrong_network_is_named(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"'{text}' is not layers x units / rows"):
        Size.parse(text)


def test_without_a_gpu_the_benchmark_on_gpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(RuntimeError, match=r"(?s)ours died.*TensorFlow sees no GPU"):
        main(["--networks", "1x5/3", "--gpu", "--quick"])


def test_figures_need_no_matrix_product() -> None:
    found = figures(Size(1, 256, 32), {"ours": [6.0, 6.0], "Keras": [3.0, 2.0]})
    assert found["contestants"]["Keras"]["ours_over_it_rounds"] == [2.0, 3.0]
    assert found["contestants"]["ours"]["share_of_sgemm"] is None


def test_a_contestant_that_cannot_run_is_a_line_that_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = [
        Contestant("torch, bfloat16", "sgemm", {"size": "many"}),
        Contestant("ours", "sgemm", {"size": 8}),
    ]
    monkeypatch.setattr(training, "contestants", lambda _: everyone)
    main(["--networks", "1x5/3", "--rounds", "2", "--seconds", "0.01"])
    lines = capsys.readouterr().out.splitlines()
    (said,) = [line for line in lines if line.startswith("torch, bfloat16")]
    assert said.startswith("torch, bfloat16 cannot run here: TypeError: ")
    network = json.loads(lines[-1])["networks"]["1x5/3"]
    assert set(network["contestants"]) == {"ours"}
    assert network["cannot_run"]["torch, bfloat16"].startswith("TypeError: ")


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


def test_a_contestant_that_dies_is_named_with_the_end_of_its_log() -> None:
    broken = Contestant("broken", "sgemm", {"size": "many"})
    with pytest.raises(RuntimeError, match=r"(?s)broken died.*TypeError"), prepared(broken):
        pass
