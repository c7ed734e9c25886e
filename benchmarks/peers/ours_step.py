"""Our training step, called as the worker calls it: rows split over the cores, or over GPUs."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.steps import CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, timed, windows
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.machine import available_cores
from nextchar.worker.devices import gpus, network_and_step
from nextchar.worker.precision import choose_precision
from nextchar.worker.rows import replicas_of
from nextchar.worker.settings import Precision


def prepare(
    *,
    layers: int,
    units: int,
    embedding: int,
    vocabulary: int,
    rows: int,
    window: int,
    gpu: bool = False,
    precision: Precision | None = None,
) -> Callable[[float], dict[str, Any]]:
    """Return the Turn. Without a precision it is the one that a job would choose here.

    Raises:
        RuntimeError: it is to be on a GPU, or in bfloat16, and there is none.
    """
    if gpu and not gpus():
        raise RuntimeError("TensorFlow sees no GPU")
    config = NetworkConfig(layers=layers, units=units, embedding=embedding)
    if not gpu:
        choice = choose_precision(
            config,
            rows=rows // replicas_of(rows, max_replicas=available_cores()),
            window=window,
            vocabulary_size=vocabulary,
            folder=None,
        )
        if precision == "mixed" and choice.bfloat16_speedup is None:
            raise RuntimeError("this processor has no bfloat16 products")
        precision = precision or choice.precision
    training = TrainingConfig(
        rows=rows, window=window, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM
    )
    _, trainer = network_and_step(
        config,
        training,
        np.full(vocabulary, 1 / vocabulary),
        seed=0,
        rows=rows,
        cores=available_cores(),
        precision=precision or "mixed",  # on a GPU a job measures nothing
    )
    stream = windows(rows=rows, window=window, vocabulary=vocabulary)
    number = itertools.count(1)

    def step() -> float:
        return trainer.run(*next(stream), step=next(number), learning_rate=LEARNING_RATE)

    return timed(step)
