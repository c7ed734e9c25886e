"""Learns the weights of a mixture (`nextchar.models.kernels.mixture`) on held-out text.

Adam (Kingma and Ba 2015) on the mean surprisal of the first half of the held-out text, which the network was
not trained on. A penalty draws the weights to their defaults, which matters for a short text.
"""

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.mixture_arguments import (
    ADAPTATION,
    ALL_BOOSTS_PRECISION,
    ALL_SETS_PRECISION,
    BOOST_PRECISION,
    BY_CONTEXT,
    CONTEXTS,
    FEATURES,
    HISTORY_CHARACTERS,
    HISTORY_MATCH_BOOSTS,
    LENGTHS,
    MATCH_BOOSTS,
    MAX_ADAPTED_VOCABULARY,
    RECENT_WEIGHT,
    RESUMED_BOOSTS,
    SET_PRECISION,
    STATE_COLUMNS,
    WEIGHTS,
    Experts,
)
from nextchar.models.runtime.session import Check, StepNetwork, no_check
from nextchar.worker.prepared_text import Ids

_MAX_CHARACTERS = 40_000
_MAX_LOGITS = 1 << 25  # 128 MB
_MIN_EPOCHS, _MIN_STEPS = 4, 400
_BATCH = 256
_LEARNING_RATE = 0.03
_PENALTY = 4.0  # of the squared distance from the defaults, in characters
_SLICE_CHARACTERS = 256

Floats = NDArray[np.float32]


def default_weights(*, has_history_matches: bool = True) -> Floats:
    """Return weights (WEIGHTS,) for any text; without repeats, those of matches in the history are zero."""
    weights = np.zeros(WEIGHTS, np.float32)
    by_context = weights[BY_CONTEXT : BY_CONTEXT + 2 * CONTEXTS].reshape(-1, 2)
    by_context[:] = 0.55, 0.35
    boosts = 0.25 * np.arange(LENGTHS)
    weights[MATCH_BOOSTS : MATCH_BOOSTS + LENGTHS] = np.maximum(0, boosts - 0.5)
    if has_history_matches:
        weights[HISTORY_MATCH_BOOSTS:RESUMED_BOOSTS] = boosts
    weights[RESUMED_BOOSTS:] = np.tile([0, 0.25, 0.5, 1], 4) + np.repeat([0, 0.25, 0.5, 0.75], 4)
    return weights


def default_adaptation(size: int, *, is_records: bool = False) -> Floats:
    """Return how a mixture adapts to what is read, (ADAPTATION,), for a vocabulary of V = `size` ids.

    One choice for all texts, made on seven of them (docs/engineering/mixture.md). Records, which stand alone,
    are too short to adapt to.
    """
    adaptation = np.zeros(ADAPTATION, np.float32)
    if is_records:
        return adaptation
    adaptation[RECENT_WEIGHT] = 3
    if size <= MAX_ADAPTED_VOCABULARY:
        adaptation[SET_PRECISION], adaptation[BOOST_PRECISION] = 60, 2
        adaptation[ALL_SETS_PRECISION], adaptation[ALL_BOOSTS_PRECISION] = 200, 20
    return adaptation


def learned_weights(
    network: StepNetwork,
    experts: Experts,
    ids: Ids,
    *,
    before: Ids,
    has_history_matches: bool = True,
    check: Check = no_check,
) -> Floats:
    """Return the weights (WEIGHTS,) that predict `ids` best.

    Args:
        network: the trained network.
        experts: the other experts; their weights are ignored, and do not adapt here.
        ids: (N,) held-out text; the beginning of a longer one is read.
        before: the text before it.
        has_history_matches: whether matches in the history may count: not for records, which stand alone.
        check: called before each step of the gradient descent.
    """
    defaults = default_weights(has_history_matches=has_history_matches)
    targets = ids[: min(_MAX_CHARACTERS, _MAX_LOGITS // network.V)]
    lead = before[-HISTORY_CHARACTERS:]
    logits = _logits(network, lead, targets)
    features = _features(experts, lead, targets)
    fixed = np.zeros(WEIGHTS, bool)
    fixed[HISTORY_MATCH_BOOSTS:RESUMED_BOOSTS] = not has_history_matches
    past = _past(lead, targets)
    return _descend(experts, features, past, logits, targets, defaults, fixed, check)


def _past(lead: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Return the last HISTORY_CHARACTERS ids of `lead`, padded with 0, followed by `ids` (N,)."""
    past = np.zeros(HISTORY_CHARACTERS + len(ids), np.int32)
    past[HISTORY_CHARACTERS - len(lead) :] = np.concatenate([lead, ids])
    return np.where(past <= np.iinfo(np.uint16).max, past, 0).astype(np.uint16)


def _logits(network: StepNetwork, lead: NDArray[np.int32], ids: NDArray[np.int32]) -> Floats:
    """Return the network's logits (N, V) for each of ids (N,), after the characters `lead`."""
    text = np.concatenate([lead, ids])[:-1, None]
    logits = np.empty((len(ids), network.V), np.float32)
    state = network.initial_state()
    first = len(lead) - 1  # the step whose logits are for ids[0]
    for at in range(0, len(text), _SLICE_CHARACTERS):
        piece = text[at : at + _SLICE_CHARACTERS]
        skipped = min(max(0, first - at), len(piece))
        part, state = network.step(piece, state, skipped)
        begin = at + skipped - first
        logits[begin : begin + len(part)] = part[:, 0]
    return logits


def _features(experts: Experts, lead: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the features (N, FEATURES) of the experts before each of ids (N,)."""
    from nextchar.models.kernels.mixture_training import collect_features

    text = np.concatenate([lead, ids])
    state = np.zeros(STATE_COLUMNS, np.int32)
    features = np.empty((len(text), FEATURES), np.int32)
    history = state.view(np.uint16)
    collect_features(*experts[:2], experts.text, experts.positions, text, state, history, features)
    return features[len(lead) :].copy()


def _descend(
    experts: Experts,
    features: NDArray[np.int32],
    past: NDArray[np.uint16],
    logits: Floats,
    targets: NDArray[np.int32],
    defaults: Floats,
    fixed: NDArray[np.bool_],
    check: Check,
) -> Floats:
    from nextchar.models.kernels.mixture_training import add_gradients

    ngrams = experts[:3]
    weights = defaults.astype(np.float64)
    mean, square = np.zeros(WEIGHTS), np.zeros(WEIGHTS)
    random = np.random.default_rng(0)
    batches = -(-len(targets) // _BATCH)
    epochs = max(_MIN_EPOCHS, -(-_MIN_STEPS // batches))
    step, steps = 0, epochs * batches
    for _ in range(epochs):
        order = random.permutation(len(targets))
        for at in range(0, len(order), _BATCH):
            check()
            chosen = order[at : at + _BATCH]
            gradients = np.zeros(WEIGHTS)
            current = weights.astype(np.float32)
            add_gradients(
                *ngrams, current, experts.adaptation, features, past, chosen, logits, targets, gradients
            )
            gradients /= len(chosen)
            gradients += _PENALTY / len(targets) * (weights - defaults)
            gradients[fixed] = 0
            step += 1
            mean += 0.1 * (gradients - mean)
            square += 0.01 * (gradients**2 - square)
            rate = _LEARNING_RATE * (1 - step / (steps + 1))
            scale = np.sqrt(square / (1 - 0.99**step)) + 1e-4
            weights -= rate * mean / (1 - 0.9**step) / scale
    return weights.astype(np.float32)
