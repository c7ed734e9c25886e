"""The lines of a corpus that a network finds likeliest after a prefix: a beam search among them.

Each hypothesis is a beginning of lines, which are a range of the index. It is extended by the characters that
some of them go on with, in all forms that fold to the same. A hypothesis of few lines is not followed to
their ends: they are weighed as a whole afterwards (`WeighingRequest`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.decoding import Floats, log_softmax
from nextchar.models.runtime.generation import ScheduledRequest
from nextchar.models.runtime.generation import Sequence as Generated
from nextchar.models.runtime.line_index import LineIndex
from nextchar.models.runtime.requests import ANYONE, Caller, FinishReason
from nextchar.models.runtime.session import State, StepNetwork
from nextchar.models.runtime.surprisal import continuation_bits
from nextchar.models.text.line_file import fold
from nextchar.models.text.vocabulary import Vocabulary

_WIDTH = 12  # hypotheses
_FEW = 4  # lines, which are not followed to their ends
_MAX_CHARACTERS = 64

OnLines = Callable[[list[int] | Exception], None]


@dataclass(frozen=True)
class _Beginning:
    """The lines from `lo` to before `hi`, which begin with the same `depth` folded characters."""

    lo: int
    hi: int
    depth: int
    total: float  # natural log-probability of these characters
    an_id: int  # of the last
    parent: int


class LineWalk(ScheduledRequest):
    """Calls `on_lines` with likely lines that begin with a prefix, likeliest first, or with the error."""

    is_self_stepping = True

    def __init__(
        self,
        context: str,
        prefix: str,
        index: LineIndex,
        vocabulary: Vocabulary,
        id_of: dict[str, int],
        on_lines: OnLines,
        network: StepNetwork,
        *,
        wanted: int,
        caller: Caller = ANYONE,
        starts_line: bool = False,
    ) -> None:
        """Find about `wanted` lines that begin with a context and a prefix, but for case and accents."""
        super().__init__(context, id_of, caller=caller, starts_line=starts_line)
        self._index, self._network, self._on_lines, self._wanted = index, network, on_lines, wanted
        self._ids_of = _ids_by_number(index, vocabulary)
        self._query = index.lines.encode(fold(context + prefix))
        lo, hi = index.range_of(fold(context))
        depth = len(fold(context))
        self._live = [_Beginning(lo, hi, depth, 0.0, 0, 0)] if lo < hi else []
        self._found: list[int] = []
        self._logprobs: NDArray[np.float64] | None = None  # (live, V - 1)

    @property
    def max_new_characters(self) -> int:
        """The most characters that may still be read."""
        return _WIDTH * _MAX_CHARACTERS

    def begin(self, logits: Floats, state: State) -> list[Generated]:
        """Start from logits (V,) and state (1, S) after the context."""
        self._logprobs, self.state = log_softmax(logits[None]), state
        return []

    def advance(self) -> bool:
        """Extend every hypothesis by a character; return whether the search has ended."""
        self._extend()
        is_deep = bool(self._live) and self._live[0].depth >= len(self._query) + _MAX_CHARACTERS
        if not self._live or len(self._found) >= self._wanted or is_deep:
            self._on_lines(self._found)
            return True
        ids = np.array([[one.an_id for one in self._live]], np.int32)
        logits, self.state = self._network.step(ids, self.state[[one.parent for one in self._live]])
        self._logprobs = log_softmax(logits[0])
        return False

    def stop(self, reason: FinishReason) -> None:  # noqa: ARG002
        """Return the lines so far."""
        self._on_lines(self._found)

    def fail(self, error: Exception) -> None:
        """Call `on_lines` with the error."""
        self._on_lines(error)

    def _extend(self) -> None:
        """Replace the live hypotheses by their likeliest extensions; those of few lines are found."""
        extended = [
            one for parent, beginning in enumerate(self._live) for one in self._extensions(beginning, parent)
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

    def _extensions(self, beginning: _Beginning, parent: int) -> list[_Beginning]:
        assert self._logprobs is not None
        lo, depth, logprobs = beginning.lo, beginning.depth, self._logprobs[parent]
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


MAX_CONTINUATION = 16
"""Characters of a continuation that are read: those after them hardly change the order of suggestions."""

OnBits = Callable[[list[float] | Exception], None]


class WeighingRequest(ScheduledRequest):
    """Calls `on_bits` with the surprisal of each continuation of a text, in bits, or with the error."""

    is_self_stepping = True

    def __init__(
        self,
        text: str,
        continuations: Sequence[NDArray[np.int32]],
        id_of: dict[str, int],
        on_bits: OnBits,
        network: StepNetwork,
        *,
        caller: Caller = ANYONE,
        starts_line: bool = False,
    ) -> None:
        super().__init__(text, id_of, caller=caller, starts_line=starts_line)
        self._continuations, self._on_bits, self._network = continuations, on_bits, network
        self._logits: Floats | None = None

    @property
    def max_new_characters(self) -> int:
        """The most characters that may still be read after the text, over all continuations."""
        return sum(map(len, self._continuations))

    def begin(self, logits: Floats, state: State) -> list[Generated]:
        """Take logits (V,) and state (1, S) after the text; `advance` reads the rest."""
        self._logits, self.state = logits, state
        return []

    def advance(self) -> bool:
        """Read the continuations."""
        assert self._logits is not None
        self._on_bits(continuation_bits(self._network, self._continuations, self._logits, self.state))
        return True

    def fail(self, error: Exception) -> None:
        """Call `on_bits` with the error."""
        self._on_bits(error)
