"""Loads what a training job needs, before a process is forked for it (`warm_worker.py`)."""

import matplotlib.backends.backend_svg
import matplotlib.figure
import tensorboardX

import worker.main
import worker.pipeline
import worker.tasks
from models.kernels.compile_cache import SERVING, TRAINING, compile_kernels

assert matplotlib and tensorboardX and worker
compile_kernels(*TRAINING, *SERVING)  # or loads them
