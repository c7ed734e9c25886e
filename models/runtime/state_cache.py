"""Prefix cache: the network's state after texts it has read, so that a shared prefix is read only once.

A state takes some ten kilobytes whatever the length of its text. The cache is a radix tree whose edges are
pieces of text, so no hash collision can return a wrong state. Edges have one of three lengths:

    strides  STRIDE characters, from one multiple of STRIDE to the next
    chunks   CHUNK characters, consecutive from a multiple of STRIDE
    tails    less than a chunk, at the end of a text; a tail has no children

    root ==4096 characters==> o ==4096==> o --64--> o --64--> o - " wisdom"
     `--64--> o --64--> o - "It was"

Each owner has a tree, because how much of a text is found tells that the owner has read it before.
Matching a text of 100,000 characters takes some tens of lookups instead of 1,600, and a caller may insert
only the strides of a long document's beginning.

Bounded in bytes: the least recently used leaves are evicted first. Thread-safe.
"""

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

CHUNK = 64
STRIDE = 64 * CHUNK
OVERHEAD_BYTES = 700
"""Approximate cost of a node in addition to its state and text: objects, dictionaries, the LRU list."""

State = NDArray[np.float32]  # (S,)


class _Node:
    __slots__ = ("alive", "children", "depth", "last_used", "latest", "parent", "state", "text")

    def __init__(self, parent: "_Node | None", text: str, state: State | None) -> None:
        self.parent = parent
        self.text = text  # the edge from the parent; of a root, the owner
        self.state = state
        self.depth: int = parent.depth + len(text) if parent else 0  # characters from the root
        self.children: dict[str, _Node] = {}
        self.latest: _Node | None = None  # the child that was matched last
        self.alive = True
        self.last_used = 0

    @property
    def cost_bytes(self) -> int:
        assert self.state is not None
        return self.state.nbytes + 4 * len(self.text) + OVERHEAD_BYTES


class PrefixMatch:
    """The longest cached prefix of a text: its `length` in characters and `state` (None for length 0).

    `StateCache.insert` moves it forward as the text is read.
    """

    __slots__ = ("_chunk", "_stride", "length", "state")

    def __init__(self, stride: _Node, chunk: _Node, matched: _Node) -> None:
        self._stride, self._chunk = stride, chunk
        self.length, self.state = matched.depth, matched.state


class StateCache:
    """States by owner and the text before them, within `limit_bytes`. Counters are totals since the start."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()  # guards everything below, and the nodes
        self._roots: dict[str, _Node] = {}  # by owner, whose name is the root's text; each has children
        self._leaves: OrderedDict[_Node, None] = OrderedDict()  # least recently used first
        self._clock = 0
        self.bytes = 0
        self.entries = 0
        self.lookups = 0
        self.evictions = 0
        self.asked_characters = 0
        self.hit_characters = 0

    def match(self, text: str, owner: str = "") -> PrefixMatch:
        """Return the longest prefix of `text` that is cached for an owner, and mark it as used."""
        with self._lock:
            stride = self._roots.get(owner) or _Node(None, owner, None)
            while len(text) - stride.depth >= STRIDE:
                next_stride = _matching_child(stride, text, STRIDE)
                if next_stride is None:
                    break
                stride = next_stride
            chunk = stride
            while len(text) - chunk.depth >= CHUNK:
                next_chunk = _matching_child(chunk, text, CHUNK)
                if next_chunk is None:
                    break
                chunk = next_chunk
            matched = _longest_tail(chunk, text)
            self._touch(matched)
            self.lookups += 1
            self.asked_characters += len(text)
            self.hit_characters += matched.depth
            return PrefixMatch(stride, chunk, matched)

    def insert(self, match: PrefixMatch, text: str, length: int, state: State) -> None:
        """Cache a copy of the state (S,) after text[:length]; `match` moves forward to it.

        Cached are the next multiple of STRIDE, the next multiple of CHUNK, and tails of less than a chunk,
        each counted from the entry before. Other lengths, and descendants of an evicted entry, are ignored.
        """
        with self._lock:
            parent = match._chunk
            ends_stride = length % STRIDE == 0 and length - match._stride.depth == STRIDE
            if ends_stride:
                parent = match._stride
            if not parent.alive or not (ends_stride or 0 < length - parent.depth <= CHUNK):
                return
            if parent.parent is None:  # the owner may have no tree yet, or another one by now
                parent = self._roots.setdefault(parent.text, parent)
            edge = text[parent.depth : length]
            node = parent.children.get(edge)
            if node is None:
                node = self._add(parent, edge, state)
            self._touch(node)
            if length % CHUNK == 0:
                match._chunk = node
            if ends_stride:
                match._stride = node
            self._evict()

    def clear(self) -> None:
        """Remove all entries. Breaks reference cycles: the garbage collector skips frozen objects."""
        with self._lock:
            nodes = list(self._roots.values())
            for node in nodes:
                nodes += node.children.values()
            for node in nodes:
                node.alive = node.parent is None
                node.children, node.latest, node.parent = {}, None, None
            self._roots.clear()
            self._leaves.clear()
            self.bytes = self.entries = 0

    def _add(self, parent: _Node, edge: str, state: State) -> _Node:
        node = _Node(parent, edge, state.copy())
        parent.children[edge] = node
        self._leaves.pop(parent, None)
        self._leaves[node] = None
        self.bytes += node.cost_bytes
        self.entries += 1
        return node

    def _touch(self, node: _Node) -> None:
        self._clock += 1
        node.last_used = self._clock
        if node in self._leaves:
            self._leaves.move_to_end(node)

    def _evict(self) -> None:
        while self.bytes > self._limit_bytes:
            node, _ = self._leaves.popitem(last=False)
            parent = node.parent
            assert parent is not None
            del parent.children[node.text]
            if parent.latest is node:
                parent.latest = None
            node.alive = False
            self.bytes -= node.cost_bytes
            self.entries -= 1
            self.evictions += 1
            if not parent.children and parent.parent is None:
                del self._roots[parent.text]
            elif not parent.children:
                # A parent that was used only through its children is evicted next; one that was used
                # itself after them becomes the most recently used leaf.
                self._leaves[parent] = None
                self._leaves.move_to_end(parent, last=parent.last_used > node.last_used)


def _matching_child(node: _Node, text: str, length: int) -> _Node | None:
    """Return the child whose edge is the next `length` characters of `text`, if there is one."""
    latest = node.latest
    if latest and len(latest.text) == length and text.startswith(latest.text, node.depth):
        return latest  # comparing takes a tenth of the time of slicing and hashing
    child = node.children.get(text[node.depth : node.depth + length])
    if child:
        node.latest = child
    return child


def _longest_tail(chunk: _Node, text: str) -> _Node:
    if chunk.children:
        rest = text[chunk.depth : chunk.depth + CHUNK - 1]
        for length in range(len(rest), 0, -1):
            tail = chunk.children.get(rest[:length])
            if tail is not None:
                return tail
    return chunk
