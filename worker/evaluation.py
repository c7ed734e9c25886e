"""Held-out bits per character of a network or a mixture, and samples, with the runtime that serves models.

Held-out text is contiguous. Each prediction is made from the state after the text before it, as far back as
`warm_up`. Bits per character are the mean of -log2 p.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.mixture_arguments import Experts
from nextchar.models.runtime.decoding import log_softmax
from nextchar.models.runtime.mixture import mix_logits
from nextchar.models.runtime.session import Logits, StepNetwork
from nextchar.models.runtime.surprisal import SLICE_LOGITS
from nextchar.models.text.vocabulary import UNKNOWN_ID, Vocabulary, unknown_bits
from nextchar.worker.prepared_text import Ids

_MAX_STEPS = 64  # whose logits are in memory at once
_ROWS = 64  # read in parallel by default
_WARM_UP = 256  # characters, by default


def bits_per_character(
    network: StepNetwork,
    ids: NDArray[np.int32],
    *,
    before: Ids,
    rows: int = _ROWS,
    warm_up: int = _WARM_UP,
) -> float:
    """Return the mean surprisal of `ids` in bits per character; see `bits_by_expert`."""
    return bits_by_expert(network, {}, ids, before=before, rows=rows, warm_up=warm_up)["lstm"]


def bits_by_expert(
    network: StepNetwork,
    mixtures: Mapping[str, Experts],
    ids: NDArray[np.int32],
    *,
    before: Ids,
    rows: int = _ROWS,
    warm_up: int = _WARM_UP,
) -> dict[str, float]:
    """Return the mean surprisal of `ids` in bits per character by the network, `lstm`, and by its mixtures.

    For speed the text is read as contiguous rows in parallel, each after the `warm_up` characters before it.
    With rows=1 and a long warm-up it is read in one pass. The weights of a mixture adapt to the characters of
    its row, not to those of the warm-up, which the experts may have seen.

    Args:
        network: the graph to evaluate.
        mixtures: by name, experts to mix it with.
        ids: (N,) the held-out text.
        before: the text before it; at least one character.
        rows: the number of parallel rows.
        warm_up: characters read before each row.
    """
    length = -(-len(ids) // rows)
    rows = -(-len(ids) // length)
    text = np.concatenate([before[-max(1, min(warm_up, len(before))) :], ids])
    lead = len(text) - len(ids)
    # Row r predicts ids[r * length : (r + 1) * length], having read the `lead` characters before those.
    starts = np.arange(rows) * length
    positions = starts[None, :] + np.arange(lead + length - 1)[:, None]  # (T, rows), into `text`
    inputs, targets = text.take(positions, mode="clip"), text.take(positions + 1, mode="clip")
    counts = positions + 1 < len(text)
    counts[: lead - 1] = False
    state = network.initial_state(rows)
    read = {name: np.zeros((rows, mixed.state_columns), np.float32) for name, mixed in mixtures.items()}
    bits = dict.fromkeys(("lstm", *mixtures), 0.0)
    steps = max(1, min(_MAX_STEPS, SLICE_LOGITS // (rows * network.V)))
    bounds = (*range(0, lead - 1, steps), *range(lead - 1, len(inputs), steps), len(inputs))
    for start, end in pairwise(bounds):
        part = slice(start, end)
        first = 0 if counts[part].any() else end - start  # the warm-up needs no logits
        logits, state = network.step(inputs[part], state, first)
        of_experts = {"lstm": logits} | {name: logits.copy() for name in mixtures}
        for name, experts in mixtures.items():
            mix_logits(experts, inputs[part], read[name], 0, first, of_experts[name])
        if not first:
            for name, of_expert in of_experts.items():
                bits[name] += float(_surprisal(of_expert, targets[part])[counts[part]].sum())
    return {name: total / len(ids) for name, total in bits.items()}


def _surprisal(logits: Logits, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the surprisal of ids (T, B) in bits, by logits (T, B, V)."""
    columns = np.maximum(ids - 1, 0)[..., None]
    log_p = np.take_along_axis(log_softmax(logits), columns, -1)[..., 0]
    return np.where(ids == UNKNOWN_ID, unknown_bits(logits.shape[-1]), -log_p / np.log(2))


def sample(network: StepNetwork, vocabulary: Vocabulary, *, prompt: str, characters: int, seed: int) -> str:
    """Return text generated after `prompt` at temperature 1."""
    random = np.random.default_rng(seed)
    state = network.initial_state(1)
    logits, state = network.step(vocabulary.encode(prompt)[:, None], state)
    ids = []
    for _ in range(characters):
        p = np.exp(log_softmax(logits[-1, 0]))  # of id 1 and up
        ids.append(int(random.choice(len(p), p=p)) + 1)
        logits, state = network.step(np.array([[ids[-1]]], np.int32), state)
    return vocabulary.to_text(vocabulary.decode(ids))
