"""How the weights of a mixture are applied, and how they adapt to what a row reads.

Compiled when first imported.
"""

import numpy as np

from nextchar.models.kernels.activations import exp
from nextchar.models.kernels.jit import compiled, inline_borrowing, inline_sums
from nextchar.models.kernels.mixture_arguments import (
    ALL_BOOSTS_PRECISION,
    ALL_SETS_PRECISION,
    BOOST_PRECISION,
    BY_CONTEXT,
    CURVATURES,
    GROUPS,
    HISTORY_MATCH_BOOSTS,
    HISTORY_MATCH_BUCKET,
    HISTORY_MATCH_ID,
    MATCH_BOOSTS,
    MATCH_BUCKET,
    MATCH_ID,
    PREDICTIONS,
    RESUMED_BOOSTS,
    RESUMED_BUCKET,
    RESUMED_ID,
    SET_PRECISION,
    SHIFTS,
    WEIGHTS,
)

ADAPTS = True
_MAX_STEP = 0.1  # of a weight by context, for one character
_MAX_SHIFT = 8.0
_MAX_PRECISION = 20  # times the first; so the weights never stop adapting


@inline_borrowing
def write_indices(context, features, indices):  # type: ignore[no-untyped-def]
    """Write which weights count in a prediction, one of each group, into indices (GROUPS,)."""
    indices[0] = BY_CONTEXT + 2 * context
    indices[1] = indices[0] + 1
    indices[2] = MATCH_BOOSTS + features[MATCH_BUCKET]
    indices[3] = HISTORY_MATCH_BOOSTS + features[HISTORY_MATCH_BUCKET]
    indices[4] = RESUMED_BOOSTS + features[RESUMED_BUCKET]


@inline_borrowing
def write_weights(weights, numbers, adapts, indices, now):  # type: ignore[no-untyped-def]
    """Write the weights that count in a prediction into now (GROUPS,).

    `numbers` is the row's state, float32, of which nothing is read unless the weights adapt. Adapted ones of
    network and n-grams are never negative.
    """
    for k in range(GROUPS):
        now[k] = weights[indices[k]]
    if adapts:
        for k in range(GROUPS):
            now[k] += numbers[SHIFTS + indices[k]] + numbers[SHIFTS + WEIGHTS + k]
        for k in range(2):
            now[k] = max(now[k], np.float32(0))


@inline_borrowing
def apply_weights(now, features, ngrams, logits):  # type: ignore[no-untyped-def]
    """Replace the network's logits (V,) by those of the mixture with weights `now` (GROUPS,)."""
    network_weight, ngram_weight = now[0], now[1]
    for c in range(len(logits)):
        logits[c] = network_weight * logits[c] + ngram_weight * ngrams[c]
    if features[MATCH_ID] > 0:
        logits[features[MATCH_ID]] += now[2]
    if features[HISTORY_MATCH_ID] > 0:
        logits[features[HISTORY_MATCH_ID]] += now[3]
    if features[RESUMED_ID] > 0:
        logits[features[RESUMED_ID]] += now[4]


@inline_borrowing
def _move(numbers, at, precision, slope, curvature, max_step):  # type: ignore[no-untyped-def]
    """Move a weight against the slope of the surprisal, by the inverse of its curvature so far."""
    limit = np.float32(_MAX_PRECISION - 1) * precision
    so_far = min(numbers[CURVATURES + at] + curvature, limit)
    step = min(max(slope / (precision + so_far), -max_step), max_step)
    shift = numbers[SHIFTS + at] - step
    numbers[CURVATURES + at] = so_far
    numbers[SHIFTS + at] = min(max(shift, np.float32(-_MAX_SHIFT)), np.float32(_MAX_SHIFT))


