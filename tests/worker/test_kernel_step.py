"""The optimizer step on the kernels: rows over threads, AdamW, dropout, states and checkpoints.

`test_distributed.py` compares it with the step for GPUs.
"""

from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.worker.kernel_step import KernelStep
from nextchar.worker.preconditioner import START
from nextchar.worker.schedule import BETA_1, BETA_2, EPSILON

B, T, V, STEPS = 6, 5, 7, 16
IDS = np.random.default_rng(3).integers(1, V, (STEPS, T + 1, B)).astype(np.int32)


def step(
    *, cores: int = 2, dropout: float = 0.3, dtype: str = "bfloat16", seed: int = 1, as_presets: bool = False
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


def plain_step(*, units: int = 6, coupled_gates: bool = False, **recipe: Any) -> KernelStep:
    """A step without dropout, in float32, by one thread; all ids are frequent, id 0 too."""
    config = NetworkConfig(layers=2, units=units, embedding=3, dropout=0.0, coupled_gates=coupled_gates)
    training = TrainingConfig(rows=B, window=T, **{"weight_decay": 0.0, "preconditioning": False} | recipe)
    return KernelStep(
        KernelLSTM(config, np.full(V, 1 / V), seed=2), training, rows=B, cores=1, dtype="float32"
    )


def weights_of(trained: KernelStep) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in trained.network.arrays.arrays.items()}


def moments_of(trained: KernelStep) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return both moments of each weight, as a checkpoint has them."""
    arrays = trained.arrays()
    return {
        name: (arrays[f"optimizer/{2 + 2 * i}"], arrays[f"optimizer/{3 + 2 * i}"])
        for i, name in enumerate(trained.network.arrays.arrays)
    }


WITH_UNKNOWN = np.random.default_rng(4).integers(0, V, (STEPS, T + 1, B)).astype(np.int32)


def run(trained: KernelStep, number: int, *, learning_rate: float = 1e-2) -> float:
    ids = WITH_UNKNOWN[number % STEPS]
    return trained.run(ids[:-1], ids[1:], step=number + 1, learning_rate=learning_rate)


def test_each_step_is_one_of_adam_with_its_bias_corrected() -> None:
    trained = plain_step()
    for number in range(4):
        before, rate = weights_of(trained), 1e-2 / (number + 1)
        run(trained, number, learning_rate=rate)
        t = number + 1
        for name, (m, v) in moments_of(trained).items():
            corrected = rate * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)  # as in Keras
            expected = before[name] - corrected * m / (np.sqrt(v) + EPSILON)
            np.testing.assert_allclose(weights_of(trained)[name], expected, rtol=1e-4, atol=2e-6)
            assert (v >= 0).all() and m.any(), name
        arrays = trained.arrays()
        assert arrays["optimizer/0"] == t and arrays["optimizer/1"] == np.float32(rate)


def test_before_the_first_step_nothing_has_moved() -> None:
    trained = plain_step(learning_rate=3e-3)
    arrays = trained.arrays()
    assert arrays["optimizer/0"] == 0 and arrays["optimizer/1"] == np.float32(3e-3)
    names = [name for name in arrays if name.startswith(("optimizer", "state"))]
    assert len(names) == 2 + 2 * len(trained.network.variables) + 4
    assert not any(arrays[name].any() for name in names[2:])


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3])
def test_a_gradient_longer_than_the_limit_is_clipped_to_it(clip_norm: float) -> None:
    trained = plain_step(clip_norm=clip_norm)
    run(trained, 0)
    gradients = [m / (1 - BETA_1) for m, _ in moments_of(trained).values()]
    norm = float(np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients)))
    if clip_norm < 1:
        assert norm == pytest.approx(clip_norm, rel=1e-3)
    else:
        assert 0.01 < norm < 10
        exact = plain_step(clip_norm=1.0)
        run(exact, 0)
        if norm < 1:
            np.testing.assert_allclose(moments_of(exact)["dense/kernel"][0] / (1 - BETA_1), gradients[-2])


def test_only_matrices_lose_weight_by_the_decay() -> None:
    decayed, plain = plain_step(weight_decay=0.5), plain_step(weight_decay=0.0)
    before = weights_of(plain)
    for trained in (decayed, plain):
        run(trained, 0, learning_rate=0.1)
    for name, array in weights_of(plain).items():
        lost = array - weights_of(decayed)[name]
        is_matrix = name.endswith(("kernel", "recurrent"))
        np.testing.assert_allclose(lost, 0.1 * 0.5 * before[name] if is_matrix else 0, atol=1e-6)


def test_the_moments_of_recurrent_weights_begin_anew_when_they_are_preconditioned() -> None:
    trained = plain_step(preconditioning=True)
    for number in range(START + 1):
        run(trained, number)
        for name, (m, v) in moments_of(trained).items():
            is_first = np.allclose(v / (1 - BETA_2), (m / (1 - BETA_1)) ** 2, rtol=1e-3, atol=1e-12)
            begins = number == 0 or (number + 1 == START and name.endswith("recurrent"))
            assert is_first == begins, (number, name)


@pytest.mark.parametrize("preconditioning", [False, True])
def test_only_recurrent_weights_have_a_preconditioner(preconditioning: bool) -> None:
    names = [name for name in plain_step(preconditioning=preconditioning).arrays() if "precondition" in name]
    assert bool(names) == preconditioning
    sizes = {array.shape for name, array in plain_step(preconditioning=True).arrays().items()
             if "precondition" in name}  # fmt: skip
    assert sizes == {(6, 6)}


def test_squared_gradients_of_coupled_gates_keep_their_sign_in_a_checkpoint() -> None:
    trained = plain_step(coupled_gates=True)
    run(trained, 0)
    for name, (m, v) in moments_of(trained).items():
        assert (v >= 0).all(), name
        np.testing.assert_allclose(v / (1 - BETA_2), (m / (1 - BETA_1)) ** 2, rtol=1e-3, atol=1e-12)


def test_windows_may_have_any_length_and_targets_may_be_distributions() -> None:
    by_id, by_distribution = plain_step(), plain_step()
    for steps in (1, T, 2):
        ids = WITH_UNKNOWN[0, : steps + 1]
        distributions = np.eye(V, dtype=np.float32)[ids[1:]]
        losses = [
            trained.run(ids[:-1], targets, step=1, learning_rate=1e-2)
            for trained, targets in ((by_id, ids[1:]), (by_distribution, distributions))
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] > 0
    assert losses[0] == pytest.approx(np.log(V), rel=0.3)  # it is the mean over rows and steps


def test_a_state_of_other_rows_is_rejected() -> None:
    arrays = step().arrays()
    with pytest.raises(ValueError, match="broadcast"):
        step().restore(arrays | {"state/0": np.zeros((B + 1, 6), np.float32)})
