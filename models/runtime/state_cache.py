"""The network's state after texts it has read, so that the same beginning is not read again.

A state is a few kilobytes whatever the length of the text before it. The cache is a tree whose edges are
pieces of text, so a wrong state cannot come from a collision of hashes. Three lengths of edge:

    strides  STRIDE characters, from one multiple of STRIDE to the next
    chunks   CHUNK characters, one after another from a multiple of STRIDE
    tails    less than a chunk, at the end of a text; nothing comes after a tail

    root ==4096 characters==> o ==4096==> o --64--> o --64--> o - " wisdom"
     `--64--> o --64--> o - "It was"

So a text of 100,000 characters is found in some tens of look-ups, not 1,600, and a reader may leave out
the chunks of a document's distant past and keep its strides.

Bounded in bytes. Only leaves are thrown away, the least recently used first. Not safe for use by several
threads at once.
"""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

CHUNK = 64
STRIDE = 64 * CHUNK
OVERHEAD_BYTES = 700
"""What a node costs beside its state and its text, roughly: objects, dictionaries, the order of use."""

State = NDArray[np.float32]  # (S,)


class _Node:
    __slots__ = ("alive", "children", "depth", "latest", "parent", "state", "text", "used")

    def __init__(self, parent: "_Node | None", text: str, state: State | None) -> None:
        self.parent = parent
        self.text = text  # the edge from the parent
        self.state = state
        self.depth: int = parent.depth + len(text) if parent else 0  # characters from the start
        self.children: dict[str, _Node] = {}
        self.latest: _Node | None = None  # of the children, where the last reader went
        self.alive = True
        self.used = 0

    @property
    def cost(self) -> int:
        assert self.state is not None
        return self.state.nbytes + 4 * len(self.text) + OVERHEAD_BYTES


class Place:
    """A reader's place in a text: `length` characters were known, with `state` (None: none were)."""

    __slots__ = ("_chunk", "_stride", "length", "state")

    def __init__(self, stride: _Node, chunk: _Node, found: _Node) -> None:
        self._stride, self._chunk = stride, chunk
        self.length, self.state = found.depth, found.state


class StateCache:
    """States by the text before them, within `limit_bytes`. The counters count since the start."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._root = _Node(None, "", None)
        self._leaves: OrderedDict[_Node, None] = OrderedDict()  # least recently used first
        self._clock = 0
        self.bytes = 0
        self.entries = 0
        self.lookups = 0
        self.evictions = 0
        self.asked_characters = 0
        self.hit_characters = 0

    def find(self, text: str) -> Place:
        """Return the longest beginning of `text` that is known, and count it as used."""
        stride = self._root
        while len(text) - stride.depth >= STRIDE:
            farther = _next(stride, text, STRIDE)
            if farther is None:
                break
            stride = farther
        chunk = stride
        while len(text) - chunk.depth >= CHUNK:
            next_chunk = _next(chunk, text, CHUNK)
            if next_chunk is None:
                break
            chunk = next_chunk
        found = _longest_tail(chunk, text)
        self._use(found)
        self.lookups += 1
        self.asked_characters += len(text)
        self.hit_characters += found.depth
        return Place(stride, chunk, found)

    def put(self, place: Place, text: str, at: int, state: State) -> None:
        """Keep the state (S,) after text[:at]; `place` is where the reader of this text was, and moves on.

        Kept are multiples of STRIDE after the one before, multiples of CHUNK after the one before, and
        tails of less than a chunk. Anything else, and what follows an entry thrown away since, is not.
        """
        parent = place._chunk
        ends_stride = at % STRIDE == 0 and at - place._stride.depth == STRIDE
        if ends_stride:
            parent = place._stride
        if not parent.alive or not (ends_stride or 0 < at - parent.depth <= CHUNK):
            return
        piece = text[parent.depth : at]
        node = parent.children.get(piece)
        if node is None:
            node = self._add(parent, piece, state)
        self._use(node)
        if at % CHUNK == 0:
            place._chunk = node
        if ends_stride:
            place._stride = node
        self._shrink()

    def clear(self) -> None:
        """Forget everything. No garbage collection is needed then, which never looks at what was frozen."""
        nodes = [self._root]
        for node in nodes:
            nodes += node.children.values()
        for node in nodes:
            node.children, node.latest, node.parent, node.alive = {}, None, None, node is self._root
        self._leaves.clear()
        self.bytes = self.entries = 0

    def _add(self, parent: _Node, piece: str, state: State) -> _Node:
        node = _Node(parent, piece, state.copy())
        parent.children[piece] = node
        self._leaves.pop(parent, None)
        self._leaves[node] = None
        self.bytes += node.cost
        self.entries += 1
        return node

    def _use(self, node: _Node) -> None:
        self._clock += 1
        node.used = self._clock
        if node in self._leaves:
            self._leaves.move_to_end(node)

    def _shrink(self) -> None:
        while self.bytes > self._limit_bytes:
            node, _ = self._leaves.popitem(last=False)
            parent = node.parent
            assert parent is not None
            del parent.children[node.text]
            if parent.latest is node:
                parent.latest = None
            node.alive = False
            self.bytes -= node.cost
            self.entries -= 1
            self.evictions += 1
            if not parent.children and parent is not self._root:
                # What was used through its descendants goes right after the last of them; what was used
                # itself since then goes to the other end of the queue.
                self._leaves[parent] = None
                self._leaves.move_to_end(parent, last=parent.used > node.used)


def _next(node: _Node, text: str, length: int) -> _Node | None:
    """Return the child whose edge is the next `length` characters of `text`, if there is one."""
    latest = node.latest
    if latest and len(latest.text) == length and text.startswith(latest.text, node.depth):
        return latest  # comparing takes a tenth of the time of cutting out and hashing
    found = node.children.get(text[node.depth : node.depth + length])
    if found:
        node.latest = found
    return found


def _longest_tail(chunk: _Node, text: str) -> _Node:
    if chunk.children:
        rest = text[chunk.depth : chunk.depth + CHUNK - 1]
        for length in range(len(rest), 0, -1):
            tail = chunk.children.get(rest[:length])
            if tail is not None:
                return tail
    return chunk
