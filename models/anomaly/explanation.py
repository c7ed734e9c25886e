"""Explanations: which characters make a line anomalous, and what was expected in their place.

Many lines are explained side by side. Each is a generator (`noisy_channel.find_spans`) that yields the steps
it needs; the steps of all lines run in one batch. If the network is batch-invariant, so are the spans.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.noisy_channel import PIECE, Step, Steps, find_spans
from nextchar.models.anomaly.spans import Span
from nextchar.models.runtime.session import Logits, State, StepNetwork
from nextchar.models.runtime.surprisal import SLICE_LOGITS
from nextchar.models.text.vocabulary import Vocabulary

_SIDE_BY_SIDE = 8  # lines explained at a time; if `max_read` is reached, these are lost


def explain(
    network: StepNetwork,
    vocabulary: Vocabulary,
    lines: Sequence[str],
    *,
    threshold: float,
    max_read: int | None = None,
) -> list[list[Span] | None]:
    """Return the anomalous spans of each line, read after a newline; None for lines that are not explained.

    Once the network has read `max_read` characters no further line is started, and after twice as many the
    started ones are abandoned. So which lines are explained depends on the lines, not on time.

    Args:
        network: the network.
        vocabulary: its characters.
        lines: lines of characters.
        threshold: excess of surprisal over entropy, in bits, above which a character is anomalous; unknown
            characters always are.
        max_read: limit of the characters that the network reads; None: explain all lines.
    """
    state = network.initial_state()
    newline = int(vocabulary.encode("\n")[0])
    spans: list[list[Span] | None] = [None] * len(lines)
    waiting = iter(range(len(lines)))
    running: dict[int, tuple[Steps[list[Span]], Step]] = {}
    read = 0
    while max_read is None or read < 2 * max_read:
        while len(running) < _SIDE_BY_SIDE and (max_read is None or read < max_read):
            index = next(waiting, None)
            if index is None:
                break
            generator = find_spans(network.V, vocabulary, lines[index], threshold, newline, state)
            _advance(running, spans, index, generator, None)
        if not running:
            break
        requested = list(running.items())
        read += sum(step.ids.size for _, (_, step) in requested)
        results = _run_steps(network, [step for _, (_, step) in requested])
        for i, (index, (generator, _)) in enumerate(requested):
            _advance(running, spans, index, generator, results[i])
    return spans


def _advance(
    running: dict[int, tuple[Steps[list[Span]], Step]],
    spans: list[list[Span] | None],
    index: int,
    generator: Steps[list[Span]],
    result: tuple[Logits, State] | None,
) -> None:
    """Send a line the result of its step; note its next step, or its spans at the end."""
    try:
        running[index] = (generator, next(generator) if result is None else generator.send(result))
    except StopIteration as end:
        spans[index] = end.value
        running.pop(index, None)


def _run_steps(network: StepNetwork, steps: Sequence[Step]) -> list[tuple[Logits, State]]:
    """Run all steps, those of the same padded length in one call, within the bounds of a slice."""
    results: list[tuple[Logits, State] | None] = [None] * len(steps)
    kind = {index: (_padded_length(step), bool(step.first)) for index, step in enumerate(steps)}
    for (length, is_without_logits), group in groupby(sorted(kind, key=kind.__getitem__), kind.__getitem__):
        indices = list(group)
        max_rows = max(1, SLICE_LOGITS // (length * network.V))
        for part in _parts([steps[index].ids.shape[1] for index in indices], max_rows):
            batch = [steps[index] for index in indices[part]]
            ids = np.concatenate([_padded(step.ids, length) for step in batch], 1)
            state = np.concatenate([step.state for step in batch])
            logits, state = network.step(ids, state, length if is_without_logits else 0)
            at = 0
            for index in indices[part]:
                characters, rows = steps[index].ids.shape
                end = at + rows
                results[index] = logits[:characters, at:end], state[at:end]
                at = end
    return [result for result in results if result is not None]


def _padded_length(step: Step) -> int:
    """Return the length to which a step is padded, which is possible if the state after it is not needed."""
    length = len(step.ids)
    return length if step.needs_state else -(-length // PIECE) * PIECE


def _padded(ids: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    missing = length - len(ids)
    return np.pad(ids, ((0, missing), (0, 0))) if missing else ids


def _parts(rows: Sequence[int], max_rows: int) -> Iterator[slice]:
    """Yield slices of consecutive items with at most `max_rows` rows, or of a single item with more."""
    start = total = 0
    for index, count in enumerate(rows):
        if index > start and total + count > max_rows:
            yield slice(start, index)
            start, total = index, 0
        total += count
    yield slice(start, len(rows))
