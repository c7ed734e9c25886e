"""A loaded model, ready to answer: network, state cache and batcher behind four calls.

Completions and distributions go through the model's batcher, one thread a precision; scores are read in
the calling thread, beside it. Knows no HTTP and no storage.

What is promised of a seed. In float32, the same request with the same seed gives the same text alone, in
any company, and whatever the cache holds: a row's logits are the same bits in every batch and slice (this
is checked when a model is loaded; `stats()["batch_invariant"]` says so), and its choices depend on them,
the seed, the completion's index and the place only. Another processor may round otherwise. In int8,
activations are scaled by all that is in the call: a seed gives the same text only with equal company.
"""

import secrets
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidInput, Unavailable
from models.runtime.batcher import Batcher
from models.runtime.beam import BeamJob
from models.runtime.checks import check_request
from models.runtime.jobs import CompletionJob, Job, NextJob
from models.runtime.requests import CharacterLogprobs, CompletionRequest, Distribution, OnEvent
from models.runtime.scoring import describe_text, score_lines, score_text
from models.runtime.session import Network
from models.runtime.state_cache import StateCache
from models.saved_model import SavedModel

FLOAT32_FILE = "model.onnx"
INT8_FILE = "model.int8.onnx"


class Ticket:
    """A request under way. `cancel()` frees its slot before the next step; its events end with Usage."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def cancel(self) -> None:
        """End the request, if it is not over. May be called from any thread, also from a listener."""
        self._cancel()


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
        files = {"float32": FLOAT32_FILE, "int8": INT8_FILE}
        loaded = {p: saved.file(name) for p, name in files.items() if name in saved.card.files}
        if "float32" not in loaded:
            raise Unavailable(f"model {saved.card.reference} has no {FLOAT32_FILE}", code="model_damaged")
        networks = {precision: self._load(data, threads) for precision, data in loaded.items()}
        self._network = networks["float32"]
        self.weight_bytes = sum(map(len, loaded.values()))
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

    def complete(self, request: CompletionRequest, on_event: OnEvent) -> Ticket:
        """Start a completion; `on_event` is called from the engine's thread, in order, to Usage or Failed.

        Raises:
            InvalidInput: the options contradict each other, or ask for what the model does not have.
            Busy: too many requests are waiting.
            Unavailable: the engine is closing.
        """
        check_request(request)
        batcher = self._batcher(request)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        if request.beam:
            job: Job = BeamJob(request, self._vocabulary, self._id_of, on_event, batcher.network)
        else:
            job = CompletionJob(request, self._vocabulary, self._id_of, on_event, seed=seed)
        batcher.submit(job)
        return Ticket(lambda: batcher.cancel(job))

    def next(self, prompt: str, *, top: int, temperature: float = 1.0) -> Distribution:
        """Return the distribution after NFC `prompt`, in float32, with the `top` likeliest characters.

        Blocks until it is there: call it in a worker thread.

        Raises:
            Busy: too many requests are waiting.
            Unavailable: the engine is closing.
        """
        answers: list[Distribution | Exception] = []
        arrived = threading.Event()

        def answer(value: Distribution | Exception) -> None:
            answers.append(value)
            arrived.set()

        job: Job = NextJob(prompt, self._vocabulary, self._id_of, answer, top=top, temperature=temperature)
        self._batchers["float32"].submit(job)
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

    def describe(self, text: str, *, top: int, context: str = "\n") -> list[CharacterLogprobs]:
        """Return each character of NFC `text` with its log-probability and the `top` likeliest there.

        In float32, in the calling thread: what echoing a prompt with log-probabilities needs.
        """
        return describe_text(self._network, self._vocabulary, text, top=top, context=context)

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

    def _load(self, data: bytes, threads: int) -> Network:
        reference = self.saved.card.reference
        try:
            network = Network(data, threads=threads)
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
            precision = "int8" if request.seed is None and "int8" in self._batchers else "float32"
        if precision not in self._batchers:
            raise InvalidInput(
                f"model {self.saved.card.reference} has no {precision} form", param="precision"
            )
        return self._batchers[precision]


def is_batch_invariant(network: Network) -> bool:
    """Return whether a row's results are the same bits alone, in a batch, and in slices of any length.

    They are with ONNX Runtime's own matrix kernels, which add up each product in one order whatever the
    number of rows. Where a build uses others, the same seed could give another text under load.
    """
    random = np.random.default_rng(0)
    rows, steps = 11, 3
    ids = random.integers(0, network.V, (steps, rows), np.int32)
    start = random.uniform(-0.5, 0.5, (rows, network.S)).astype(np.float32)
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
