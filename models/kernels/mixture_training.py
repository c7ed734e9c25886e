"""The gradients of a mixture's weights, compiled when first imported."""

import numpy as np

from models.kernels.activations import exp, log
from models.kernels.jit import compiled
from models.kernels.mixture import (
    mix_row,
    read_character,
    write_features,
    write_ngrams,
)
from models.kernels.mixture_arguments import (
    BY_CONTEXT,
    MATCH_BOOSTS,
    MATCH_BUCKET,
    MATCH_ID,
    PAST,
    REPEAT_BOOSTS,
    REPEAT_BUCKET,
    REPEAT_ID,
)


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
    past = history[2 * PAST :]
    for i in range(len(ids)):
        write_features(text, state, past, features[i])
        read_character(contexts, nodes, text, positions, state, past, ids[i])


@compiled(
    "float64(int32[:,::1], int32[:,::1], float32[:,::1], float32[::1], int32[:,::1], int64[::1],"
    "float32[:,::1], int32[::1], float64[::1])"
)
def add_gradients(  # type: ignore[no-untyped-def]
    contexts, nodes, unigrams, weights, features, chosen, logits, targets, gradients
):
    """Add the gradients of the loss at some positions; return the sum of their losses, in nats.

    `contexts` to `weights` are fields of `Experts`. `features` (N, FEATURES), `logits` (N, V) of the network
    and `targets` (N,) are those of all positions; those in `chosen` (n,) count, except unknown targets.
    """
    size = logits.shape[1]
    scratch = np.empty((3, size), np.float32)
    mixed, ngrams = np.empty(size, np.float32), scratch[2]
    loss = 0.0
    for i in chosen:
        target, known, z = targets[i], features[i], logits[i]
        if target == 0:
            continue
        context = write_ngrams(contexts, nodes, unigrams, known, ngrams, scratch)
        for c in range(size):
            mixed[c] = z[c]
        mix_row(weights, context, known, ngrams, mixed)
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
        gradients[BY_CONTEXT + 2 * context] += by_network
        gradients[BY_CONTEXT + 2 * context + 1] += by_ngrams
        if known[MATCH_ID] > 0:
            error = mixed[known[MATCH_ID]] / total - (1.0 if known[MATCH_ID] == target else 0.0)
            gradients[MATCH_BOOSTS + known[MATCH_BUCKET]] += error
        if known[REPEAT_ID] > 0:
            error = mixed[known[REPEAT_ID]] / total - (1.0 if known[REPEAT_ID] == target else 0.0)
            gradients[REPEAT_BOOSTS + known[REPEAT_BUCKET]] += error
    return loss
