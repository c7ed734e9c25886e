"""A loaded model, ready to answer: network, state cache and batcher behind four calls.

Completions and distributions go through the model's batcher, one thread a precision; scores are read in
the calling thread, beside it. Knows no HTTP and no storage.

What is promised of a seed. The same request with the same seed gives the same text alone, in any company,
and whatever the cache holds: a row's logits are the same bits in every batch and slice, and its choices
depend on them, the seed, the completion's index and the place only. In float32 this is checked when a model
is loaded (`stats()["batch_invariant"]` says so); in int8 the products are of integers, and exact. Another
processor may round otherwise. Only the int8 graphs of models from before there were kernels scale their
activations by all that is in the call: for those a seed means float32.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from models.anomaly import ngram_surprisal
from models.anomaly.explanation import Span, explain
from models.errors import InvalidInput, Unavailable
from models.runtime.adaptation import MOST_WEIGHTS, Memory, read_adapting
from models.runtime.batcher import Batcher
from models.runtime.beam import BeamJob
from models.runtime.lstm_network import LstmNetwork
from models.runtime.request_validation import check_bias, check_request
from models.runtime.requests import CharacterLogprobs, CompletionRequest, Distribution, OnEvent
from models.runtime.scoring import (
    LineSurprisal,
    TopCharacters,
    describe_text,
    read_lines,
    read_on,
    score_lines,
    score_text,
    top_characters,
)
from models.runtime.sequences import CompletionJob, Job, NextJob
from models.runtime.session import CheckedNetwork, StepNetwork, open_network
from models.runtime.state_cache import StateCache
from models.saved_model import SavedModel

log = logging.getLogger(__name__)

FLOAT32_FILE = "model.onnx"
INT8_FILE = "model.int8.npz"
INT8_GRAPH_FILE = "model.int8.onnx"
"""For architectures that the kernels do not know."""

Check = Callable[[], None]


def _go_on() -> None:
    """Check nothing."""


class Ticket:
    """A request under way. Its methods may be called from any thread, also from a listener."""

    def __init__(self, batcher: Batcher, job: Job) -> None:
        self._batcher, self._job = batcher, job

    def cancel(self) -> None:
        """End the request before the next step, if it is not over; its events end with Usage."""
        self._batcher.cancel(self._job)

    def pause(self) -> None:
        """Generate nothing more of it until `resume`: nobody reads what there is."""
        self._batcher.pause(self._job)

    def resume(self) -> None:
        """Go on generating."""
        self._batcher.resume(self._job)


class Engine:
    """One model. All calls may come from any thread."""

    def __init__(
        self, saved: SavedModel, *, threads: int = 1, cache_bytes: int = 64 << 20, max_waiting: int = 256
    ) -> None:
        """Load the model; `threads` cores work on a large step, which costs the weights' memory twice.

        Raises:
            Unavailable: a file is damaged or missing (code `model_damaged`).
        """
        self.saved = saved
        self._vocabulary = saved.vocabulary
        self._id_of = {character: i for i, character in enumerate(saved.vocabulary.characters, 1)}
        files = [("float32", FLOAT32_FILE), ("int8", INT8_GRAPH_FILE), ("int8", INT8_FILE)]
        names = {precision: name for precision, name in files if name in saved.card.files}
        if "float32" not in names:
            raise Unavailable(f"model {saved.card.reference} has no {FLOAT32_FILE}", code="model_damaged")
        networks = {precision: self._load(name, threads) for precision, name in names.items()}
        self._network = networks["float32"]
        self._ngram = None
        if ngram_surprisal.FILE in saved.card.files:
            self._ngram = ngram_surprisal.load(saved.file(ngram_surprisal.FILE), saved.vocabulary)
        self.weight_bytes = sum(saved.card.files[name].bytes for name in names.values())
        self.batch_invariant = is_batch_invariant(self._network)
        share = cache_bytes // len(networks)  # states of one precision are of no use to the other
        self._batchers = {
            precision: Batcher(
                network,
                StateCache(share),
                max_waiting=max_waiting,
                name=f"{saved.card.reference}-{precision}",
            )
            for precision, network in networks.items()
        }
        int8 = networks.get("int8")
        self._compiled = int8 if isinstance(int8, LstmNetwork) else None
        self._cannot_compile = False
        if self._compiled:
            # It takes seconds, the first time on a machine: float32 answers the first requests.
            compiling = partial(self._compile, self._compiled)
            threading.Thread(target=compiling, name="compile", daemon=True).start()

    def complete(self, request: CompletionRequest, on_event: OnEvent) -> Ticket:
        """Start a completion; `on_event` is called from the engine's thread, in order, to Usage or Failed.

        Raises:
            InvalidInput: the options contradict each other, or ask for what the model does not have.
            Busy: too many requests are waiting.
            Unavailable: the engine is closing.
        """
        check_request(request)
        check_bias(request, len(self._vocabulary))
        batcher = self._batcher(request)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        if request.beam:
            job: Job = BeamJob(request, self._vocabulary, self._id_of, on_event, batcher.network)
        else:
            job = CompletionJob(request, self._vocabulary, self._id_of, on_event, seed=seed)
        batcher.submit(job)
        return Ticket(batcher, job)

    def predict(
        self,
        prompt: str,
        answer: Callable[[Distribution | Exception], None],
        *,
        top: int,
        temperature: float = 1.0,
        client: str = "",
    ) -> Ticket:
        """Work out the distribution after NFC `prompt`, in float32, with the `top` likeliest characters.

        `answer` is called with it, or with what went wrong, from the engine's thread; not if it is cancelled.

        Raises:
            Busy: too many requests are waiting.
            Unavailable: the engine is closing.
        """
        job = NextJob(
            prompt, self._vocabulary, self._id_of, answer, top=top, temperature=temperature, client=client
        )
        self._batchers["float32"].submit(job)
        return Ticket(self._batchers["float32"], job)

    def next(self, prompt: str, *, top: int, temperature: float = 1.0) -> Distribution:
        """Return what `predict` answers, once it is there. Raises as `predict`."""
        answers: list[Distribution | Exception] = []
        arrived = threading.Event()

        def answer(value: Distribution | Exception) -> None:
            answers.append(value)
            arrived.set()

        self.predict(prompt, answer, top=top, temperature=temperature)
        arrived.wait()
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def score(self, text: str, *, context: str = "\n") -> NDArray[np.float64]:
        """Return the surprisal in bits of each character of NFC `text`, (len(text),), after `context`.

        In float32, in the calling thread. See `models.runtime.scoring`.
        """
        return score_text(self._network, self._vocabulary, text, context=context)

    def score_lines(self, lines: Sequence[str], *, context: str = "\n") -> list[NDArray[np.float64]]:
        """Return `score` of each line, each after the same `context`; many lines are read side by side."""
        return score_lines(self._network, self._vocabulary, lines, context=context)

    def read_lines(
        self, lines: Sequence[str], *, fast: bool = False, check: Check = _go_on
    ) -> list[LineSurprisal]:
        """Read each line of characters by itself, with the newline behind it, in the calling thread.

        In float32; with `fast` in int8, where the model has it and this machine can compile its kernels.
        `check` is called before each step of the network, here and below; what it raises ends the reading.
        """
        network = CheckedNetwork(self._reader(fast=fast), check)
        readings = read_lines(network, self._vocabulary, lines, with_end=True)
        return self._with_ngram(readings, lines)

    @property
    def has_fast(self) -> bool:
        """Whether `fast` reads in another precision than float32, as far as is known."""
        return self._compiled is not None and not self._cannot_compile

    def read_on(
        self,
        lines: Sequence[str],
        state: NDArray[np.float32] | None,
        *,
        fast: bool = False,
        check: Check = _go_on,
    ) -> tuple[list[LineSurprisal], NDArray[np.float32]]:
        """Read lines one behind the other, from and to a state; see `models.runtime.scoring.read_on`."""
        network = CheckedNetwork(self._reader(fast=fast), check)
        readings, state = read_on(network, self._vocabulary, lines, state)
        return self._with_ngram(readings, lines), state

    def read_adapting(
        self, lines: Sequence[str], memory: Memory | None, *, check: Check = _go_on
    ) -> tuple[list[LineSurprisal], Memory]:
        """Read lines one behind the other and learn from each; see `models.runtime.adaptation`.

        Raises:
            InvalidInput: as `check_adapting`.
        """
        self.check_adapting()
        units = self.saved.card.network.units
        network = CheckedNetwork(self._network, check)
        readings, memory = read_adapting(network, self._vocabulary, lines, memory, units=units)
        return self._with_ngram(readings, lines), memory

    def check_adapting(self) -> None:
        """Raise InvalidInput if the model is no LSTM, or its output layer is too large (`cannot_adapt`)."""
        network = self.saved.card.network
        size = network.units * (self._network.V - 1)
        if network.context is not None or self.state_size != 2 * network.layers * network.units:
            raise InvalidInput(
                f"a {network.architecture} cannot adapt to a stream; stacked LSTMs can",
                code="cannot_adapt",
                param="adapt",
            )
        if size > MOST_WEIGHTS:
            raise InvalidInput(
                f"an output layer of {size:,} weights is too large to adapt; the limit is {MOST_WEIGHTS:,}",
                code="cannot_adapt",
                param="adapt",
            )

    def explain(
        self, lines: Sequence[str], *, threshold: float, max_read: int, check: Check = _go_on
    ) -> list[list[Span] | None]:
        """Return the odd spans of each line of characters; see `models.anomaly.explanation.explain`."""
        network = CheckedNetwork(self._network, check)
        return explain(network, self._vocabulary, lines, threshold=threshold, max_read=max_read)

    @property
    def state_size(self) -> int:
        """Return S, the numbers in a state."""
        return int(self._network.initial_state().shape[1])

    def describe(
        self, text: str, *, top: int, context: str = "\n", check: Check = _go_on
    ) -> list[CharacterLogprobs]:
        """Return each character of NFC `text` with its log-probability and the `top` likeliest there.

        In float32, in the calling thread: what echoing a prompt with log-probabilities needs.
        """
        network = CheckedNetwork(self._network, check)
        return describe_text(network, self._vocabulary, text, top=top, context=context)

    def top_characters(self, text: str, *, top: int, check: Check = _go_on) -> TopCharacters:
        """Return the `top` likeliest characters at each place of NFC `text`, read after a newline.

        In float32, in the calling thread.
        """
        return top_characters(CheckedNetwork(self._network, check), self._vocabulary, text, top=top)

    def stats(self) -> dict[str, float]:
        """Return counters since the start, and what is going on now, over both precisions."""
        totals: dict[str, float] = {
            "weight_bytes": self.weight_bytes,
            "batch_invariant": self.batch_invariant,
        }
        for batcher in self._batchers.values():
            cache = batcher.cache
            figures = batcher.counters | {
                "active": batcher.active,
                "waiting": batcher.waiting,
                "cache_bytes": cache.bytes,
                "cache_entries": cache.entries,
                "cache_lookups": cache.lookups,
                "cache_evictions": cache.evictions,
                "cache_asked_characters": cache.asked_characters,
                "cache_hit_characters": cache.hit_characters,
            }
            for name, value in figures.items():
                totals[name] = totals.get(name, 0) + value
        return totals

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse new requests, let those under way end, and stop; see `Batcher.close`."""
        for batcher in self._batchers.values():
            batcher.close(timeout_s)

    def _compile(self, network: LstmNetwork) -> None:
        try:
            network.prepare()
        except Exception:  # whatever a compiler says of a processor nobody here has seen; float32 goes on
            log.exception("the int8 kernels cannot be compiled here")
            self._cannot_compile = True

    def _with_ngram(self, readings: list[LineSurprisal], lines: Sequence[str]) -> list[LineSurprisal]:
        return ngram_surprisal.with_ngram(readings, lines, self._ngram) if self._ngram else readings

    def _reader(self, *, fast: bool) -> StepNetwork:
        if fast and self._compiled:
            if not (self._compiled.is_ready or self._cannot_compile):
                self._compile(self._compiled)  # waits for the thread that does so already
            if not self._cannot_compile:
                return self._compiled
        return self._network

    def _load(self, name: str, threads: int) -> StepNetwork:
        reference = self.saved.card.reference
        try:
            network = open_network(name, self.saved.file(name), threads=threads)
        except ValueError as error:
            raise Unavailable(f"model {reference} cannot be loaded: {error}", code="model_damaged") from None
        vocabulary_size = len(self._vocabulary)
        if vocabulary_size != network.V:
            raise Unavailable(
                f"model {reference} has {network.V} outputs and {vocabulary_size} ids",
                code="model_damaged",
            )
        return network

    def _batcher(self, request: CompletionRequest) -> Batcher:
        precision = request.precision
        if precision == "auto":
            precision = "int8" if self._prefers_int8(seeded=request.seed is not None) else "float32"
        if precision not in self._batchers:
            raise InvalidInput(
                f"model {self.saved.card.reference} has no {precision} form", param="precision"
            )
        if precision == "int8" and self._cannot_compile:
            raise Unavailable("int8 cannot be compiled on this machine; ask for float32", code="no_compiler")
        return self._batchers[precision]

    def _prefers_int8(self, *, seeded: bool) -> bool:
        """Whether int8 answers a request that leaves the choice to us; for one seed it is always the same."""
        if self._compiled:
            return not self._cannot_compile and (seeded or self._compiled.is_ready)
        return "int8" in self._batchers and not seeded


def is_batch_invariant(network: StepNetwork) -> bool:
    """Return whether a row's results are the same bits alone, in a batch, and in slices of any length.

    They are with ONNX Runtime's own matrix kernels, which add up each product in one order whatever the
    number of rows. Where a build uses others, the same seed could give another text under load.
    """
    # In one call each, also of a network that shares larger ones between threads.
    return all(_is_row_by_row(network, rows, steps) for rows, steps in ((11, 2), (31, 1)))


def _is_row_by_row(network: StepNetwork, rows: int, steps: int) -> bool:
    random = np.random.default_rng(0)
    ids = random.integers(0, network.V, (steps, rows), np.int32)
    start = random.uniform(-0.5, 0.5, (rows, network.initial_state().shape[1])).astype(np.float32)
    logits, state = network.step(ids, start)
    for row in range(rows):
        alone = start[row : row + 1]
        for step in range(steps):
            one, alone = network.step(ids[step : step + 1, row : row + 1], alone)
            if not np.array_equal(one[0, 0], logits[step, row]):
                return False
        if not np.array_equal(alone[0], state[row]):
            return False
    return True
