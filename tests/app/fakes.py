"""An engine whose answers are obvious, and a saved model for it to be loaded from."""

import string
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nextchar.app.models.engines import Loaded
from nextchar.models.anomaly.scorer import Scorer
from nextchar.models.anomaly.spans import Span
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import Busy
from nextchar.models.loaded_model import suggester_of
from nextchar.models.runtime.requests import (
    ANYONE,
    Caller,
    CharacterLogprobs,
    CompletionRequest,
    Distribution,
    Expert,
    Failed,
    Finished,
    OnEvent,
    Piece,
    Usage,
)
from nextchar.models.runtime.surprisal import LineSurprisal, TopCharacters
from nextchar.models.saved_model import Card, SavedModel, describe_files
from nextchar.models.text import successors
from nextchar.models.text import templates as templates_file
from nextchar.models.text.events import Opener
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.text.masks import Masked, Masks, ModelMasks
from nextchar.models.text.successors import Successors
from nextchar.models.text.templates import Templates
from nextchar.models.text.vocabulary import Alphabet, Vocabulary
from nextchar.store.ids import new_id
from nextchar.store.models import Models

CHARACTERS = "\n abcdefghijklmnopqrstuvwxyz"

UTF8 = "ä→".encode().decode("latin-1")
"""What a model of bytes generates: characters of two and three bytes."""

FULL = "z full"
BROKEN = "z broken"
ENDLESS = "z endless"
SLOW = "z slow"
SLOW_S = 100.0
"""How long ENDLESS and SLOW take for a caller that does not stop them."""


def publish(
    models: Models,
    *,
    name: str = "fake",
    characters: str = CHARACTERS,
    alphabet: Alphabet = "characters",
    masks: tuple[str, ...] = (),
    corpus: str | None = None,
    kind: TextKind | None = None,
    lines: Sequence[str] = (),
    opener: Opener | None = None,
) -> Card:
    """Publish a model whose files are no real networks; with lines it has their templates, and the opener."""
    files = {"model.onnx": b"onnx of " + name.encode(), "model.keras": b"keras of " + name.encode()}
    if lines:
        files[templates_file.FILE] = templates_file.dump(Templates.fit(lines, opener))
        files[successors.FILE] = Successors.fit([Masked(line, None) for line in lines], lines).dump()
    card = Card(
        id=new_id("model"),
        name=name,
        created_at=1795563600,
        network=NetworkConfig(units=4, embedding=2),
        training=TrainingConfig(),
        characters=characters,
        masks=masks,
        alphabet=alphabet,
        corpus=corpus,
        kind=kind,
        parameters=123,
        report={"validation_bits_per_character": 2.0},
        files=describe_files(files),
    )
    return models.publish(card, files)


@dataclass
class FakeTicket:
    """Remembers that it was cancelled."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Set `cancelled`."""
        self.cancelled.set()

    def pause(self) -> None:
        """Set `paused`."""
        self.paused.set()

    def resume(self) -> None:
        """Clear `paused`."""
        self.paused.clear()


