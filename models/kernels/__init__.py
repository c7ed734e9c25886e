"""Compiled loops: recurrent steps for training and inference, and how they are compiled and cached."""

from models.kernels.instruction_sets import limit_target

limit_target()
