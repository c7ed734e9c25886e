"""Our training step, called as the worker calls it: rows split over the cores."""

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.steps import CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, timed, windows
from models.architectures.stateful_lstm import StatefulLSTM
from models.config import NetworkConfig, TrainingConfig
from worker.replicas import ReplicatedStep


def prepare(
    *, layers: int, units: int, embedding: int, vocabulary: int, rows: int, window: int
) -> Callable[[float], dict[str, Any]]:
    """Return the Turn."""
    config = NetworkConfig(layers=layers, units=units, embedding=embedding)
    training = TrainingConfig(
        rows=rows,
        window=window,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP_NORM,
    )
    network = StatefulLSTM(config, np.full(vocabulary, 1 / vocabulary), seed=0)
    replicated = ReplicatedStep(network, training, rows=rows, cores=len(os.sched_getaffinity(0)))
    stream = windows(rows=rows, window=window, vocabulary=vocabulary)
    number = itertools.count(1)

    def step() -> float:
        return replicated.run(*next(stream), step=next(number), learning_rate=LEARNING_RATE)

    return timed(step)
