"""Loads what a training job needs, before a process is forked for it (`warm_worker.py`)."""

from models.architectures.lazy import keras

assert keras.Model  # TensorFlow is loaded at its first use
