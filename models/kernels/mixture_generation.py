"""Generation by an int8 LSTM network and a mixture in one call, compiled when first imported."""

import numpy as np

from models.kernels.jit import compiled
from models.kernels.lstm_arguments import WHOLE
from models.kernels.lstm_inference import choose, read_steps
from models.kernels.mixture import EXPERTS, mix


@compiled(
    "void(int8[::1], float32[::1], int32[::1], int64[:,::1],"
    f"{EXPERTS}, int32[:,::1], float32[:,::1], int32[:,::1], uint16[:,::1], float32[:,::1],"
    "float32[:,:,::1], float32[::1], float64[:,::1], int32[:,::1])"
)
def generate(  # type: ignore[no-untyped-def]
    packed, numbers, corrections, layout,
    contexts, nodes, unigrams, text, positions, weights, adaptation,
    ids, network_state, state, history, state_numbers, logits, inverse_temperature, uniforms, chosen,
):  # fmt: skip
    """Alternate N + 1 steps and N choices.

    `packed` to `layout` are the fields of `PackedNetwork`, `contexts` to `adaptation` those of `Experts`.
    Ids (1, B) from 0 to V - 1 are not read yet. `network_state` (B, S) and `state`, with `history` and
    `state_numbers` as for `mix`, are changed in place, `logits` (1 + N, B, V) filled with those of the
    mixture. The rest are the fields of `Sampling`.
    """
    no_x, no_sums = np.empty((0, 0), np.uint8), np.empty((0, 0), np.int32)
    now = ids
    for n in range(len(logits)):
        if n > 0:
            choose(logits[n - 1], inverse_temperature, uniforms[n - 1], chosen[n - 1])
            now = chosen[n - 1 : n]
        step_logits = logits[n : n + 1]
        read_steps(
            packed, numbers, corrections, layout, now, network_state, 0, step_logits, WHOLE, no_x, no_sums
        )
        mix(
            contexts, nodes, unigrams, text, positions, weights, adaptation, now, state, history,
            state_numbers, 0, step_logits,
        )  # fmt: skip
