"""A network together with other experts: n-grams, and matches in the training text and in what was read.

`MixtureNetwork` is a network like any other: it maps ids and a state to logits and the next state, so
sampling, scoring, state caches and streams need not know of it. A row of its state is the network's (S),
followed by what the experts have read (`nextchar.models.kernels.mixture_arguments`), most of it int32 in the
memory of float32: states may be copied, but not computed with.

The file `mixture.npz` has the end of the training text, from which n-grams are counted when a model is
loaded, the weights of the experts, and how they adapt to what is read. Older ones have fixed weights.
"""

import io
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.kernels.compile_cache import GENERATION_KERNELS, MIXTURE_KERNELS, compile_kernels
from nextchar.models.kernels.lstm_arguments import NO_SAMPLING, Sampling
from nextchar.models.kernels.mixture_arguments import (
    ADAPTATION,
    COUNT,
    FIRST_CHILD,
    ID,
    ORDER,
    RESUMED_BOOSTS,
    SET_PRECISION,
    TOTAL,
    WEIGHTS,
    Experts,
)
from nextchar.models.runtime.lstm_network import ROWS_OF_A_PART, LstmNetwork
from nextchar.models.runtime.second_thread import SecondThread
from nextchar.models.runtime.session import Logits, SharedNetwork, State
from nextchar.models.text.array_file import read_arrays
from nextchar.models.text.ngram import Ids, NgramModel

FILE = "mixture.npz"
"""The name of its file in a saved model. Older models have none."""

MAX_CHARACTERS = 2_000_000
"""Maximum number of characters, from the end of the training text, in the file. Counting their n-grams takes
0.2 s."""

_MAX_BYTES = 64 << 20  # of the arrays

Floats = NDArray[np.float32]

FIXED: Floats = np.zeros(ADAPTATION, np.float32)
"""The adaptation of a mixture that does not adapt to what is read."""


def experts_of(text: Ids, weights: Floats, *, size: int, adaptation: Floats = FIXED) -> Experts:
    """Return the experts for a training text.

    Args:
        text: (N,) its ids, or those of its end; at least one.
        weights: (WEIGHTS,)
        size: V, of the vocabulary.
        adaptation: (ADAPTATION,) see `Experts`.
    """
    compile_kernels(MIXTURE_KERNELS)  # waits if another process is compiling
    from nextchar.models.kernels.mixture import index_text

    kept: NDArray[np.int32] = np.asarray(text, np.int32)
    positions = np.zeros(1 << (len(kept).bit_length() + 1), np.int32)
    index_text(kept, positions)
    ngram = ngrams_of(kept, size=size)
    weights = np.ascontiguousarray(weights, np.float32)
    adaptation = np.ascontiguousarray(adaptation, np.float32)
    return Experts(*_tree(ngram), _unigrams(ngram), kept, positions, weights, adaptation)


def ngrams_of(text: Ids, *, size: int) -> NgramModel:
    """Return the n-grams of a text (N,) of V = `size` ids."""
    return NgramModel.fit_ids(text, size=size, order=ORDER)


