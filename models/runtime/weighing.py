"""How likely each of some continuations of a text is: a request that reads them side by side."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.decoding import Floats
from nextchar.models.runtime.generation import ScheduledRequest
from nextchar.models.runtime.generation import Sequence as Generated
from nextchar.models.runtime.session import State, StepNetwork
from nextchar.models.runtime.surprisal import continuation_bits

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
        client: str = "",
        user: str = "",
        starts_line: bool = False,
    ) -> None:
        super().__init__(text, id_of, client=client, user=user, starts_line=starts_line)
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
