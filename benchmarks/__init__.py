"""Measurements of nextchar beside its peers; each module prints one table and one JSON line."""

import sys

# What torch compiles with, not used here: loaded beside TensorFlow it aborts the process (two LLVMs in one).
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
