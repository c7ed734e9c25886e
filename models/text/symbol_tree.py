"""A binary tree over a vocabulary: characters that occur in similar places are near each other.

Agglomerative information bottleneck (Slonim and Tishby 1999): beginning with single characters, the two
groups are merged whose merging loses the least information about the character before, the two before and
the character after. Each node is a decision between two groups, which contexts predict better than those of
a Huffman code.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

MAX_MERGED = 256
"""Above this many characters the tree is made by their classes and code points: merging takes time V**3."""

_PAIRS = 2000  # the most frequent pairs of characters before
_AFTER = 0.3  # weight of the characters after, in units of those before
_SMALL = 1e-3  # added to each count

Numbers = NDArray[np.float64]


def symbol_tree(text: NDArray[np.int32], kinds: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the children of each node, (V - 2, 2): a node, or minus an id.

    Node 0 is the root. Frequent nodes have small numbers, children larger ones than their parents.

    Args:
        text: (N,) ids.
        kinds: (V,) what kind of character each id is; id 0 is none.
    """
    size = len(kinds)
    counts = np.bincount(text, minlength=size)[:size].astype(np.float64)
    if size <= 2:
        return np.zeros((0, 2), np.int32)
    pairs = _merged(text, size) if size <= MAX_MERGED + 1 else _split(counts, kinds)
    return _numbered(pairs, counts)


def _merged(text: NDArray[np.int32], size: int) -> list[tuple[int, int]]:
    """Return pairs of ids, or of V + the number of an earlier pair."""
    before = np.bincount(text[1:] * size + text[:-1], minlength=size * size).reshape(size, size)
    counts = [before, _AFTER * before.T, _after_pairs(text, size)]
    vectors = np.concatenate(counts, axis=1)[1:] + _SMALL  # (V - 1, 2V + pairs)
    names = list(range(1, size))
    entropies = _entropies(vectors)
    losses = np.full((size - 1, size - 1), np.inf)
    for i in range(size - 2):
        losses[i, i + 1 :] = _losses(vectors, entropies, i, slice(i + 1, None))
    pairs: list[tuple[int, int]] = []
    for n in range(size - 2):
        i, j = divmod(int(losses.argmin()), size - 1)
        pairs.append((names[i], names[j]))
        vectors[i] += vectors[j]
        entropies[i], names[i] = _entropies(vectors[i]), size + n
        losses[j], losses[:, j] = np.inf, np.inf
        above, beside = np.isfinite(losses[:i, i]), np.isfinite(losses[i])
        losses[:i, i][above] = _losses(vectors, entropies, i, np.flatnonzero(above))
        losses[i, beside] = _losses(vectors, entropies, i, np.flatnonzero(beside))
    return pairs


def _after_pairs(text: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """Return how often each id follows each of the most frequent pairs of ids, (V, pairs)."""
    pairs = text[:-2] * size + text[1:-1]
    counts = np.bincount(pairs, minlength=size * size)
    frequent = np.argsort(-counts, kind="stable")[: min(_PAIRS, np.count_nonzero(counts))]
    columns = np.full(size * size, len(frequent))
    columns[frequent] = np.arange(len(frequent))
    width = len(frequent) + 1
    cells = text[2:].astype(np.int64) * width + columns[pairs]
    return np.bincount(cells, minlength=size * width).reshape(size, width)[:, :-1]


def _entropies(vectors: Numbers) -> Numbers:
    """Return minus the sums times the entropies of rows of counts, in nats."""
    totals = vectors.sum(-1)
    return np.asarray((vectors * np.log(vectors)).sum(-1) - totals * np.log(totals))


def _losses(vectors: Numbers, entropies: Numbers, i: int, others: "slice | NDArray[np.intp]") -> Numbers:
    """Return the information that is lost if row i is merged with each of others."""
    return np.asarray(entropies[i] + entropies[others] - _entropies(vectors[others] + vectors[i]))


def _split(counts: Numbers, kinds: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Return pairs as `_merged` does: ids in the order of their kinds, split at half of the weight."""
    size = len(counts)
    order = 1 + np.lexsort((np.arange(1, size), kinds[1:]))
    weights = np.append(0, np.cumsum(counts[order] + _SMALL))
    halves: list[tuple[int, int, int]] = []  # where a part begins, is split, and ends
    todo = [(0, size - 1)]
    while todo:
        start, end = todo.pop()
        if end - start > 1:
            middle = int(weights.searchsorted((weights[start] + weights[end]) / 2))
            middle = min(max(middle, start + 1), end - 1)
            halves.append((start, middle, end))
            todo += [(start, middle), (middle, end)]
    names = {(i, i + 1): int(order[i]) for i in range(size - 1)}
    pairs: list[tuple[int, int]] = []
    for start, middle, end in reversed(halves):
        names[start, end] = size + len(pairs)
        pairs.append((names[start, middle], names[middle, end]))
    return pairs


def _numbered(pairs: list[tuple[int, int]], counts: Numbers) -> NDArray[np.int32]:
    """Return the children of the nodes, the most frequent ones first."""
    size = len(counts)
    weights = [*counts.tolist()]
    for left, right in pairs:
        weights.append(weights[left] + weights[right])
    children = np.zeros((len(pairs), 2), np.int32)
    heap = [(0.0, size + len(pairs) - 1, -1, 0)]  # weight, name, and where its number is noted
    for number in range(len(pairs)):
        _, name, parent, side = heapq.heappop(heap)
        if parent >= 0:
            children[parent, side] = number
        for side, child in enumerate(pairs[name - size]):
            if child >= size:
                heapq.heappush(heap, (-weights[child], child, number, side))
            else:
                children[number, side] = -child
    return children
