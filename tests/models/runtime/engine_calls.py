"""Calls to an engine that wait for the answer, with a deadline."""

import queue
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nextchar.models.runtime.engine import Engine, Ticket
from nextchar.models.runtime.requests import (
    CompletionRequest,
    Distribution,
    Event,
    Failed,
    Finished,
    Piece,
    Usage,
)
from nextchar.models.runtime.surprisal import line_surprisal

DEADLINE_S = 100


@dataclass
class StartedRequest:
    """A running request, and the events that have arrived."""

    arriving: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)
    events: list[Event] = field(default_factory=list)
    ticket: Ticket | None = None

    def wait_for(self, *kinds: type) -> Event:
        """Return the next event of one of `kinds`."""
        while True:
            event = self.arriving.get(timeout=DEADLINE_S)
            self.events.append(event)
            if isinstance(event, kinds):
                return event

    def answer(self) -> "Answer":
        self.wait_for(Usage, Failed)
        return Answer(self.events)


@dataclass
class Answer:
    events: list[Event]

    def text(self, index: int = 0) -> str:
        return "".join(e.text for e in self.events if isinstance(e, Piece) and e.index == index)

    def finished(self, index: int = 0) -> Finished:
        (event,) = [e for e in self.events if isinstance(e, Finished) and e.index == index]
        return event

    @property
    def usage(self) -> Usage:
        assert isinstance(self.events[-1], Usage), self.events[-1]
        return self.events[-1]


def start(engine: Engine, prompt: str, **options: Any) -> StartedRequest:
    started = StartedRequest()
    started.ticket = engine.complete(CompletionRequest(prompt=prompt, **options), started.arriving.put)
    return started


def complete(engine: Engine, prompt: str, **options: Any) -> Answer:
    return start(engine, prompt, **options).answer()


def predict(engine: Engine, prompt: str, *, top: int, temperature: float = 1.0) -> Distribution:
    answers: queue.SimpleQueue[Distribution | Exception] = queue.SimpleQueue()
    engine.predict(prompt, answers.put, top=top, temperature=temperature)
    answer = answers.get(timeout=DEADLINE_S)
    assert isinstance(answer, Distribution), answer
    return answer


def bits_of(engine: Engine, text: str, *, context: str = "\n") -> np.ndarray:
    """The surprisal of each character of `text` after `context`, (N,)."""
    [surprisal] = line_surprisal(engine.network, engine.vocabulary, [text], context=context)
    return surprisal.bits.astype(np.float64)
