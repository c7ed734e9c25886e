"""Our training step, called as the worker calls it: rows split over the cores, or over GPUs."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.steps import CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, timed, windows
from models.config import NetworkConfig, TrainingConfig
from models.machine import available_cores
from worker.devices import gpus, network_and_step
from worker.settings import Precision


def prepare(
    *,
    layers: int,
    units: int,
    embedding: int,
    vocabulary: int,
    rows: int,
    window: int,
    gpu: bool = False,
    precision: Precision = "mixed",
) -> Callable[[float], dict[str, Any]]:
    """Return the Turn. Raises RuntimeError when it is to be on a GPU and there is none."""
    if gpu and not gpus():
        raise RuntimeError("TensorFlow sees no GPU")
    config = NetworkConfig(layers=layers, units=units, embedding=embedding)
    training = TrainingConfig(
        rows=rows,
        window=window,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP_NORM,
    )
    _, trainer = network_and_step(
        config,
        training,
        np.full(vocabulary, 1 / vocabulary),
        seed=0,
        rows=rows,
        cores=available_cores(),
        precision=precision,
    )
    stream = windows(rows=rows, window=window, vocabulary=vocabulary)
    number = itertools.count(1)

    def step() -> float:
        return trainer.run(*next(stream), step=next(number), learning_rate=LEARNING_RATE)

    return timed(step)