@inline_borrowing
def _ordered(bits):  # type: ignore[no-untyped-def]
    """Return the bits of a float32 as an int32 that is ordered as they are, and from that the bits."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@inline_borrowing
def _max_of(logits):  # type: ignore[no-untyped-def]
    """Return the maximum of logits; as integers, whose maximum the compiler vectorizes."""
    best = _ordered(np.float32(logits[0]).view(np.int32))
    for i in range(len(logits)):
        best = max(best, _ordered(np.float32(logits[i]).view(np.int32)))
    return np.int32(_ordered(best)).view(np.float32)


@inline_sums
def _sums(logits, best, network, ngrams, of_network, of_ngrams):  # type: ignore[no-untyped-def]
    """Return the sum of e**(logits - best), and of its products with what two experts predict.

    With the difference between that and `of_network` or `of_ngrams`, and with the square of the difference.
    """
    total, zero = np.float32(0), np.float32(0)
    by_network, by_network_2, by_ngrams, by_ngrams_2 = zero, zero, zero, zero
    for i in range(len(logits)):
        p = exp(logits[i] - best)
        from_network, from_ngrams = network[i] - of_network, ngrams[i] - of_ngrams
        total += p
        by_network += p * from_network
        by_network_2 += p * from_network * from_network
        by_ngrams += p * from_ngrams
        by_ngrams_2 += p * from_ngrams * from_ngrams
    return total, by_network, by_network_2, by_ngrams, by_ngrams_2


@inline_borrowing
def _slope_and_curvature(total, sum_1, sum_2):  # type: ignore[no-untyped-def]
    """Return the first and second derivative of the surprisal by the weight of an expert; see `_sums`."""
    mean = sum_1 / total
    return mean, max(np.float32(0), sum_2 / total - mean * mean)


@compiled(
    "void(float32[::1], float32[::1], int32[::1], int64, int32[::1], float32[::1], float32[:,::1],"
    "float32[::1], int64)",
    is_internal=True,
    is_borrowing=True,
)
def adapt(weights, adaptation, indices, size, features, numbers, scratch, now, c):  # type: ignore[no-untyped-def]
    """Adapt the weights of a row to id c, which was read after its last prediction.

    A step of Newton's method for each weight by itself, where the second derivative is the sum over all that
    was read, beginning with a precision: that of a prior around the learned weight, as in an extended Kalman
    filter whose covariance is diagonal. So weights that are seldom used move further.

    `weights` and `adaptation` are fields of `Experts`, `indices` (GROUPS,) says which weights counted in the
    prediction, `features` (FEATURES,) are what it was made from, `size` is V. Of `numbers`, the row's state
    as float32, SHIFTS and CURVATURES are changed. `scratch` (1, V), or larger, and `now` (GROUPS,) are
    workspace. Id c is known.
    """
    z = numbers[PREDICTIONS : PREDICTIONS + size]
    ngrams = numbers[PREDICTIONS + size : PREDICTIONS + 2 * size]
    p = scratch[0]
    for i in range(size):
        p[i] = z[i]
    write_weights(weights, numbers, ADAPTS, indices, now)
    apply_weights(now, features, ngrams, p)
    best = _max_of(p[1:])  # from here on only known ids count
    total, by_network, by_network_2, by_ngrams, by_ngrams_2 = _sums(
        p[1:], best, z[1:], ngrams[1:], z[c], ngrams[c]
    )
    own, of_all, max_step = adaptation[SET_PRECISION], adaptation[ALL_SETS_PRECISION], np.float32(_MAX_STEP)
    for k in range(2):
        sum_1, sum_2 = (by_network, by_network_2) if k == 0 else (by_ngrams, by_ngrams_2)
        slope, curvature = _slope_and_curvature(total, sum_1, sum_2)
        _move(numbers, indices[k], own, slope, curvature, max_step)
        _move(numbers, WEIGHTS + k, of_all, slope, curvature, max_step)
    own, of_all = adaptation[BOOST_PRECISION], adaptation[ALL_BOOSTS_PRECISION]
    for k in range(2, GROUPS):
        predicted = features[MATCH_ID + 2 * (k - 2)]
        if predicted > 0:
            hit = exp(p[predicted] - best) / total
            slope = hit - (np.float32(1) if predicted == c else np.float32(0))
            curvature = hit * (np.float32(1) - hit)
            _move(numbers, indices[k], own, slope, curvature, np.float32(_MAX_SHIFT))
            _move(numbers, WEIGHTS + k, of_all, slope, curvature, np.float32(_MAX_SHIFT))
