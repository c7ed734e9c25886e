"""The lines of a corpus that a network finds likeliest after a prefix: a beam search among them.

Each hypothesis is a beginning of lines, which are a range of the index. It is extended by the characters that
some of them go on with, in all forms that fold to the same. A hypothesis of few lines is not followed to
their ends: they are weighed as a whole afterwards (`Engine.weigh_lines`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.decoding import Floats, log_softmax
from nextchar.models.runtime.line_index import LineIndex
from nextchar.models.runtime.session import State, StepNetwork
from nextchar.models.text.line_file import fold
from nextchar.models.text.vocabulary import Vocabulary

_WIDTH = 12  # hypotheses
_FEW = 4  # lines, which are not followed to their ends
_MAX_CHARACTERS = 64


@dataclass(frozen=True)
class _Beginning:
    """The lines from `lo` to before `hi`, which begin with the same `depth` folded characters."""

    lo: int
    hi: int
    depth: int
    total: float  # natural log-probability of these characters
    an_id: int  # of the last
    parent: int


class LineWalk:
    """A search of likely lines that begin with a prefix."""

    def __init__(
        self, context: str, prefix: str, index: LineIndex, vocabulary: Vocabulary, *, wanted: int
    ) -> None:
        """Find about `wanted` lines that begin with a context and a prefix, but for case and accents."""
        self._index, self._wanted = index, wanted
        self._ids_of = _ids_by_number(index, vocabulary)
        self._query = index.lines.encode(fold(context + prefix))
        lo, hi = index.range_of(fold(context))
        depth = len(fold(context))
        self._live = [_Beginning(lo, hi, depth, 0.0, 0, 0)] if lo < hi else []
        self._found: list[int] = []

    def run(self, network: StepNetwork, logits: Floats, state: State) -> list[int]:
        """Return the lines by a network with logits (V,) and state (1, S) after the context."""
        logprobs = log_softmax(logits[None])  # (live, V - 1)
        while True:
            self._extend(logprobs)
            is_deep = bool(self._live) and self._live[0].depth >= len(self._query) + _MAX_CHARACTERS
            if not self._live or len(self._found) >= self._wanted or is_deep:
                return self._found
            ids = np.array([[one.an_id for one in self._live]], np.int32)
            stepped, state = network.step(ids, state[[one.parent for one in self._live]])
            logprobs = log_softmax(stepped[0])

    def _extend(self, logprobs: NDArray[np.float64]) -> None:
        """Replace the live hypotheses by their likeliest extensions; those of few lines are found."""
        extended = [
            one
            for parent, beginning in enumerate(self._live)
            for one in self._extensions(beginning, parent, logprobs[parent])
        ]
        extended.sort(key=lambda one: -one.total)
        self._live = []
        left = _WIDTH
        for one in extended:
            is_typed = one.depth >= len(self._query)
            if one.an_id == 0 or (is_typed and one.hi - one.lo <= _FEW):
                # Not again in another form of the character, as in the other case.
                new = [line for line in range(one.lo, one.hi) if line not in self._found][:_FEW]
                self._found += new
                left -= bool(new)
            else:
                self._live.append(one)
                left -= 1
            if left == 0:
                break

    def _extensions(
        self, beginning: _Beginning, parent: int, logprobs: NDArray[np.float64]
    ) -> list[_Beginning]:
        lo, depth = beginning.lo, beginning.depth
        extensions = []
        for number, hi in self._index.children(lo, beginning.hi, depth):
            if depth >= len(self._query) or number == self._query[depth]:
                if number == 0:  # the line ends here
                    extensions.append(_Beginning(lo, hi, depth, beginning.total, 0, parent))
                for an_id in self._ids_of.get(number, ()):
                    total = beginning.total + float(logprobs[an_id - 1])
                    extensions.append(_Beginning(lo, hi, depth + 1, total, an_id, parent))
            lo = hi
        return extensions


def _ids_by_number(index: LineIndex, vocabulary: Vocabulary) -> dict[int, list[int]]:
    """Return the ids of the characters that fold to each number; of those that fold to several, none."""
    ids: dict[int, list[int]] = {}
    for an_id, character in enumerate(vocabulary.characters, 1):
        numbers = index.lines.encode(fold(character)).tolist()
        if len(numbers) == 1 and numbers[0] > 0:
            ids.setdefault(numbers[0], []).append(an_id)
    return ids
