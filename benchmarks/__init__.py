"""Benchmarks of nextchar and its peers; each program prints one table and one JSON line."""

import sys

# torch's compiler, not used here: with TensorFlow in the same process it aborts (two copies of LLVM).
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
