"""The step for GPUs against the one for CPUs, on two logical CPUs in another process (`two_devices.py`)."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from nextchar.models.architectures import NAMES, architecture

ROOT = Path(__file__).parents[2]

Found = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What the other process found: `run/array` by run."""
    return _found(tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def found_long(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The same of what takes long: a minute of processor time."""
    return _found(tmp_path_factory.mktemp("devices"), "long")


def _found(folder: Path, *arguments: str) -> Found:
    path = folder / "found.npz"
    command = [sys.executable, "-W", "error", "-m", "tests.worker.two_devices", str(path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(path) as arrays:
        return dict(arrays)


def _arrays(found: Found, run: str) -> Found:
    """Return the losses of a run, and the weights, optimizer and states it ended with."""
    return {
        name.removeprefix(f"{run}/"): array for name, array in found.items() if name.startswith(f"{run}/")
    }


def _assert_equal(found: Found, run: str, other: str, *, atol: float, rtol: float = 0) -> None:
    ours, theirs = _arrays(found, run), _arrays(found, other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        tolerance = atol + rtol * np.abs(array).max(initial=0)
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=tolerance, err_msg=name)


# Four windows with decay and clipping; some rows begin anew at the third, one has soft targets.
def test_two_devices_train_as_two_cores_do(found: Found) -> None:
    _assert_equal(found, "eager", "cpu", atol=1e-4)


@pytest.mark.long
def test_two_devices_train_as_two_cores_do_if_compiled(found_long: Found) -> None:
    _assert_equal(found_long, "compiled", "cpu", atol=1e-4)


@pytest.mark.long
def test_one_device_trains_as_one_core_does(found_long: Found) -> None:
    _assert_equal(found_long, "one_device", "cpu_one_core", atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("run", ["mixed", "dropped"])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(run: str, found_long: Found) -> None:
    _assert_equal(found_long, f"{run}_resumed", run, atol=0)


@pytest.mark.long
@pytest.mark.parametrize("run", ["cpu_then_devices", "devices_then_cpu"])
def test_a_job_can_move_between_cores_and_devices(run: str, found_long: Found) -> None:
    _assert_equal(found_long, run, "cpu", atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("run", ["coupled", "cpu_then_devices_coupled"])
def test_coupled_gates_train_on_devices_as_on_cores_and_stay_coupled(run: str, found_long: Found) -> None:
    _assert_equal(found_long, run, "cpu_coupled", atol=1e-4)
    coupled = [array for name, array in _arrays(found_long, run).items() if array.shape[-1:] == (24,)]
    weights = [array for array in coupled if (array < 0).any()]  # and momentum; the rest are squares
    assert len(weights) == 2 * len(coupled) / 3 and len(coupled) == 3 * 6
    for array in weights:
        np.testing.assert_allclose(array[..., :6], -array[..., 6:12], atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    "run", ["preconditioned", "cpu_then_devices_preconditioned", "devices_then_cpu_preconditioned"]
)
def test_gradients_are_preconditioned_on_devices_as_on_cores(run: str, found_long: Found) -> None:
    _assert_equal(found_long, run, "cpu_preconditioned", atol=1e-4, rtol=1e-3)
    assert (found_long[f"{run}/losses"] != found_long["cpu_coupled/losses"]).any()


@pytest.mark.long
def test_moments_of_recurrent_weights_begin_anew_when_they_are_preconditioned(found_long: Found) -> None:
    _assert_equal(found_long, "anew_after_others", "anew", atol=0)


@pytest.mark.long
def test_mixed_precision_trains_as_float32_does_to_three_digits(found_long: Found) -> None:
    _assert_mixed(found_long, "cpu_then_mixed")


@pytest.mark.long
def test_mixed_precision_from_the_start_trains_as_float32_does(found_long: Found) -> None:
    _assert_mixed(found_long, "mixed")


def _assert_mixed(found: Found, run: str) -> None:
    losses = found[f"{run}/losses"]
    assert (losses != found["cpu/losses"]).any()
    np.testing.assert_allclose(losses, found["cpu/losses"], atol=1e-3)
    weights = [array for name, array in _arrays(found, run).items() if name.startswith("weight/")]
    assert {array.dtype for array in weights} == {np.dtype("float32")}


def test_an_overflow_changes_no_weight_and_halves_the_loss_scale(found: Found) -> None:
    assert found["overflown/changed"] == 0
    assert np.isfinite(found["overflown/losses"]).all()
    np.testing.assert_array_equal(found["overflown/loss_scale"], [2.0**39, 0])


def test_an_overflow_leaves_states_that_are_finite(found: Found) -> None:
    assert found["overflown/states_are_finite"]


def test_the_loss_scale_doubles_after_two_thousand_good_steps_and_is_never_below_one(found: Found) -> None:
    assert found["loss_scale/after_1999_good"].tolist() == [8, 1999]
    assert found["loss_scale/after_2000_good"].tolist() == [16, 0]
    assert found["loss_scale/after_5_bad"].tolist() == [1, 0]


@pytest.mark.long
def test_a_run_on_devices_learns_and_its_saved_forms_agree(found_long: Found) -> None:
    curve = found_long["fitted/curve"]
    assert curve[-1] < curve[0] - 2
    np.testing.assert_allclose(found_long["fitted/served"], found_long["fitted/saved"], atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [name for name in NAMES if not architecture(name).step and name != "stateful_lstm"]
)
def test_every_architecture_trains_on_devices_as_on_cores(name: str, found_long: Found) -> None:
    cores, devices = found_long[f"architectures/{name}"]
    np.testing.assert_allclose(devices, cores, atol=1e-4)
