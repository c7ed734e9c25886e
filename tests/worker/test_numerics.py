"""What decides the last bits of a run is kept, and a resume that changes it says so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.kernels.selection import FLOAT32_KERNEL
from nextchar.worker import precision as numerics
from nextchar.worker.precision import Numerics
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit
from tests.worker.test_precision import TEXT
from tests.worker.test_training import Recorder

KERNEL_HERE = numerics._kernel
NETWORK = NetworkConfig(units=6, embedding=5, dropout=0.0)
HERE = Numerics("float32", "avx2", 2, None, "0.2.0")


def _fit(recorder: Recorder, network: NetworkConfig = NETWORK, **options: Any) -> Result:
    training = TrainingConfig(rows=4, window=10, budget=Budget(steps=20))
    given = {"precision": "float32", "cores": 2, "hooks": recorder.hooks} | options
    return fit(network, training, TEXT, **given)


def _stopped(*, stop_at: int, **options: Any) -> Any:
    """Return the last checkpoint of a run that was stopped."""
    recorder = Recorder(stop_at=stop_at)
    _fit(recorder, **options)
    return recorder.checkpoints[-1]


@pytest.fixture
def _other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with a kernel of another name, until KERNEL_HERE is set again."""
    monkeypatch.setattr(numerics, "_kernel", lambda _: ("float32", "other"))


@pytest.mark.usefixtures("_other_kernel")
def test_a_run_that_is_resumed_on_another_processor_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = _stopped(stop_at=7)
    monkeypatch.setattr(numerics, "_kernel", KERNEL_HERE)
    recorder = Recorder()
    result = _fit(recorder, resume=checkpoint)
    (sentence,) = recorder.messages
    assert sentence == (
        f"the run continues with other kernels (from float32 other to float32 {FLOAT32_KERNEL.name}), so its"
        " result can differ in the last bits from that of an uninterrupted run"
    )
    assert (result.stopped, result.steps) == (None, 20)
    assert [(one.variant, one.from_step) for one in result.numerics] == [
        ("other", 0),
        (FLOAT32_KERNEL.name, 7),
    ]
    again = Recorder()
    _fit(again, resume=recorder.checkpoints[0])  # the next one has both
    assert again.messages == []


def test_a_run_that_is_resumed_on_the_same_processor_says_nothing_and_has_the_same_bits() -> None:
    recorder = Recorder()
    resumed = _fit(recorder, resume=_stopped(stop_at=7))
    assert recorder.messages == []
    whole = _fit(Recorder())
    assert resumed.numerics == whole.numerics and len(whole.numerics) == 1
    for ours, theirs in zip(resumed.network.variables, whole.network.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.usefixtures("_other_kernel")
def test_checkpoints_of_older_versions_continue_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = _stopped(stop_at=7)
    del checkpoint.meta["numerics"]
    monkeypatch.setattr(numerics, "_kernel", KERNEL_HERE)
    recorder = Recorder()
    result = _fit(recorder, resume=checkpoint)
    assert recorder.messages == []
    assert [one.from_step for one in result.numerics] == [7]


def test_from_kernels_to_a_gpu_dropout_changes() -> None:
    here = replace(HERE, variant="NVIDIA H100", tensorflow="2.22.0")
    sentence = here.sentence_after(HERE, has_dropout=True)
    assert "(from float32 avx2 to float32 NVIDIA H100), so" in sentence
    assert sentence.endswith("dropout masks differ, too")
