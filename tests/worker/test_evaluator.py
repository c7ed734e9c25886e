"""Which weights of a run are kept, and what of its evaluations is noted."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures.spec import Parameter
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker import evaluator as module
from nextchar.worker.evaluator import Evaluator
from nextchar.worker.schedule import RunState, Schedule


class World:
    """A network of two numbers, and evaluations whose results are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *bits: float) -> None:
        self.network: Any = SimpleNamespace(variables=[Parameter(np.zeros(1)), Parameter(np.zeros(2))])
        self.bits: Iterator[float] = iter(bits)
        self.read: list[int] = []
        text: Any = SimpleNamespace(
            selection=np.arange(100), train=np.arange(9), vocabulary=Vocabulary("ab"), prompt="ab"
        )
        monkeypatch.setattr(module, "graph_of", lambda _: b"")
        monkeypatch.setattr(module, "Network", lambda *_, **__: None)
        monkeypatch.setattr(module, "bits_per_character", self._bits)
        self.evaluator = Evaluator(self.network, text, seed=1)
        self.state = RunState(Schedule(end=100))

    def _bits(self, *arguments: Any, **_: object) -> float:
        self.read.append(len(arguments[1]))
        return next(self.bits)

    def evaluate_at(self, step: int) -> float:
        """Evaluate weights that are the number of the step."""
        self.state.step = step
        for variable in self.network.variables:
            variable.assign(step)
        return self.evaluator.evaluate(self.state)


def test_the_best_evaluation_and_those_since_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3.0, 2.0, 2.5, 2.0, 2.1, 1.9)
    noted = []
    for step in range(6):
        bits = world.evaluate_at(step)
        state = world.state
        noted.append((bits, state.best_bits, state.best_step, state.evaluations_since_best))
        assert state.evaluations == step + 1
    assert noted == [
        (3.0, 3.0, 0, 0),
        (2.0, 2.0, 1, 0),
        (2.5, 2.0, 1, 1),
        (2.0, 2.0, 1, 1),  # as good as the best: neither better nor worse
        (2.1, 2.0, 1, 2),
        (1.9, 1.9, 5, 0),
    ]


def test_the_best_weights_are_kept_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3.0, 2.0, 2.0, 2.5)
    for step in range(1, 5):
        world.evaluate_at(step)
    world.evaluator.load_best()
    assert [variable.numpy().tolist() for variable in world.network.variables] == [[2], [2, 2]]
    world.network.variables.append(Parameter(np.zeros(1)))
    with pytest.raises(ValueError, match="shorter"):
        world.evaluator.load_best()


@pytest.mark.parametrize("bits", [np.nan, np.inf])
def test_an_evaluation_that_is_not_finite_is_not_noted(monkeypatch: pytest.MonkeyPatch, bits: float) -> None:
    world = World(monkeypatch, bits, 3.0, bits)
    world.evaluate_at(0)
    assert (world.evaluator.best, world.state) == (None, RunState(Schedule(end=100)))
    world.evaluate_at(1)
    world.evaluate_at(2)
    state = world.state
    assert (state.best_bits, state.best_step, state.evaluations, state.evaluations_since_best) == (3, 1, 1, 0)


def test_without_weights_of_its_own_an_evaluator_keeps_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3.0)
    world.state.best_bits = 2.0
    world.evaluate_at(4)
    assert world.evaluator.best is not None and world.evaluator.best[0] == 4


def test_as_many_characters_are_read_as_the_run_can_afford(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 3.0, 3.0)
    world.state.evaluation_characters = 30
    world.evaluate_at(0)
    world.state.evaluation_characters = 1000
    world.evaluate_at(1)
    assert world.read == [30, 100]
