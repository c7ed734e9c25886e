"""Learns how a mixture uses its network, on held-out text that neither was trained on."""

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.mixture_arguments import BY_NETWORK, HISTORY_CHARACTERS, STATE_COLUMNS, Experts
from nextchar.models.runtime.mixture import Floats, mix_logits
from nextchar.models.runtime.mixture_learning import Seen
from nextchar.models.runtime.session import StepNetwork
from nextchar.worker.evaluation import bits_by_expert
from nextchar.worker.prepared_text import Ids

_MAX_CHARACTERS = 60_000
_MAX_LOGITS = 1 << 25  # 128 MB
_MAX_SEEN = 4000.0  # of a set of weights: the network is new to those that have learned much
_SLICE_CHARACTERS = 256
_FIRST_WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the network, from which learning starts
_MAX_COMPARED = 10_000  # characters on which they are compared; from more, the weight is learned
_COMPARED_ROW = 1000


def learn_network(network: StepNetwork, experts: Experts, seen: Seen, ids: Ids, *, before: Ids) -> None:
    """Let the experts learn from held-out text, with the network beside them; they are changed.

    If it is short, too short for much learning, and the network alone predicts it better than they do, as one
    that comes from a base model, they begin with the weight of the network with which they predict it best.

    Args:
        network: the trained network.
        experts: they know the text `before`.
        seen: how often they have learned; changed.
        ids: (N,) held-out text; the beginning of a longer one is read.
        before: the text before it.
    """
    from nextchar.models.kernels.mixture_training import learn

    targets = np.ascontiguousarray(ids[: min(_MAX_CHARACTERS, _MAX_LOGITS // network.V)], np.int32)
    lead = np.ascontiguousarray(before[-HISTORY_CHARACTERS:], np.int32)
    logits = _logits(network, lead, targets)
    if len(ids) <= _MAX_COMPARED:
        _choose_first_weight(network, experts, ids[:], before)
    for counts in (seen.weights, seen.last_weights):
        np.minimum(counts, _MAX_SEEN, out=counts)
    state, not_behind = np.zeros((1, STATE_COLUMNS), np.float32), np.zeros((0, STATE_COLUMNS), np.float32)
    mix_logits(experts, lead[:, None], state, 0, len(lead), logits[:0, None])
    learn(*experts, *seen, targets, not_behind, state, logits, 0)


def _choose_first_weight(network: StepNetwork, experts: Experts, ids: NDArray[np.int32], before: Ids) -> None:
    candidates = {str(share): experts._replace(weights=experts.weights.copy()) for share in _FIRST_WEIGHTS}
    for share, candidate in zip(_FIRST_WEIGHTS, candidates.values(), strict=True):
        candidate.weights[:] *= (1 - share) / (1 - _FIRST_WEIGHTS[0])
        candidate.weights[:, BY_NETWORK] = share
    rows = max(1, len(ids) // _COMPARED_ROW)
    bits = bits_by_expert(network, candidates, ids, before=before, rows=rows)
    if bits["lstm"] < bits[str(_FIRST_WEIGHTS[0])]:
        del bits["lstm"]
        experts.weights[:] = candidates[min(bits, key=bits.__getitem__)].weights


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
