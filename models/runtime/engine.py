"""A loaded model: its networks, state caches and schedulers.

A model predicts with its network and context mixing (`nextchar.models.runtime.mixture`), unless a
request asks for the network alone. Anomaly scores are made from the surprisal of the network alone, because a
mixture finds fewer anomalies (docs/engineering/anomaly-study.md). Completions and distributions run in a
scheduler of the model, one thread per precision and expert; surprisal is computed in the calling thread.

Prompts. The model of independent records, as its card says, reads every prompt as the beginning of a line.

Seeds. The same request with the same seed gives the same text alone and in any batch, whatever the cache
holds: the logits of a row are bit-identical in every batch and chunk, and its choices depend only on them,
the seed, the completion's index and the position. For float32 this is checked when a model is loaded
(`stats()["batch_invariant"]`), and ONNX Runtime's kernel on another kind of processor may round differently.
With our int8 kernels, whose products are exact integers and whose floats are rounded in one order, it is the
same on any. The int8 graphs of architectures without kernels scale their activations by the whole batch, so
seeded requests use float32 there.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import get_args

from nextchar.models.errors import InvalidInput, Unavailable
from nextchar.models.runtime.beam import BeamSearch
from nextchar.models.runtime.decoding import Floats
from nextchar.models.runtime.generation import (
    GenerationRequest,
    OnBits,
    PredictionRequest,
    ScheduledRequest,
    WeighingRequest,
    as_prompt,
    owner_of,
)
from nextchar.models.runtime.lstm_network import LstmNetwork
from nextchar.models.runtime.model_networks import NetworkKey, is_batch_invariant, load_networks
from nextchar.models.runtime.requests import (
    ANYONE,
    Caller,
    CharacterLogprobs,
    CompletionRequest,
    Distribution,
    Expert,
    OnEvent,
    check_bias,
    check_request,
)
from nextchar.models.runtime.scheduler import Scheduler
from nextchar.models.runtime.session import Check, CheckedNetwork, State, StepNetwork, no_check
from nextchar.models.runtime.state_cache import CHUNK, StateCache
from nextchar.models.runtime.surprisal import (
    LineSurprisal,
    TopCharacters,
    continuation_bits,
    line_surprisal,
    stream_surprisal,
    text_logprobs,
    top_characters,
)
from nextchar.models.saved_model import SavedModel

log = logging.getLogger(__name__)


MAX_WEIGHED = 1024
"""Answers of `Engine.weigh_lines` that are kept, of some kilobytes each: many people type the same first
characters. As cached states, they are shared by no two callers."""


class Ticket:
    """A running request. Its methods may be called from any thread, including a listener."""

    def __init__(self, scheduler: Scheduler, request: ScheduledRequest) -> None:
        self._scheduler, self._request = scheduler, request

    def cancel(self) -> None:
        """End the request before the next step, unless it has ended; its last event is Usage."""
        self._scheduler.cancel(self._request)

    def pause(self) -> None:
        """Stop generating until `resume`."""
        self._scheduler.pause(self._request)

    def resume(self) -> None:
        """Continue generating."""
        self._scheduler.resume(self._request)


class Engine:
    """One model. Thread-safe."""

    def __init__(
        self, saved: SavedModel, *, threads: int = 1, cache_bytes: int = 64 << 20, max_waiting: int = 256
    ) -> None:
        """Load the model.

        Args:
            saved: the model.
            threads: cores for a large step; more than one takes the memory of the weights twice.
            cache_bytes: limit of the state caches of all precisions together.
            max_waiting: see `Scheduler.submit`.

        Raises:
            Unavailable: a file is damaged or missing (code `model_damaged`).
        """
        self.saved = saved
        self.vocabulary = saved.vocabulary
        self._id_of = {character: i for i, character in enumerate(saved.vocabulary.characters, 1)}
        self._starts_line = saved.card.kind == "records"
        loaded = load_networks(saved, threads=threads)
        self._networks, self.weight_bytes = loaded.networks, loaded.weight_bytes
        self._has_mixture = ("float32", "mixture") in self._networks
        self.network = self._networks["float32", "network"]
        self.batch_invariant = is_batch_invariant(self.network)
        self._max_waiting = max_waiting
        self._cache_limits = _cache_limits(list(self._networks), cache_bytes)
        self._schedulers: dict[NetworkKey, Scheduler] = {}  # of the networks that requests have used
        self._starting = threading.Lock()  # guards the dict above and the next field
        self._is_closing = False
        self._weighing = threading.Lock()  # guards the next field
        self._weighed: dict[tuple[str, ...], list[float]] = {}  # least recently used first
        int8 = self._networks.get(("int8", "network"))
        self._compiled = int8 if isinstance(int8, LstmNetwork) else None
        self._cannot_compile = False
        if self._compiled:
            self._prepare(self._compiled)

    def complete(self, request: CompletionRequest, on_event: OnEvent) -> Ticket:
        """Start a completion. `on_event` is called from the scheduler's thread, last with Usage or Failed.

        Raises:
            InvalidInput: options are out of range, contradict each other or need what the model lacks.
            Busy: too many requests are waiting.
            Unavailable: the engine is closing.
        """
        check_request(request)
        check_bias(request, len(self.vocabulary))
        scheduler = self._scheduler(self._precision(request), request.expert)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        if request.beam:
            scheduled: ScheduledRequest = BeamSearch(
                request,
                self.vocabulary,
                self._id_of,
                on_event,
                scheduler.network,
                starts_line=self._starts_line,
            )
        else:
            scheduled = GenerationRequest(
                request, self.vocabulary, self._id_of, on_event, seed=seed, starts_line=self._starts_line
            )
        scheduler.submit(scheduled)
        return Ticket(scheduler, scheduled)

    def predict(
        self,
        prompt: str,
        on_result: Callable[[Distribution | Exception], None],
        *,
        top: int,
        temperature: float = 1.0,
        caller: Caller = ANYONE,
        expert: Expert = "mixture",
    ) -> Ticket:
        """Compute the distribution after NFC `prompt`, in float32, with the `top` likeliest characters.

        `on_result` is called from the scheduler's thread with the distribution or an error, unless the
        request is cancelled.

        Raises:
            Busy: too many requests are waiting.
            Unavailable: the engine is closing.
        """
        request = PredictionRequest(
            prompt,
            self.vocabulary,
            self._id_of,
            on_result,
            top=top,
            temperature=temperature,
            caller=caller,
            starts_line=self._starts_line,
        )
        scheduler = self._scheduler("float32", expert)
        scheduler.submit(request)
        return Ticket(scheduler, request)

    def weigh(
        self,
        prompt: str,
        continuations: Sequence[str],
        on_bits: OnBits,
        *,
        longest: int,
        caller: Caller = ANYONE,
    ) -> Ticket:
        """Compute how likely continuations of at least one character are after NFC `prompt`, by the network.

        `on_bits` is called from the scheduler's thread with the bits of each, or an error, unless the request
        is cancelled. Of a continuation its first `longest` characters count.

        Raises:
            Busy: too many requests are waiting.
            Unavailable: the engine is closing.
        """
        scheduler = self._fast_scheduler()
        request = WeighingRequest(
            prompt,
            [self.vocabulary.encode(text[:longest]) for text in continuations],
            self._id_of,
            on_bits,
            scheduler.network,
            caller=caller,
            starts_line=self._starts_line,
        )
        scheduler.submit(request)
        return Ticket(scheduler, request)

    def weigh_lines(
        self, prompt: str, continuations: Sequence[str], *, caller: Caller = ANYONE
    ) -> list[float]:
        """Return the bits of continuations of at least one character after NFC `prompt`, by the network.

        They are lines that exist, so what the contexts of a mixture add is in their counts; it would take
        twice the time. Runs in the calling thread: to pass on what is so short to the scheduler's thread
        takes longer than to do it.
        """
        key = (owner_of(caller), prompt, *continuations)
        with self._weighing:
            bits = self._weighed.pop(key, None)
        if bits is None:
            network, logits, state = self._read(prompt, caller)
            bits = continuation_bits(network, [*map(self.vocabulary.encode, continuations)], logits, state)
        with self._weighing:
            self._weighed[key] = bits
            if len(self._weighed) > MAX_WEIGHED:
                del self._weighed[next(iter(self._weighed))]
        return bits

    def _read(self, text: str, caller: Caller) -> tuple[StepNetwork, Floats, State]:
        """Return the fast network with logits (V,) and state (1, S) after a prompt; a part may be cached.

        Raises Unavailable: the engine is closing.
        """
        scheduler = self._fast_scheduler()
        network, cache, text = (
            scheduler.network,
            scheduler.cache,
            as_prompt(text, starts_line=self._starts_line),
        )
        # The last character is always read: its logits are needed, and logits are not cached.
        last = len(text) - 1
        prefix = cache.match(text[:last], owner_of(caller))
        state = network.initial_state() if prefix.state is None else prefix.state[None]
        at = prefix.length
        while True:
            end = min(last if at < last else len(text), (at // CHUNK + 1) * CHUNK)
            logits, state = network.step(self.vocabulary.encode(text[at:end])[:, None], state, end - at - 1)
            cache.insert(prefix, text, end, state[0])
            if end == len(text):
                return network, logits[0, 0], state
            at = end

    def _fast_scheduler(self) -> Scheduler:
        """Return the scheduler of the fastest network. Raises Unavailable: the engine is closing."""
        return self._scheduler("int8" if self._prefers_int8(seeded=False) else "float32", "network")

    def line_surprisal(
        self, lines: Sequence[str], *, fast: bool = False, check: Check = no_check
    ) -> list[LineSurprisal]:
        """Return the network's surprisal of each line of characters, read by itself and with its newline.

        In float32; with `fast` in int8 if the model has it and its kernels compile. Runs in the calling
        thread. `check` is called before each step of the network, here and below.
        """
        network = CheckedNetwork(self._network_for(fast=fast), check)
        return line_surprisal(network, self.vocabulary, lines, with_end=True)

    def stream_surprisal(
        self, lines: Sequence[str], state: State | None, *, fast: bool = False, check: Check = no_check
    ) -> tuple[list[LineSurprisal], State]:
        """Return the network's surprisal of lines read in turn; see `nextchar.models.runtime.surprisal`."""
        network = CheckedNetwork(self._network_for(fast=fast), check)
        return stream_surprisal(network, self.vocabulary, lines, state)

    @property
    def has_fast(self) -> bool:
        """Whether `fast` reads in int8."""
        return self._compiled is not None and not self._cannot_compile

    @property
    def state_size(self) -> int:
        """S, the numbers in a state."""
        return int(self.network.initial_state().shape[1])

    def text_logprobs(
        self, text: str, *, top: int, context: str = "\n", expert: Expert = "mixture", check: Check = no_check
    ) -> list[CharacterLogprobs]:
        """Return each character of NFC `text` with its log-probability and the `top` likeliest there.

        In float32, in the calling thread.
        """
        network = CheckedNetwork(self._network("float32", expert), check)
        return text_logprobs(network, self.vocabulary, text, top=top, context=context)

    def top_characters(self, text: str, *, top: int, check: Check = no_check) -> TopCharacters:
        """Return the network's `top` likeliest characters at each position of NFC `text`, after a newline.

        In float32, in the calling thread.
        """
        return top_characters(CheckedNetwork(self.network, check), self.vocabulary, text, top=top)

    def stats(self) -> dict[str, float]:
        """Return counters since the start and current figures, summed over precisions and experts."""
        totals: dict[str, float] = {
            "weight_bytes": self.weight_bytes,
            "batch_invariant": self.batch_invariant,
        }
        for scheduler in list(self._schedulers.values()):
            cache = scheduler.cache
            figures = scheduler.counters | {
                "active": scheduler.active,
                "waiting": scheduler.waiting,
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

    def steps_by_batch_size(self) -> list[int]:
        """Return how many steps had 0, 1, 2, … MAX_BATCH sequences."""
        schedulers = list(self._schedulers.values())
        return [sum(steps) for steps in zip(*(s.steps_by_batch_size for s in schedulers), strict=True)]

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse new requests and wait for the running ones; see `Scheduler.close`."""
        with self._starting:
            self._is_closing = True
        for scheduler in self._schedulers.values():
            scheduler.close(timeout_s)

    def _prepare(self, network: LstmNetwork) -> None:
        try:
            network.prepare()
        except Exception:  # any error of the compiler; float32 remains
            log.exception("the int8 kernels cannot be compiled on this machine")
            self._cannot_compile = True

    def _network_for(self, *, fast: bool) -> StepNetwork:
        return self._compiled if fast and self._compiled and not self._cannot_compile else self.network

    def _precision(self, request: CompletionRequest) -> str:
        precision: str = request.precision
        if precision == "auto":
            precision = "int8" if self._prefers_int8(seeded=request.seed is not None) else "float32"
        if (precision, "network") not in self._networks:
            raise InvalidInput(
                f"model {self.saved.card.reference} has no {precision} weights", param="precision"
            )
        if precision == "int8" and self._cannot_compile:
            raise Unavailable(
                "int8 cannot be compiled on this machine; use precision float32", code="no_compiler"
            )
        return precision

    def _network(self, precision: str, expert: Expert) -> StepNetwork:
        return self._networks[self._key(precision, expert)]

    def _key(self, precision: str, expert: Expert) -> NetworkKey:
        """Return the key of the network for an expert. Raises InvalidInput: there is no such expert."""
        if expert not in get_args(Expert):
            raise InvalidInput(f'expert is {expert!r}; it can be "mixture" or "network"', param="expert")
        return precision, "mixture" if expert == "mixture" and self._has_mixture else "network"

    def _scheduler(self, precision: str, expert: Expert) -> Scheduler:
        """Return the scheduler of a network; it starts with the first request."""
        key = self._key(precision, expert)
        with self._starting:
            if key not in self._schedulers:
                reference = self.saved.card.reference
                if self._is_closing:
                    raise Unavailable(
                        f"model {reference} is being unloaded; try again", code="model_unloading"
                    )
                self._schedulers[key] = Scheduler(
                    self._networks[key],
                    StateCache(self._cache_limits[key]),
                    max_waiting=self._max_waiting,
                    name="-".join((reference, *key)),
                )
            return self._schedulers[key]

    def _prefers_int8(self, *, seeded: bool) -> bool:
        """Whether "auto" means int8."""
        if self._compiled:
            return not self._cannot_compile
        return ("int8", "network") in self._networks and not seeded


_MIXTURE_SHARE = 7  # of a cache, in units of that of the network alone, which few requests ask for


def _cache_limits(networks: Sequence[NetworkKey], cache_bytes: int) -> dict[NetworkKey, int]:
    """Return how many bytes the state cache of each network may have; together at most `cache_bytes`.

    >>> _cache_limits([("int8", "network"), ("int8", "mixture")], 800)
    {('int8', 'network'): 100, ('int8', 'mixture'): 700}
    """
    shares = {key: _MIXTURE_SHARE if key[1] == "mixture" else 1 for key in networks}
    return {key: cache_bytes * share // sum(shares.values()) for key, share in shares.items()}
