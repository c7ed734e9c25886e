"""Lower bounds of latency from the memory bandwidth and arithmetic of this machine."""

import time

import numpy as np

from benchmarks.networks import COMPLETED, Weights


def floor_ms(weights: Weights) -> dict[str, float]:
    """Return the minimal time of COMPLETED characters of one text on one core, with its components.

    Each step reads every weight but the embedding's once and does a multiplication and an addition with it.
    The bandwidth is that of copying as many bytes as the weights are, so of the cache that holds them; the
    arithmetic rate is that of a large float32 matrix product.
    """
    used = [w for name, w in weights.items() if name != "embedding"]
    size = sum(w.nbytes for w in used)
    reading_s = size / _copy_bytes_per_s(size)
    computing_s = 2 * sum(w.size for w in used) / _sgemm_flops_per_s()
    return {
        "weight_bytes": size,
        "reading_ms": 1e3 * COMPLETED * reading_s,
        "computing_ms": 1e3 * COMPLETED * computing_s,
        "floor_ms": 1e3 * COMPLETED * max(reading_s, computing_s),
    }


def _copy_bytes_per_s(size: int) -> float:
    source, target = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)
    took_s = _min_duration_s(lambda: np.copyto(target, source), times=200)
    return 2 * size / took_s  # read and write


def _sgemm_flops_per_s() -> float:
    a = np.ones((768, 768), np.float32)
    out = np.empty_like(a)
    return 2 * 768**3 / _min_duration_s(lambda: np.matmul(a, a, out), times=20)


def _min_duration_s(call: object, *, times: int) -> float:
    assert callable(call)
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best
