"""Evaluates a network while it trains, and keeps the weights that are best on held-out text."""

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.spec import Trainable
from nextchar.models.runtime.session import Network
from nextchar.worker.evaluation import bits_per_character, sample
from nextchar.worker.export import graph_of
from nextchar.worker.prepared_text import Text
from nextchar.worker.run_state import RunState

PATIENCE = 2  # evaluations in a row without a new best: the network overfits

_SAMPLE_CHARACTERS = 240
_THREADS = 2
_ROWS, _WARM_UP = 32, 64  # see nextchar.worker.evaluation


class Evaluator:
    """Measures held-out bits per character, and writes samples of text.

    Attributes:
        best: the weights of the best evaluation so far, in the order of the network's variables.
        sample: the newest sample.
    """

    def __init__(self, network: Trainable, text: Text, *, seed: int) -> None:
        self.best: list[NDArray[np.float32]] | None = None
        self.sample = ""
        self._network, self._text, self._seed = network, text, seed
        self._graph: Network

    def evaluate(self, state: RunState) -> float:
        """Return the held-out bits per character of the network now; note in `state` if they are the best.

        If they are not finite, nothing is noted: the run has diverged.
        """
        self._graph = Network(graph_of(self._network), threads=_THREADS)
        held_out = self._text.selection[: state.evaluation_characters]
        bits = bits_per_character(
            self._graph, held_out, before=self._text.train, rows=_ROWS, warm_up=_WARM_UP
        )
        if not np.isfinite(bits):
            return bits
        state.evaluations_since_best += bits > state.best_bits
        if bits < state.best_bits or self.best is None:
            state.best_bits, state.best_step, state.evaluations_since_best = bits, state.step, 0
            self.best = [v.numpy() for v in self._network.variables]
        state.evaluations += 1
        return bits

    def write_sample(self) -> str:
        """Return text that the network, as of the last evaluation, writes after the training text."""
        self.sample = sample(
            self._graph,
            self._text.vocabulary,
            prompt=self._text.prompt,
            characters=_SAMPLE_CHARACTERS,
            seed=self._seed,
        )
        return self.sample

    def load_best(self) -> None:
        """Set the network's weights to the best ones."""
        assert self.best is not None
        for variable, value in zip(self._network.variables, self.best, strict=True):
            variable.assign(value)
