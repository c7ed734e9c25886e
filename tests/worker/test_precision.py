"""The precision that a run takes by itself: the faster one, the same again later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.kernels import packed_arrays
from nextchar.models.kernels.lstm_weights import LSTMShape
from nextchar.worker import precision
from nextchar.worker.precision import PrecisionChoice, choose_precision
from nextchar.worker.prepared_text import Text
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit
from tests.worker.test_training import Recorder

NETWORK = NetworkConfig(units=16, embedding=5)
SIZES: dict[str, Any] = {"rows": 2, "window": 3, "vocabulary_size": 21}
TEXT = Text.split("the cat sat on the mat; the dog sat on the log. " * 40, validation_fraction=0.1)


needs_bfloat16 = pytest.mark.skipif(
    not packed_arrays.HAS_BFLOAT16, reason="this processor has no bfloat16 products"
)


class Processor:
    """In the place of the kernels: seconds of a window by dtype, and how often each was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, float32: float, bfloat16: float) -> None:
        self.seconds = {"float32": float32, "bfloat16": bfloat16}
        self.asked: list[str] = []
        monkeypatch.setattr(packed_arrays, "HAS_BFLOAT16", True)
        monkeypatch.setattr(precision, "_timer", self._timer)

    def _timer(self, _: LSTMShape, *, dtype: str, **__: int) -> Callable[[], float]:
        def seconds() -> float:
            self.asked.append(dtype)
            return self.seconds[dtype]

        return seconds


@pytest.mark.parametrize(
    ("bfloat16_s", "chosen", "sentence"),
    [
        (0.5, "mixed", "2.00 times the speed of float32 on this processor; matrix products are in bfloat16"),
        (1.3, "float32", "0.77 times the speed of float32 on this processor; matrix products are in float32"),
        (0.97, "float32", "1.03 times"),
    ],
)
def test_the_faster_precision_is_used_and_float32_if_the_gain_is_small(
    bfloat16_s: float, chosen: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Processor(monkeypatch, float32=1.0, bfloat16=bfloat16_s)
    choice = choose_precision(NETWORK, **SIZES, folder=None)
    assert choice.precision == chosen
    assert sentence in choice.sentence


def test_a_processor_without_bfloat16_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Processor(monkeypatch, float32=1.0, bfloat16=0.5)
    monkeypatch.setattr(packed_arrays, "HAS_BFLOAT16", False)
    assert choose_precision(NETWORK, **SIZES, folder=None) == PrecisionChoice("float32")
    assert processor.asked == []


def test_both_are_measured_alternately(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Processor(monkeypatch, float32=1.0, bfloat16=0.5)
    choose_precision(NETWORK, **SIZES, folder=None)
    assert processor.asked[:4] == ["float32", "bfloat16"] * 2


def test_later_jobs_of_the_same_shape_reuse_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Processor(monkeypatch, float32=1.0, bfloat16=0.5)
    first = choose_precision(NETWORK, **SIZES, folder=tmp_path)
    busy = Processor(monkeypatch, float32=1.0, bfloat16=7.0)
    assert choose_precision(NETWORK, **SIZES, folder=tmp_path) == first
    assert busy.asked == []
    assert choose_precision(NETWORK, **SIZES | {"rows": 64}, folder=tmp_path).precision == "float32"
    assert choose_precision(NETWORK, **SIZES, folder=tmp_path) == first  # both are kept


# A run


def _fit(recorder: Recorder, **options: Any) -> Result:
    training = TrainingConfig(rows=4, window=10, budget=Budget(steps=30))
    return fit(NETWORK, training, TEXT, cores=2, hooks=recorder.hooks, **options)


def test_the_measured_precision_is_reported_and_kept_by_a_resumed_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = _fit(Recorder(), precision="float32")
    Processor(monkeypatch, float32=1.0, bfloat16=1.3)
    recorder = Recorder(stop_at=13)
    _fit(recorder, precision="auto")
    assert recorder.messages[0].startswith("bfloat16: 0.77 times the speed of float32")
    other = Processor(monkeypatch, float32=1.0, bfloat16=0.1)
    resumed = _fit(Recorder(), precision="auto", resume=recorder.checkpoints[-1])
    assert resumed.precision == PrecisionChoice("float32", pytest.approx(0.769))  # type: ignore[arg-type]
    assert other.asked == []
    for ours, theirs in zip(resumed.network.variables, whole.network.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@needs_bfloat16
def test_an_older_checkpoint_continues_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(stop_at=3)
    _fit(recorder, precision="mixed")
    old = recorder.checkpoints[-1]
    del old.meta["precision"]
    processor = Processor(monkeypatch, float32=1.0, bfloat16=7.0)
    assert _fit(Recorder(), precision="auto", resume=old).precision == PrecisionChoice("mixed")
    assert processor.asked == []


@pytest.mark.parametrize("forced", [pytest.param("mixed", marks=needs_bfloat16), "float32"])
def test_a_given_precision_is_not_measured(forced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Processor(monkeypatch, float32=1.0, bfloat16=0.5)
    recorder = Recorder()
    assert _fit(recorder, precision=forced).precision == PrecisionChoice(forced)
    assert processor.asked == recorder.messages == []
