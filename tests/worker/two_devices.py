"""Trains small networks on two logical CPUs, in a process of its own, and writes down what came out.

How many devices there are is fixed when TensorFlow starts, so the tests cannot do this in their own process.

    python -m tests.worker.two_devices RESULT.npz [long]
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

import nextchar.worker.devices
import nextchar.worker.preconditioner
from nextchar.models.architectures import NAMES, architecture
from nextchar.models.architectures.spec import Trainable, TrainingStep
from nextchar.models.architectures.stateful_lstm import StatefulLSTM
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.runtime.session import Network
from nextchar.worker.distributed import DistributedStep, LossScale, ReplicatedStep
from nextchar.worker.evaluation import graph_of
from nextchar.worker.kernel_step import KernelStep
from nextchar.worker.prepared_text import Text
from nextchar.worker.training import fit

B, T, V, STEPS = 4, 3, 7, 4
DEVICES = ["CPU:0", "CPU:1"]
# The norm of the gradients is larger: they are clipped.
TRAINING = TrainingConfig(rows=B, window=T, learning_rate=1e-2, weight_decay=0.2, clip_norm=0.05)
PRECONDITIONED = TRAINING.model_copy(update={"preconditioning": True})
RANDOM = np.random.default_rng(3)
IDS = RANDOM.integers(1, V, (STEPS, T + 1, B)).astype(np.int32)
DISTRIBUTIONS = RANDOM.dirichlet(np.ones(V), (STEPS, T, B)).astype(np.float32)
TEXT = Text.split("the cat sat on the mat; the dog sat on the log. " * 40, validation_fraction=0.1)

Make = Callable[[], TrainingStep]


def network(*, dropout: float = 0.0, coupled: bool = False) -> StatefulLSTM:
    """Return two layers."""
    config = NetworkConfig(layers=2, units=6, embedding=3, dropout=dropout, coupled_gates=coupled)
    return StatefulLSTM(config, np.full(V, 1 / V), seed=2)


def by_kernels(
    keras_network: Trainable, *, cores: int = 2, training: TrainingConfig = TRAINING
) -> KernelStep:
    """Return the step that CPUs use, for a network with these weights."""
    build = architecture(keras_network.config.architecture).build_for_kernels
    assert build
    copy = build(keras_network.config, np.full(V, 1 / V), seed=1)
    for variable, original in zip(copy.variables, keras_network.variables, strict=True):
        variable.assign(original.numpy())
    return KernelStep(copy, training, rows=B, cores=cores, dtype="float32")


def on_cpu(*, cores: int = 2, coupled: bool = False, training: TrainingConfig = TRAINING) -> KernelStep:
    """Return the step that CPUs use."""
    return by_kernels(network(coupled=coupled), cores=cores, training=training)


def distributed(
    *,
    dropout: float = 0.0,
    devices: Sequence[str] = DEVICES,
    mixed: bool = False,
    coupled: bool = False,
    training: TrainingConfig = TRAINING,
) -> DistributedStep:
    """Return the step that GPUs use."""
    build = partial(network, dropout=dropout, coupled=coupled)
    return DistributedStep(build, training, rows=B, devices=devices, mixed=mixed)


def losses(step: TrainingStep, numbers: Sequence[int] = range(STEPS)) -> list[float]:
    """Train the steps of these numbers: the third begins some rows anew, the last has soft targets."""
    found = []
    for i in numbers:
        if i == STEPS // 2:
            step.reset_states(slice(1, 3))
        targets: Any = DISTRIBUTIONS[i] if i == STEPS - 1 else IDS[i, 1:]
        found.append(step.run(IDS[i, :-1], targets, step=i + 1, learning_rate=1e-2))
    return found


def whole_and_resumed(first: Make, *others: Make) -> list[dict[str, Any]]:
    """Train all steps; and in each other step the second half, from what the first one then gave."""
    steps = [first(), *(make() for make in others)]
    half = STEPS // 2
    begun = losses(steps[0], range(half))
    arrays = {name: np.array(array) for name, array in steps[0].arrays().items()}
    for step in steps[1:]:
        step.restore(arrays)
    return [{"losses": begun + losses(step, range(half, STEPS)), **step.arrays()} for step in steps]


def whole(make: Make) -> dict[str, Any]:
    """Train all steps, without a look at them on the way."""
    step = make()
    return {"losses": losses(step), **step.arrays()}


def overflown() -> dict[str, Any]:
    """Take a step whose scaled gradients are too large for float16."""
    step = distributed(mixed=True)
    before = step.arrays()
    step._scale = LossScale(2.0**40)
    loss = losses(step, [0])
    after = step.arrays()
    changed = [
        name
        for name in before
        if name.startswith(("weight", "optimizer")) and (before[name] != after[name]).any()
    ]
    forward = distributed(mixed=True)
    losses(forward, [0])
    for variable in forward.network.variables:
        variable.assign(np.full(variable.shape, 1e30))  # infinite in float16
    losses(forward, [1])
    states = [array for name, array in forward.arrays().items() if name.startswith("state")]
    return {
        "losses": loss,
        "changed": len(changed),
        "loss_scale": after["loss_scale"],
        "states_are_finite": all(np.isfinite(state).all() for state in states),
    }


def loss_scales() -> dict[str, list[float]]:
    """Return the loss scale, and its good steps, after many good steps and then some bad ones."""
    found, scale = {}, LossScale(8.0)
    for name, steps, is_finite in (("1999_good", 1999, True), ("2000_good", 1, True), ("5_bad", 5, False)):
        for _ in range(steps):
            scale = scale.after(is_finite=is_finite)
        found[f"after_{name}"] = [scale.value, scale.good_steps]
    return found


def preconditioned() -> dict[str, Any]:
    """Train with preconditioned gradients, of all steps but the first."""
    nextchar.worker.preconditioner.START = 2
    nextchar.worker.preconditioner._FIRST_ROOTS = (2,)
    options: dict[str, Any] = {"coupled": True, "training": PRECONDITIONED}
    cores, devices = partial(on_cpu, **options), partial(distributed, **options)
    on_cores, cores_then_devices = whole_and_resumed(cores, devices)
    on_devices, devices_then_cores = whole_and_resumed(devices, cores)
    return {
        "cpu_preconditioned": on_cores,
        "preconditioned": on_devices,
        "cpu_then_devices_preconditioned": cores_then_devices,
        "devices_then_cpu_preconditioned": devices_then_cores,
    }


def begun_anew() -> dict[str, Any]:
    """Take the first preconditioned step after the moments of one, and again after other moments."""
    nextchar.worker.preconditioner.START = 2
    step = distributed(coupled=True, training=PRECONDITIONED)
    losses(step, [0])
    before = {name: np.array(array) for name, array in step.arrays().items()}
    moments = [f"optimizer/{moment + 2 * i}" for i in step._recurrent for moment in (2, 3)]
    found: dict[str, Any] = {}
    for run, added in (("anew", 0), ("anew_after_others", 1)):
        step.restore(before | {name: before[name] + added for name in moments})
        found[run] = {"losses": losses(step, [1]), **step.arrays()}
    return found


def fitted() -> dict[str, Any]:
    """Train as a job does, on the devices instead of GPUs."""
    nextchar.worker.devices.gpus = lambda: DEVICES
    config = NetworkConfig(units=16, embedding=5)
    changes = {"window": 10, "clip_norm": TrainingConfig().clip_norm, "budget": Budget(steps=80)}
    training = TRAINING.model_copy(update=changes)
    result = fit(config, training, TEXT)
    graph = Network(graph_of(result.network))
    ids = TEXT.validation[:20, None]
    ours, _ = graph.step(ids, graph.initial_state(1))
    zero = np.zeros((1, 16), "f")
    assert isinstance(result.network, StatefulLSTM)
    theirs, *_ = result.network.keras_model()([ids.T, zero, zero])
    curve = [point["validation_bits_per_character"] for point in result.curve]
    return {"curve": curve, "served": ours[:, 0], "saved": np.asarray(theirs)[0]}


def every_architecture() -> dict[str, Any]:
    """Train each network that has no step of its own for one step on both kinds of step."""
    found = {}
    for name in NAMES:
        kind = architecture(name)
        if kind.step or name == "stateful_lstm":
            continue
        shape = {"units": 6, "embedding": kind.network.embedding and 3, "dropout": 0.0}
        config = kind.network.model_copy(update=shape | ({"context": T} if kind.network.context else {}))
        build = partial(kind.build, config, np.full(V, 1 / V), seed=2)
        on_cores = (
            by_kernels(build())
            if kind.build_for_kernels
            else ReplicatedStep(build(), TRAINING, rows=B, cores=2)
        )
        steps: list[TrainingStep] = [
            on_cores,
            DistributedStep(build, TRAINING, rows=B, devices=DEVICES, mixed=False),
        ]
        found[name] = [losses(step, range(2)) for step in steps]
    return found


def everyday() -> dict[str, Any]:
    """Train the network that jobs train on devices and on cores."""
    tf.config.run_functions_eagerly(run_eagerly=True)
    whole_runs = {"cpu": whole(on_cpu), "eager": whole(distributed)}
    return whole_runs | {"overflown": overflown(), "loss_scale": loss_scales()}


def long() -> dict[str, Any]:
    """Train two runs that are compiled, which costs seconds each, and the rarer networks and optimizers."""
    dropped, mixed = partial(distributed, dropout=0.2), partial(distributed, mixed=True)
    results: dict[str, Any] = {"compiled": whole(distributed), "fitted": fitted()}
    tf.config.run_functions_eagerly(run_eagerly=True)
    coupled, coupled_on_cpu = partial(distributed, coupled=True), partial(on_cpu, coupled=True)
    for runs, made in (
        ("cpu cpu_then_devices cpu_then_mixed", whole_and_resumed(on_cpu, distributed, mixed)),
        ("eager devices_then_cpu", whole_and_resumed(distributed, on_cpu)),
        ("dropped dropped_resumed", whole_and_resumed(dropped, dropped)),
        ("mixed mixed_resumed", whole_and_resumed(mixed, mixed)),
        ("cpu_coupled cpu_then_devices_coupled", whole_and_resumed(coupled_on_cpu, coupled)),
    ):
        results |= zip(runs.split(), made, strict=True)
    return results | {
        "coupled": whole(coupled),
        "cpu_one_core": whole(partial(on_cpu, cores=1)),
        "one_device": whole(partial(distributed, devices=DEVICES[:1])),
        **preconditioned(),
        **begun_anew(),
        "architectures": every_architecture(),
    }


def main() -> None:
    """Do one of the two."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    results = long() if "long" in sys.argv else everyday()
    flat = {f"{name}/{key}": value for name, found in results.items() for key, value in found.items()}
    np.savez(sys.argv[1], **flat)


if __name__ == "__main__":
    main()
