"""Loads what a training job needs, before a process is forked for it (`warm_worker.py`)."""

import worker.main
import worker.tasks
from models.architectures.lazy import keras
from models.kernels.compile_cache import SERVING, TRAINING, compile_kernels

assert keras.Model  # TensorFlow is loaded at its first use
assert worker.main and worker.tasks
compile_kernels(*TRAINING, *SERVING)  # or loads them
