"""Benchmarks of nextchar and its peers, each with a table and a JSON line; and what trains base models."""

import sys

# torch's compiler, not used here: with TensorFlow in the same process it aborts (two copies of LLVM).
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
