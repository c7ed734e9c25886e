"""Asking an engine and waiting for its answer, with a deadline."""

import queue
from dataclasses import dataclass, field
from typing import Any

from models.runtime.engine import Engine, Ticket
from models.runtime.requests import CompletionRequest, Event, Failed, Finished, Piece, Usage

DEADLINE_S = 30


@dataclass
class Asked:
    """A request under way, and the events that have come."""

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
        (found,) = [e for e in self.events if isinstance(e, Finished) and e.index == index]
        return found

    @property
    def usage(self) -> Usage:
        assert isinstance(self.events[-1], Usage), self.events[-1]
        return self.events[-1]


def ask(engine: Engine, prompt: str, **options: Any) -> Asked:
    asked = Asked()
    asked.ticket = engine.complete(CompletionRequest(prompt=prompt, **options), asked.arriving.put)
    return asked


def complete(engine: Engine, prompt: str, **options: Any) -> Answer:
    return ask(engine, prompt, **options).answer()
