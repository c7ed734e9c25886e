"""Compiled loops: recurrent steps for training and inference, and how they are compiled and cached."""

import contextlib

from nextchar.models.kernels.instruction_sets import UnknownInstructionSetError, limit_target

with contextlib.suppress(
    UnknownInstructionSetError
):  # `nextchar.store.settings` stops the start, with a message
    limit_target()
