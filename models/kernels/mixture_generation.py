"""Steps of an int8 LSTM network and a mixture in one call, compiled when first imported."""

import numpy as np

from nextchar.models.kernels.jit import compiled, inline_jit
from nextchar.models.kernels.lstm_arguments import ROWS_AT_ONCE, WHOLE
from nextchar.models.kernels.lstm_inference import any_out_of_range, choose, read_steps
from nextchar.models.kernels.mixture import EXPERTS, keep, make_workspace, mix_row, read_row


@inline_jit
def _read_text(network, experts, ids, state, at, first, logits, wanted, workspace):  # type: ignore[no-untyped-def]
    """Read ids (T, B), some at once."""
    packed, numbers, corrections, layout = network
    no_x, no_sums = np.empty((0, 0), np.uint8), np.empty((0, 0), np.int32)
    steps, rows = ids.shape
    at_once = max(1, ROWS_AT_ONCE // max(1, rows))
    for start in range(0, steps, at_once):
        end = min(start + at_once, steps)
        begin = min(max(first, start), end)  # of the steps with logits
        own = logits[max(0, begin - first) : max(0, end - first)]
        read_steps(
            packed,
            numbers,
            corrections,
            layout,
            ids[start:end],
            state,
            begin - start,
            own,
            WHOLE,
            no_x,
            no_sums,
        )
        for b in range(rows):
            for t in range(start, end):
                read_row(experts, state, b, at, ids[t, b], workspace)
                if begin <= t < wanted:
                    keep(experts, state, b, at, own[t - begin, b])
                elif t >= begin:
                    mix_row(experts, state, b, at, own[t - begin, b], workspace)


@compiled(
    "boolean(int8[::1], float32[::1], int32[::1], int64[:,::1],"
    f"{EXPERTS}, int32[:,::1], float32[:,::1], int64, int64,"
    "float32[:,:,::1], int64, float32[::1], float64[:,::1], int32[:,::1])"
)
def run(  # type: ignore[no-untyped-def]
    packed, numbers, corrections, layout,
    text, positions, slots, singles, entries, characters, up, children, maps, recent_maps, match_maps,
    weights, last_weights, adaptation, backoffs, shares, meetings,
    ids, state, at, first, logits, wanted, inverse_temperature, uniforms, chosen,
):  # fmt: skip
    """Read ids, then choose and read N more times, as `nextchar.models.kernels.lstm_inference.run`.

    `packed` to `layout` are the fields of `PackedNetwork`, `text` to `meetings` those of `Experts`.
    Ids (T, B) are not read yet. `state` (B, .), the network's and from column S = `at` on the experts', is
    changed in place. Logits (T - first + N, B, V) are filled with those of the mixture, and before step
    `wanted` with those of the network. The rest are the fields of `Sampling`; for N > 0, T is 1, `first` 0.

    Returns:
        False, with nothing done, if an id is not below V.
    """
    steps, rows = ids.shape
    if any_out_of_range(ids, logits.shape[2]):
        return False
    experts = (
        text, positions, slots, singles, entries, characters, up, children, maps, recent_maps, match_maps,
        weights, last_weights, adaptation, backoffs, shares, meetings,
    )  # fmt: skip
    workspace = make_workspace(logits.shape[2], len(children))
    if steps > 1:
        _read_text(
            (packed, numbers, corrections, layout), experts, ids, state, at, first, logits, wanted, workspace
        )
        return True
    no_x, no_sums = np.empty((0, 0), np.uint8), np.empty((0, 0), np.int32)
    now = ids
    for n in range(len(uniforms) + 1):
        if n > 0:
            choose(logits[n - 1], inverse_temperature, uniforms[n - 1], chosen[n - 1])
            now = chosen[n - 1 : n]
        for b in range(rows):  # first, so that what it prefetches arrives while the network computes
            read_row(experts, state, b, at, now[0, b], workspace)
        own = logits[n : n + 1]
        read_steps(packed, numbers, corrections, layout, now, state, first, own, WHOLE, no_x, no_sums)
        for b in range(len(own) * rows):
            if n < wanted:
                keep(experts, state, b, at, own[0, b])
            else:
                mix_row(experts, state, b, at, own[0, b], workspace)
    return True
