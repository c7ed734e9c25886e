"""The gradients of a mixture's weights, compiled when first imported."""

import numpy as np

from nextchar.models.kernels.activations import exp, log
from nextchar.models.kernels.jit import compiled
from nextchar.models.kernels.mixture import read_character, write_features
from nextchar.models.kernels.mixture_adaptation import apply_weights, write_indices
from nextchar.models.kernels.mixture_arguments import (
    BLOCKS,
    GROUPS,
    HISTORY_CHARACTERS,
    HISTORY_IDS,
    MATCH_ID,
    MAX_RECENT,
    ORDER,
    RECENT_WEIGHT,
)
from nextchar.models.kernels.mixture_ngrams import mark_pairs, write_ngrams


@compiled(
    "void(int32[:,::1], int32[:,::1], int32[::1], int32[::1], int32[::1], int32[::1], uint16[::1],"
    "int32[:,::1])"
)
def collect_features(  # type: ignore[no-untyped-def]
    contexts, nodes, text, positions, ids, state, history, features
):
    """Write the features before each of ids (N,) into features (N, FEATURES).

    `contexts` to `positions` are fields of `Experts`. `state` (STATE_COLUMNS,) is changed in place;
    `history` is the same memory.
    """
    past = history[2 * HISTORY_IDS : 2 * HISTORY_IDS + HISTORY_CHARACTERS]
    pairs = np.empty(BLOCKS, np.uint64)
    for i in range(len(ids)):
        write_features(text, state, past, features[i])
        read_character(contexts, nodes, text, positions, state, past, pairs, ids[i])


@compiled(
    "float64(int32[:,::1], int32[:,::1], float32[:,::1], float32[::1], float32[::1], int32[:,::1],"
    "uint16[::1], int64[::1], float32[:,::1], int32[::1], float64[::1])"
)
def add_gradients(  # type: ignore[no-untyped-def]
    contexts, nodes, unigrams, weights, adaptation, features, past, chosen, logits, targets, gradients
):
    """Add the gradients of the loss at some positions; return the sum of their losses, in nats.

    `contexts` to `adaptation` are fields of `Experts`; the weights do not adapt. `features` (N, FEATURES),
    `logits` (N, V) of the network and `targets` (N,) are those of all positions. `past`, of shape
    (HISTORY_CHARACTERS + N,), has the ids before the first of them and all of them. Positions in `chosen`
    (n,) count, except unknown targets.
    """
    size = logits.shape[1]
    scratch = np.empty((3, size), np.float32)
    mixed, ngrams = np.empty(size, np.float32), scratch[2]
    recent, slots = np.zeros((ORDER, MAX_RECENT + 1), np.int32), np.zeros(size, np.int32)
    pairs = np.empty(BLOCKS, np.uint64)
    indices, now = np.empty(GROUPS, np.int32), np.empty(GROUPS, np.float32)
    loss = 0.0
    for i in chosen:
        target, known, z = targets[i], features[i], logits[i]
        if target == 0:
            continue
        read = past[i : i + HISTORY_CHARACTERS]
        mark_pairs(read, pairs)
        context = write_ngrams(
            contexts, nodes, unigrams, known, read, pairs, adaptation[RECENT_WEIGHT], ngrams, scratch, recent,
            slots,
        )  # fmt: skip
        write_indices(context, known, indices)
        for k in range(GROUPS):
            now[k] = weights[indices[k]]
        for c in range(size):
            mixed[c] = z[c]
        apply_weights(now, known, ngrams, mixed)
        best = mixed[1]
        for c in range(2, size):
            best = max(best, mixed[c])
        of_target = mixed[target]
        total = np.float32(0)
        for c in range(1, size):
            mixed[c] = exp(mixed[c] - best)
            total += mixed[c]
        loss += log(total) - (of_target - best)
        by_network, by_ngrams = -np.float64(z[target]), -np.float64(ngrams[target])
        for c in range(1, size):
            p = mixed[c] / total
            by_network += p * z[c]
            by_ngrams += p * ngrams[c]
        gradients[indices[0]] += by_network
        gradients[indices[1]] += by_ngrams
        for k in range(2, GROUPS):
            predicted = known[MATCH_ID + 2 * (k - 2)]
            if predicted > 0:
                gradients[indices[k]] += mixed[predicted] / total - (1.0 if predicted == target else 0.0)
    return loss