class FakeEngine:
    """Generates a, b, c, …, or UTF8 for a model of bytes; known characters have one bit, unknown ones eight.

    The prompt FULL is Busy, BROKEN fails after one piece, and ENDLESS gets no answer until it is cancelled.
    """

    has_fast = True

    def __init__(self, saved: SavedModel) -> None:
        saved.file("model.onnx")
        self.vocabulary = Vocabulary(saved.card.characters, saved.card.alphabet)
        self.tickets: list[FakeTicket] = []
        self.closed = threading.Event()
        self.is_reading_slowly = threading.Event()
        self.slow_readers = 0
        self._lock = threading.Lock()  # guards slow_readers

    def complete(self, request: CompletionRequest, on_event: OnEvent) -> FakeTicket:
        """Answer from another thread, as a real engine does."""
        if request.prompt == FULL:
            raise Busy("256 requests are waiting for this model", retry_after_s=1.5)
        ticket = FakeTicket()
        self.tickets.append(ticket)
        threading.Thread(target=self._run, args=(request, on_event, ticket), daemon=True).start()
        return ticket

    def _run(self, request: CompletionRequest, on_event: OnEvent, ticket: FakeTicket) -> None:
        if request.prompt == ENDLESS:
            on_event(Piece(0, "a"))
            ticket.cancelled.wait(SLOW_S)
            return
        if request.prompt == BROKEN:
            on_event(Piece(0, "a"))
            on_event(Failed(RuntimeError("secret of the engine")))
            return
        length = request.max_characters
        alphabet = string.ascii_lowercase if self.vocabulary.alphabet == "characters" else UTF8
        text = (alphabet * (length // len(alphabet) + 1))[:length]
        for index in range(request.n):
            for piece in text if request.stream else [text]:
                on_event(Piece(index, piece, _logprobs(piece) if request.logprobs is not None else ()))
            on_event(Finished(index, "length", float(length), length))
        on_event(Usage(len(request.prompt), 0, request.n * length))

    def predict(
        self,
        prompt: str,
        answer: Callable[[Distribution | Exception], None],
        *,
        top: int,
        temperature: float = 1.0,
        caller: Caller = ANYONE,
        expert: Expert = "mixture",
    ) -> FakeTicket:
        """Answer "a" for certain, and others for no reason, from another thread; nothing to ENDLESS."""
        assert caller.client and expert
        ticket = FakeTicket()
        found = Distribution(0.0 * temperature, (("a", 1.0), ("b", 0.0), ("c", 0.0))[:top])
        if prompt.startswith(ENDLESS):
            self.tickets.append(ticket)
        else:
            threading.Thread(target=answer, args=(found,), daemon=True).start()
        return ticket

    def line_surprisal(
        self, lines: Sequence[str], *, fast: bool = False, check: Callable[[], None] = lambda: None
    ) -> list[LineSurprisal]:
        """Return one bit for a known character, eight for an unknown one, and half a bit for a newline.

        All entropies are 0. A line SLOW takes until `check` raises, or SLOW_S.
        """
        assert fast in (False, True)
        if SLOW in lines:
            self._read_slowly(check)
        check()
        return [
            LineSurprisal(
                np.where(self.vocabulary.encode(line) > 0, 1, 8).astype(np.float32),
                np.zeros(len(line), np.float32),
                has_end=True,
                end_bits=0.5,
            )
            for line in lines
        ]

    def _read_slowly(self, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + SLOW_S
        with self._lock:
            self.slow_readers += 1
        self.is_reading_slowly.set()
        try:
            while time.monotonic() < deadline:
                check()
                time.sleep(0.005)
        finally:
            with self._lock:
                self.slow_readers -= 1

    def stream_surprisal(
        self,
        lines: Sequence[str],
        state: NDArray[np.float32] | None,
        *,
        fast: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[list[LineSurprisal], NDArray[np.float32]]:
        """Return `line_surprisal`; the state counts the lines."""
        before = np.zeros((1, 1), np.float32) if state is None else state
        return self.line_surprisal(lines, fast=fast, check=check), before + len(lines)

    @property
    def state_size(self) -> int:
        """Return 1."""
        return 1

    def top_characters(
        self, text: str, *, top: int, check: Callable[[], None] = lambda: None
    ) -> TopCharacters:
        """Return half a nat for every character, which is the likeliest there."""
        assert top >= 1
        check()
        ids = np.maximum(self.vocabulary.encode(text), 1)[:, None]
        return TopCharacters(ids, np.full(ids.shape, -0.5))

    def text_logprobs(
        self,
        text: str,
        *,
        top: int,
        context: str = "\n",
        expert: Expert = "mixture",
        check: Callable[[], None] = lambda: None,
    ) -> list[CharacterLogprobs]:
        """Return half a nat for every character, the likeliest there; SLOW as in `line_surprisal`."""
        assert context and expert and top >= 0
        if SLOW in context + text:
            self._read_slowly(check)
        return list(_logprobs(text))

    def stats(self) -> dict[str, float]:
        """Return one counter."""
        return {"requests": float(len(self.tickets))}

    def steps_by_batch_size(self) -> list[int]:
        """Return two steps of one sequence and one of three."""
        return [0, 2, 0, 1]

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed.set()


class FakeScorer(Scorer):
    """Scores lines by a FakeEngine; finds each unknown character anomalous and expects an `a` there."""

    def __init__(self, engine: FakeEngine, saved: SavedModel) -> None:
        name = templates_file.FILE
        templates = templates_file.load(saved.file(name)) if name in saved.card.files else None
        followers = Successors.load(saved.file(successors.FILE)) if name in saved.card.files else None
        self.masks = ModelMasks(Masks(saved.card.masks))
        super().__init__(engine, self.masks, templates=templates, successors=followers)  # type: ignore[arg-type]

    def explain(
        self,
        texts: Sequence[str],
        *,
        threshold: float,
        max_read: int,
        check: Callable[[], None] = lambda: None,
    ) -> list[list[Span] | None]:
        """Read each character once."""
        assert threshold >= 0
        check()
        ends = np.cumsum([len(text) for text in texts])
        unknown = [np.flatnonzero(self.engine.vocabulary.encode(text) == 0) for text in texts]
        return [
            [Span(int(i), int(i) + 1, 8.0, "a") for i in positions] if end <= max_read else None
            for positions, end in zip(unknown, ends, strict=True)
        ]


def loaded(saved: SavedModel, engine: FakeEngine) -> Loaded:
    """Return a model as it is loaded, with this engine."""
    scorer = FakeScorer(engine, saved)
    return Loaded(saved, engine, scorer.masks, scorer, suggester_of(saved, scorer.masks))  # type: ignore[arg-type]


def _logprobs(text: str) -> tuple[CharacterLogprobs, ...]:
    return tuple(CharacterLogprobs(character, -0.5, ((character, -0.5),)) for character in text)
