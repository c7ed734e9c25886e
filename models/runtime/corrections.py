"""What a prefix with a typing error may stand for: the noisy channel of generated suggestions.

A prefix that is meant costs the bits of the error by which another one was typed, and its own surprisal. The
likeliest are found in two passes over the typed characters. The first is a beam search by the network alone,
which is several times faster than its mixture: its hypotheses all stand for the same number of typed
characters, and differ in the one error, which is looked for where the network is surprised. In the second
the mixture reads the best of them side by side, and those in which an unknown word is one that lines have.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.decoding import BITS, Floats, log_softmax
from nextchar.models.runtime.line_index import ERROR_BITS, KIND_BITS, single_error_bits
from nextchar.models.runtime.mixture import MixtureNetwork
from nextchar.models.runtime.session import State, StepNetwork
from nextchar.models.text.vocabulary import unknown_bits

Ids = NDArray[np.int32]

MAX_TYPED = 32
"""Characters at the end of a prefix in which an error is looked for."""

_NEW_BITS = 2.0  # more than for a line that exists: any text is possible
_MANY_WAYS = (ERROR_BITS + _NEW_BITS + KIND_BITS) / BITS  # nats: a character that is wrong, or one too many
_FEW_WAYS = (ERROR_BITS + _NEW_BITS - KIND_BITS) / BITS  # one that is left out, or exchanged with the next
_AFTER_ERROR = 3  # characters from an error on, which have more bits than the network expects
_REPLACEMENTS = 8  # likely characters in place of a wrong one, or of one that is left out
_WIDTH = 16  # hypotheses of the first pass
_READ = 12  # of them, those of the second
_MAX_DIFFERENCE = 6 / BITS  # nats, about, by which the mixture finds another prefix likelier than the network
_MAX_BEHIND = 6 / BITS  # nats: prefixes that are less likely than the typed one by more are not followed
_MAX_AHEAD = 4 / BITS  # nats, by which all of them together are likelier: a new word looks like an error


@dataclass(frozen=True)
class Start:
    """A prefix that may be meant, and what follows it.

    Attributes:
        ids: of its characters.
        total: its natural log-probability among all that may be meant.
        logprobs: (V - 1,) of the character after it.
        state: (1, S) after it.
    """

    ids: tuple[int, ...]
    total: float
    logprobs: NDArray[np.float64]
    state: State


def likely_starts(
    network: StepNetwork,
    logits: Floats,
    state: State,
    typed: Ids,
    *,
    never: frozenset[int],
    respelled: Iterable[tuple[int, ...]] = (),
) -> Generator[None, None, list[Start]]:
    """Find the prefixes that `typed` (N,) may stand for, itself first, after logits (V,) and state (1, S).

    Yields after each step of the network. Characters in `never` are not put in. `respelled` are prefixes one
    typing error away, which are read as well.
    """
    logprobs = log_softmax(logits[None])[0]
    draft, draft_state = network, state
    if isinstance(network, MixtureNetwork):
        draft, draft_state = network.without_experts(state)
    found = yield from _first_pass(draft, logprobs, draft_state, typed, never)
    exact = tuple(typed.tolist())
    costs = {ids: (single_error_bits(exact, ids) + _NEW_BITS) / BITS for ids in respelled}
    costs |= {exact: 0.0} | found
    common = _common_length(list(costs))
    if common:
        read, state = network.step(typed[:common, None], state, common - 1)
        logprobs = log_softmax(read[0])[0]
        yield
    starts: list[Start] = []
    for length in sorted(set(map(len, costs))):
        group = [ids for ids in costs if len(ids) == length]
        rest = np.array(group, np.int32).T[common:]  # (T, B)
        read, after = network.step(np.ascontiguousarray(rest), np.repeat(state, len(group), 0))
        predicted = log_softmax(read)  # (T, B, V - 1)
        for b, ids in enumerate(group):
            before = np.concatenate([logprobs[None], predicted[:-1, b]])
            total = float(_picked(before, rest[:, b]).sum()) - costs[ids]
            starts.append(Start(ids, total, predicted[-1, b], after[b : b + 1]))
        yield
    return _likely(starts, exact)


def _first_pass(
    network: StepNetwork, logprobs: NDArray[np.float64], state: State, typed: Ids, never: frozenset[int]
) -> Generator[None, None, dict[tuple[int, ...], float]]:
    """Return the nats of the error in each of the best prefixes with one."""
    n = len(typed)
    read, _ = network.step(typed[:, None], state)
    predicted = np.concatenate([logprobs[None], log_softmax(read[:, 0])])  # (N + 1, V - 1)
    exact = _picked(predicted[:-1], typed)  # (N,)
    excess = -exact + (np.exp(predicted[:-1]) * predicted[:-1]).sum(1)  # surprisal beyond entropy
    is_open = [float(excess[i : i + _AFTER_ERROR].sum()) > 0 for i in range(n)]
    if not any(is_open):
        return {}
    first = is_open.index(True)
    if first:
        _, state = network.step(typed[:first, None], state, first)
    total = float(exact[:first].sum())
    at: list[list[_Hypothesis]] = [[] for _ in range(n + 2)]  # by how many typed characters they stand for
    for i in range(first, n):
        unchanged = _Hypothesis(tuple(typed[:i].tolist()), total, 0.0, predicted[i], state)
        steps = [_Step(one, int(typed[i]), i + 1) for one in (unchanged, *_best(at[i]))]
        if is_open[i]:
            at[i + 1].append(unchanged.with_cost(_MANY_WAYS))  # this character is one too many
            steps += _edits(unchanged, typed, i, never)
        taken = _take(network, steps)
        total, state = taken[0].total, taken[0].state
        yield
        seconds: list[_Step] = []
        for one, step in zip(taken[1:], steps[1:], strict=True):
            if step.second is None:
                at[step.stands_for].append(one)
            else:
                seconds.append(_Step(one, step.second, step.stands_for))
        seconds = sorted(seconds, key=lambda step: -step.total)[:_WIDTH]
        if seconds:
            for one, step in zip(_take(network, seconds), seconds, strict=True):
                at[step.stands_for].append(one)
            yield
    min_total = total - _MAX_BEHIND - _MAX_DIFFERENCE
    return {one.ids: one.cost for one in _best(at[n])[:_READ] if one.ids and one.total > min_total}


@dataclass(frozen=True)
class _Hypothesis:
    """A beginning of a prefix that may be meant; `total` has the `cost` of its error, both in nats."""

    ids: tuple[int, ...]
    total: float
    cost: float
    logprobs: NDArray[np.float64]  # (V - 1,) of the next character
    state: State  # (1, S)

    def with_cost(self, nats: float) -> "_Hypothesis":
        """Return the same with an error."""
        return _Hypothesis(self.ids, self.total - nats, nats, self.logprobs, self.state)


@dataclass(frozen=True)
class _Step:
    """A character that is read after a hypothesis, and the `second` one if the edit has two."""

    parent: _Hypothesis
    an_id: int
    stands_for: int  # typed characters, after both
    second: int | None = None

    @property
    def total(self) -> float:
        return self.parent.total + _logprob(self.parent.logprobs, self.an_id)


def _edits(parent: _Hypothesis, typed: Ids, i: int, never: frozenset[int]) -> Iterator[_Step]:
    """Yield what may be meant by a typed character: another, one that is left out before it, an exchange."""
    an_id = int(typed[i])
    few, many = parent.with_cost(_FEW_WAYS), parent.with_cost(_MANY_WAYS)
    likely = np.argsort(-parent.logprobs, kind="stable")[: _REPLACEMENTS + len(never) + 1] + 1
    for c in [c for c in likely.tolist() if c != an_id and c not in never][:_REPLACEMENTS]:
        yield _Step(many, c, i + 1)
        yield _Step(few, c, i + 1, second=an_id)
    if i + 1 < len(typed) and typed[i + 1] != an_id:
        yield _Step(few, int(typed[i + 1]), i + 2, second=an_id)


def _take(network: StepNetwork, steps: list[_Step]) -> list[_Hypothesis]:
    """Read the characters of steps side by side."""
    ids = np.array([[step.an_id for step in steps]], np.int32)
    read, after = network.step(ids, np.concatenate([step.parent.state for step in steps]))
    logprobs = log_softmax(read[0])
    return [
        _Hypothesis((*s.parent.ids, s.an_id), s.total, s.parent.cost, logprobs[b], after[b : b + 1])
        for b, s in enumerate(steps)
    ]


def _best(hypotheses: list[_Hypothesis]) -> list[_Hypothesis]:
    """Return the best hypotheses, each text once, best first."""
    by_ids: dict[tuple[int, ...], _Hypothesis] = {}
    for one in sorted(hypotheses, key=lambda one: -one.total):
        by_ids.setdefault(one.ids, one)
    return list(by_ids.values())[:_WIDTH]


def _likely(starts: list[Start], typed: tuple[int, ...]) -> list[Start]:
    """Return what was typed and the prefixes that are not much less likely, with their shares."""
    (exact,) = (start for start in starts if start.ids == typed)
    others = [start for start in starts if start.total >= exact.total - _MAX_BEHIND and start is not exact]
    least = float(np.logaddexp.reduce([start.total for start in others])) - _MAX_AHEAD
    exact = replace(exact, total=max(exact.total, least))
    kept = [exact, *sorted(others, key=lambda start: -start.total)]
    every = float(np.logaddexp.reduce([start.total for start in kept]))
    return [replace(one, total=one.total - every) for one in kept]


def _common_length(texts: list[tuple[int, ...]]) -> int:
    """Return how many first characters all have, at least one being left of each."""
    last = min(map(len, texts)) - 1
    return next((i for i in range(last) if len({ids[i] for ids in texts}) > 1), last)


def _logprob(logprobs: NDArray[np.float64], an_id: int) -> float:
    """Return the log-probability of an id by logprobs (V - 1,)."""
    return float(logprobs[an_id - 1]) if an_id else -unknown_bits(len(logprobs) + 1) / BITS


def _picked(logprobs: NDArray[np.float64], ids: Ids) -> NDArray[np.float64]:
    """Return the log-probabilities (N,) of ids (N,) by logprobs (N, V - 1)."""
    return np.array([_logprob(row, an_id) for row, an_id in zip(logprobs, ids.tolist(), strict=True)])
