"""The page of NumPy that trains, compared with training by the kernels."""

from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.worker import reference
from nextchar.worker.checkpoints import Checkpoint
from nextchar.worker.hooks import Hooks
from nextchar.worker.kernel_step import KernelStep
from nextchar.worker.prepared_text import Text
from nextchar.worker.training import fit

B, T, E, H, EPOCHS = 2, 3, 4, 5, 5
TEXT = Text.split("the cat sat on the mat; the dog sat on the log. " * 5, validation_fraction=0.1)


@pytest.mark.parametrize("clip_norm", [0.1, 100.0])
def test_each_loss_of_a_run_equals_that_of_the_kernels(
    monkeypatch: pytest.MonkeyPatch, clip_norm: float
) -> None:
    config = NetworkConfig(units=H, embedding=E, dropout=0.0, coupled_gates=True)
    training = TrainingConfig(rows=B, window=T, clip_norm=clip_norm, budget=Budget(epochs=EPOCHS), seed=3)
    losses: list[float] = []
    checkpoints: list[Checkpoint] = []
    run = KernelStep.run

    def recorded(*arguments: Any, **options: Any) -> float:
        losses.append(run(*arguments, **options))
        return losses[-1]

    monkeypatch.setattr(KernelStep, "run", recorded)
    fit(config, training, TEXT, precision="float32", hooks=Hooks(checkpoint=checkpoints.append))
    network = KernelLSTM(config, TEXT.frequencies(), seed=training.seed)
    weights = {name: array.astype(float) for name, array in network.arrays.arrays.items()}
    expected = reference.train(
        weights,
        TEXT.train[:],
        rows=B,
        window=T,
        epochs=EPOCHS,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        clip_norm=clip_norm,
    )
    assert len(losses) == len(expected) > 100 and expected[-1] < 0.8 * expected[0]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    for i, (name, array) in enumerate(weights.items()):
        stored = network.keras_variable(name, array.astype(np.float32)).numpy()
        np.testing.assert_allclose(checkpoints[-1].arrays[f"weight/{i}"], stored, atol=1e-5, err_msg=name)
