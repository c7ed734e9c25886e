"""The optimizer step on the kernels: rows over threads, AdamW, dropout, states and checkpoints.

`test_distributed.py` compares it with the step for GPUs.
"""

import numpy as np
import pytest

from models.architectures.kernel_lstm import KernelLSTM
from models.config import NetworkConfig, TrainingConfig
from worker.kernel_step import KernelStep

B, T, V, STEPS = 6, 5, 7, 16
IDS = np.random.default_rng(3).integers(1, V, (STEPS, T + 1, B)).astype(np.int32)


def step(
    *,
    cores: int = 2,
    dropout: float = 0.3,
    dtype: str = "bfloat16",
    seed: int = 1,
    as_presets: bool = False,
) -> KernelStep:
    config = NetworkConfig(layers=2, units=6, embedding=3, dropout=dropout, coupled_gates=as_presets)
    training = TrainingConfig(
        rows=B, window=T, learning_rate=1e-2, weight_decay=0.2, seed=seed, preconditioning=as_presets
    )
    network = KernelLSTM(config, np.full(V, 1 / V), seed=2)
    return KernelStep(network, training, rows=B, cores=cores, dtype=dtype)


def train(trained: KernelStep, numbers: range = range(STEPS)) -> list[float]:
    return [trained.run(IDS[i, :-1], IDS[i, 1:], step=i + 1, learning_rate=1e-2 / (i + 1)) for i in numbers]


@pytest.mark.parametrize("as_presets", [False, True])
@pytest.mark.parametrize("resumed_at", [3, 13])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(as_presets: bool, resumed_at: int) -> None:
    whole, before, after = (step(as_presets=as_presets) for _ in range(3))
    losses = train(whole)
    begun = train(before, range(resumed_at))
    after.restore(before.arrays())
    assert begun + train(after, range(resumed_at, STEPS)) == losses
    np.testing.assert_equal(after.arrays(), whole.arrays())


def test_saved_arrays_do_not_change_when_training_goes_on() -> None:
    trained = step()
    train(trained, range(1))
    saved = trained.arrays()
    copies = {name: array.copy() for name, array in saved.items()}
    train(trained, range(1, 3))
    np.testing.assert_equal(saved, copies)


@pytest.mark.parametrize("as_presets", [False, True])
@pytest.mark.parametrize(("cores", "replicas"), [(1, 1), (2, 2), (4, 3)])
def test_without_dropout_threads_change_only_rounding(cores: int, replicas: int, as_presets: bool) -> None:
    one, several = (
        step(cores=number, dropout=0, dtype="float32", as_presets=as_presets) for number in (1, cores)
    )
    assert several.replicas == replicas
    np.testing.assert_allclose(train(several), train(one), atol=1e-5)
    for name, array in one.arrays().items():
        tolerance = 1e-4 + 1e-3 * np.abs(array).max(initial=0) if "preconditioner" in name else 1e-4
        np.testing.assert_allclose(several.arrays()[name], array, rtol=0, atol=tolerance, err_msg=name)


def test_dropout_masks_are_of_rows_and_differ_by_step_thread_and_seed() -> None:
    trained = step(dropout=0.5)
    masks = trained._masks(1, 0)
    assert masks is not None
    assert [mask.shape for mask in masks] == [(B // 2, 6)] * 3  # two layers, and a hidden one
    assert set(np.unique(masks)) == {0.0, 2.0}
    np.testing.assert_equal(trained._masks(1, 0), masks)
    for other in (trained._masks(2, 0), trained._masks(1, 1), step(dropout=0.5, seed=2)._masks(1, 0)):
        assert (np.array(other) != np.array(masks)).any()
    trained.network.dropout = 0
    assert trained._masks(1, 0) is None


def test_states_are_carried_over_and_reset_by_row() -> None:
    trained = step()
    train(trained, range(1))
    carried = trained.arrays()
    trained.reset_states(slice(1, 5))
    for name, array in trained.arrays().items():
        if name.startswith("state/"):
            assert (array[1:5] == 0).all()
            assert (array[[0, 5]] == carried[name][[0, 5]]).all()
            assert (array[[0, 5]] != 0).any()
    trained.reset_states()
    assert all((array == 0).all() for name, array in trained.arrays().items() if name.startswith("state/"))


def test_a_checkpoint_of_another_shape_is_rejected() -> None:
    arrays = step().arrays()
    with pytest.raises(KeyError):
        step().restore({name: array for name, array in arrays.items() if name != "state/3"})
    with pytest.raises(ValueError, match="broadcast"):
        step().restore(arrays | {"weight/0": np.zeros((2, 2), "f")})


def test_it_learns_a_repeated_line() -> None:
    line = np.tile(np.arange(1, V, dtype=np.int32), 20)
    ids = np.stack([line[i : i + T + 1] for i in range(B)], axis=1)
    trained = step(dropout=0, dtype="float32")
    losses = [trained.run(ids[:-1], ids[1:], step=i, learning_rate=1e-2) for i in range(1, 201)]
    assert losses[0] > 1.5
    assert losses[-1] < 0.2