def _tree(ngram: NgramModel) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the n-grams as `Experts.contexts` and `Experts.nodes`."""
    size, counted = ngram.V, ngram.counted()[:ORDER]
    levels = [1, *(len(grams) for grams, _ in counted)]
    contexts = np.zeros((sum(levels[:ORDER]) + 1, 2), np.int32)
    contexts[:, FIRST_CHILD] = sum(levels)
    nodes = np.zeros((sum(levels), 2), np.int32)
    start, end = 0, 1  # of the level above
    for grams, counts in counted:
        own = slice(end, end + len(grams))
        nodes[own, ID], nodes[own, COUNT] = grams % size, counts
        contexts[start:end, FIRST_CHILD] = end + grams.searchsorted(np.arange(end - start) * size)
        contexts[start:end, TOTAL] = np.bincount(grams // size, weights=counts, minlength=end - start)
        start, end = end, own.stop
    return contexts, nodes


def _unigrams(ngram: NgramModel) -> Floats:
    """Return `Experts.unigrams`."""
    (grams, counts), *_ = ngram.counted()
    p = np.zeros(ngram.V)
    p[grams] = counts
    distinct = np.count_nonzero(counts)
    p = (p + distinct / max(1, ngram.V - 1)) / (p.sum() + distinct)
    return np.stack([p, np.log(p)]).astype(np.float32)


def dump(text: Ids, weights: Floats, adaptation: Floats = FIXED) -> bytes:
    """Return the contents of FILE for the ids (N,) of a training text; the rest as for `experts_of`."""
    text = np.asarray(text[-MAX_CHARACTERS:])
    kind = np.min_scalar_type(int(text.max()))
    file = io.BytesIO()
    np.savez_compressed(
        file,
        allow_pickle=False,
        text=text.astype(kind),
        weights=weights.astype(np.float32),
        adaptation=adaptation.astype(np.float32),
    )
    return file.getvalue()


def load(data: bytes, *, size: int) -> Experts:
    """Return the experts in the contents of FILE for a vocabulary of V = `size` ids.

    Raises:
        Unavailable: they are damaged (code `model_damaged`).
    """
    try:
        arrays = read_arrays(data, max_bytes=_MAX_BYTES)
        text, weights, adaptation = arrays["text"], arrays["weights"], arrays.get("adaptation", FIXED)
        if weights.shape == (RESUMED_BOOSTS,):  # of an older model
            weights = np.append(weights, np.zeros(WEIGHTS - RESUMED_BOOSTS, weights.dtype))
        _check(text, weights, adaptation, size)
    except (ValueError, KeyError) as error:
        raise Unavailable(f"{FILE} is damaged ({type(error).__name__})", code="model_damaged") from None
    return experts_of(text.astype(np.int32), weights, size=size, adaptation=adaptation)


def _check(text: NDArray[Any], weights: NDArray[Any], adaptation: NDArray[Any], size: int) -> None:
    """Raise ValueError if the arrays of a file are not what `dump` writes for V = `size` ids."""
    if text.dtype.kind not in "iu" or text.ndim != 1 or not 0 < text.size <= MAX_CHARACTERS:
        raise ValueError("the text has invalid ids, or is too long")
    if text.min() < 0 or text.max() >= size:
        raise ValueError("an id is out of range")
    if weights.dtype.kind != "f" or weights.shape != (WEIGHTS,) or not np.isfinite(weights).all():
        raise ValueError("the weights are invalid")
    if adaptation.dtype.kind != "f" or adaptation.shape != (ADAPTATION,) or not (adaptation >= 0).all():
        raise ValueError("the adaptation is invalid")
    precisions = adaptation[SET_PRECISION:]
    if not np.isfinite(adaptation).all() or ((precisions > 0) != (precisions[0] > 0)).any():
        raise ValueError("the adaptation is invalid")


def make_mixture(network: SharedNetwork, experts: Experts) -> "MixtureNetwork":
    """Return the mixture of a network and experts."""
    if isinstance(network, LstmNetwork):
        return GeneratingMixture(network, experts)
    return MixtureNetwork(network, experts)


@cache
def _mix() -> Callable[..., None]:
    """Return the kernel; an import statement would take a microsecond per call."""
    compile_kernels(MIXTURE_KERNELS)  # waits if another process is compiling
    from nextchar.models.kernels.mixture import mix

    kernel: Callable[..., None] = mix
    return kernel


@cache
def _run() -> Callable[..., bool]:
    compile_kernels(GENERATION_KERNELS)
    from nextchar.models.kernels.mixture_generation import run

    kernel: Callable[..., bool] = run
    return kernel


def mix_logits(
    experts: Experts, ids: NDArray[np.int32], state: State, at: int, first: int, logits: Logits
) -> None:
    """Let the experts read ids (T, B); turn logits (T - first, B, V) of a network into the mixture's.

    Both `logits` and `state` (B, .) are changed in place. Of the state the columns from `at` on are what the
    experts have read, `Experts.state_columns`; others are not touched. Steps before `first` have no logits,
    and the weights do not adapt to the characters after these.
    """
    _mix()(*experts, np.ascontiguousarray(ids), state, at, first, logits)


class MixtureNetwork:
    """A mixture of a network and other experts. Thread-safe. The first call compiles or loads the kernels."""

    def __init__(self, network: SharedNetwork, experts: Experts) -> None:
        self.network, self.experts = network, experts
        self.V = network.V
        self._network_size = network.initial_state(0).shape[1]
        self._size = self._network_size + experts.state_columns
        self._adapts = experts.adapts
        self._second = SecondThread("mixture")

    def initial_state(self, rows: int = 1) -> State:
        """Return zeros, (rows, S + `Experts.state_columns`)."""
        return np.zeros((rows, self._size), np.float32)

    def step(self, ids: NDArray[np.int32], state: State, first: int = 0) -> tuple[Logits, State]:
        """Read ids (T, B) from a state (B, .); return logits (T - first, B, V) and the next state.

        Steps before `first` get no logits. The arguments are not modified.
        """
        if ids.shape[1] >= 2 * ROWS_OF_A_PART:
            # The logits of a part are mixed while they are in the processor's cache.
            step = partial(self._step, self.network.step_alone, first)
            return self._second.share(step, ids, state, rows=ROWS_OF_A_PART)
        return self._step(self.network.step, first, ids, state)

    def _step(
        self, step: Callable[..., tuple[Logits, State]], first: int, ids: NDArray[np.int32], state: State
    ) -> tuple[Logits, State]:
        size = self._network_size
        computed = self._first_computed(first)
        logits, after = step(ids, np.ascontiguousarray(state[:, :size]), computed)
        state = state.copy()
        state[:, :size] = after
        mix_logits(self.experts, ids, state, size, computed, logits)
        return _from_step(logits, first - computed), state

    def _first_computed(self, first: int) -> int:
        """Return the first step with logits if those from `first` on are wanted."""
        return 0 if self._adapts else first  # the weights adapt by all logits


def _from_step(logits: Logits, step: int) -> Logits:
    """Return the logits from a step on; the others need not stay in memory."""
    return logits[step:].copy() if step else logits


class GeneratingMixture(MixtureNetwork):
    """A mixture with an int8 LSTM network, which can choose characters by itself."""

    network: LstmNetwork

    def choose(
        self, logits: Floats, inverse_temperature: Floats, uniforms: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """Choose an id for each row; see `LstmNetwork.choose`."""
        return self.network.choose(logits, inverse_temperature, uniforms)

    def generate(
        self,
        ids: NDArray[np.int32],
        state: State,
        inverse_temperature: Floats,
        uniforms: NDArray[np.float64],
    ) -> tuple[NDArray[np.int32], Logits, State]:
        """Do T steps in one call, a choice after each but the last; see `LstmNetwork.generate`."""
        chosen = np.empty((len(uniforms), len(ids)), np.int32)
        logits, state = self._run(ids[None], state, 0, Sampling(inverse_temperature, uniforms, chosen))
        return chosen, logits, state

    def read(
        self, ids: NDArray[np.int32], ends: Sequence[int], state: State, stop: NDArray[np.int64]
    ) -> list[State]:
        """Read ids (T,); return the states at those of `ends` that were reached; see `LstmNetwork.read`."""
        size = self._network_size
        states: list[State] = []
        count = ends[-1] if self._adapts and ends else 0
        logits = np.empty((count, 1, self.V), np.float32)
        network_states = self.network.read(ids, ends, state[:, :size], stop, logits=logits)
        for (start, end), after in zip(pairwise([0, *ends]), network_states, strict=False):
            state = state.copy()
            state[:, :size] = after
            first = self._first_computed(end - start)
            mix_logits(self.experts, ids[start:end, None], state, size, first, logits[start:end])
            states.append(state)
        return states

    def _step(
        self, step: Callable[..., tuple[Logits, State]], first: int, ids: NDArray[np.int32], state: State
    ) -> tuple[Logits, State]:
        del step  # the kernel steps the network, too
        computed = self._first_computed(first)
        logits, state = self._run(np.ascontiguousarray(ids, np.int32), state, computed)
        return _from_step(logits, first - computed), state

    def _run(
        self, ids: NDArray[np.int32], state: State, first: int, sampling: Sampling = NO_SAMPLING
    ) -> tuple[Logits, State]:
        """Read ids (T, B) and generate N; return logits (T - first + N, B, V) and the next state."""
        state = np.array(state, np.float32, order="C")
        logits = np.empty((len(ids) - first + len(sampling.uniforms), ids.shape[1], self.V), np.float32)
        if not _run()(
            *self.network.packed, *self.experts, ids, state, self._network_size, first, logits, *sampling
        ):
            raise IndexError(f"ids must be from 0 to {self.V - 1}")
        return logits, state
