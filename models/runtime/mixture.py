"""A network together with context mixing.

`MixtureNetwork` is a network like any other: it maps ids and a state to logits and the next state, so
sampling, scoring, state caches and streams need not know of it. A row of its state is the network's (S),
followed by what the experts have read (`nextchar.models.kernels.mixture_arguments`), most of it int32 in the
memory of float32: states may be copied, but not computed with.

The file `mixture.npz` has the end of the known text, whose contexts are counted when a model is loaded, and
what was learned: see `Learned`. Older ones learn from their text then (`mixture_learning`).
"""

import io
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.kernels.compile_cache import (
    GENERATION_KERNELS,
    MIXTURE_KERNELS,
    TABLE_KERNELS,
    compile_kernels,
)
from nextchar.models.kernels.lstm_arguments import NO_SAMPLING, Sampling
from nextchar.models.kernels.mixture_arguments import (
    ADAPTATION,
    CONTEXTS,
    INPUTS,
    KIND,
    LAST_ROWS,
    LEARNED_SHARES,
    MAP_STATES,
    MATCH_STATES,
    MAX_ADAPTED_VOCABULARY,
    MAX_PART_BITS,
    PART_SLOT_BITS,
    RARE_CONTEXTS,
    RECENT,
    RECENT_STATES,
    RECORD_END,
    SETS,
    SHARE_STATES,
    WEIGHT_ROWS,
    Experts,
)
from nextchar.models.runtime.lstm_network import ROWS_OF_A_PART, LstmNetwork, SecondThread
from nextchar.models.runtime.session import Logits, SharedNetwork, State
from nextchar.models.text.array_file import read_arrays
from nextchar.models.text.ngram import Ids

FILE = "mixture.npz"
"""The name of its file in a saved model. Older models have none."""

MAX_CHARACTERS = 2_000_000
"""Maximum number of characters, from the end of the known text, in the file."""

_MAX_BYTES = 64 << 20  # of the arrays
_MAX_ID = 65535
_FILLED = 0.7  # of a hash table
_MIN_INDEX_BITS = (
    14  # of the size of `Experts.positions`, where newer places displace others with the same hash
)
_AT_ONCE = 5  # contexts of a text whose keys are in memory

Floats = NDArray[np.float32]


class Learned(NamedTuple):
    """What a mixture has learned, and the file keeps beside the text: fields of `Experts`."""

    characters: NDArray[np.int32]
    children: NDArray[np.int32]
    maps: Floats
    recent_maps: Floats
    match_maps: Floats
    weights: Floats
    last_weights: Floats
    adaptation: Floats
    backoffs: Floats


def experts_of(text: Ids, learned: Learned, *, is_counted: bool = True) -> Experts:
    """Return the experts that know a text.

    Args:
        text: (N,) its ids, or those of its end; at least one.
        learned: as `Experts`.
        is_counted: False for experts that will learn and count the text as they read it.
    """
    compile_kernels(TABLE_KERNELS)  # waits if another process is compiling
    from nextchar.models.kernels.mixture_tables import index_text

    kept: NDArray[np.int32] = np.ascontiguousarray(text, np.int32)
    known = np.where(kept <= _MAX_ID, kept, 0).astype(np.uint16)
    positions = np.zeros(1 << max(_MIN_INDEX_BITS, (len(kept) - 1).bit_length() - 1), np.int32)
    slots, singles, entries = _tables(kept, known, learned.characters)
    if is_counted:
        index_text(known, positions)
    else:
        singles, entries = np.zeros(1, np.uint32), entries & np.uint32(0x8000FFFF)
    up = _up(learned.children, len(learned.characters))
    shares = _shares(kept, learned.children, len(learned.characters))
    meetings = _meetings(learned.children, up, len(learned.characters))
    arrays: Any = [np.ascontiguousarray(array) for array in (*learned, shares, meetings)]
    return Experts(known, positions, slots, singles, entries, arrays[0], up, *arrays[1:])


def _tables(
    text: NDArray[np.int32], known: NDArray[np.uint16], characters: NDArray[np.int32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
    """Return `Experts.slots`, `Experts.singles` and `Experts.entries` for a text and its `Experts.text`."""
    from nextchar.models.kernels.mixture_tables import (
        fill_singles,
        fill_slots,
        write_entries,
        write_text_keys,
    )

    ids = known.astype(np.uint64)
    contexts: list[NDArray[np.uint32]] = []
    entries: list[NDArray[np.uint32]] = []
    once: list[NDArray[np.uint32]] = []
    keys = np.empty((_AT_ONCE, len(text)), np.uint32)
    room = (
        np.empty((len(text), 2), np.uint32),
        np.empty(len(text), np.uint32),
        np.empty(2 * len(text), np.uint32),
    )
    for k in range(CONTEXTS):
        if k % _AT_ONCE == 0:
            write_text_keys(text, characters, k, keys[: CONTEXTS - k])
        grams = (keys[k % _AT_ONCE].astype(np.uint64) << np.uint64(16)) | ids
        grams.sort()
        n, m, single = write_entries(grams, *room, sum(map(len, entries)))
        single = 0 if k in RARE_CONTEXTS else single
        for parts, part, length in zip((contexts, entries, once), room, (n, m, 2 * single), strict=True):
            parts.append(part[:length].copy())
    slots, slots_left = _empty_table(sum(map(len, contexts)))
    singles, singles_left = _empty_table(sum(map(len, once)) // 2)
    followed = np.concatenate(entries) if any(map(len, entries)) else np.zeros(1, np.uint32)
    for part in contexts:
        fill_slots(part, followed, slots, slots_left)
    for part in once:
        fill_singles(part, singles, singles_left)
    return slots, singles, followed


def _empty_table(count: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return an empty hash table for so many elements, and how many of them fit into each of its parts."""
    size = int(count / _FILLED) + 1
    size += -size % _parts(size)  # which may be the next power of two, with more parts
    parts = _parts(size)
    return np.zeros(size, np.uint32), np.full(parts, size // parts - 1)


def _parts(size: int) -> int:
    """Return of how many parts a hash table of a size is, as `part_of` finds them."""
    return 1 << min(max(size.bit_length() - 1 - PART_SLOT_BITS, 0), MAX_PART_BITS)


def _up(children: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Return `Experts.up` for the children of the nodes and V = `size` ids."""
    up = np.full(size + len(children), -1, np.int32)
    flat = children.ravel()
    up[np.where(flat > 0, size + flat, -flat)] = np.arange(len(flat))
    return up


def _meetings(children: NDArray[np.int32], up: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Return `Experts.meetings`."""
    if size > MAX_ADAPTED_VOCABULARY:
        return np.zeros((0, 0), np.int32)
    meetings = np.full((size, size), -1, np.int32)
    under: dict[int, list[int]] = {}
    for node in range(len(children) - 1, -1, -1):
        left, right = (under.pop(c) if c > 0 else [-c] for c in children[node].tolist())
        meetings[np.ix_(right, left)], meetings[np.ix_(left, right)] = 2 * node, 2 * node + 1
        under[node] = left + right
    np.fill_diagonal(meetings, up[:size])
    return meetings


def _shares(text: NDArray[np.int32], children: NDArray[np.int32], size: int) -> Floats:
    """Return `Experts.shares`; a character that the text lacks counts as half of one."""
    share = np.append((np.bincount(text, minlength=size) + 0.5) / len(text), np.zeros(len(children)))
    places = np.where(children > 0, size + children, -children)
    for node in range(len(children) - 1, -1, -1):
        share[size + node] = share[places[node]].sum()
    return share[places].astype(np.float32)


_With = TypeVar("_With", Learned, Experts)


def without_adaptation(learned: _With) -> _With:
    """Return what does not adapt to what is read."""
    return learned._replace(adaptation=np.zeros(ADAPTATION, np.float32))


def dump(text: Ids, learned: Learned) -> bytes:
    """Return the contents of FILE for the ids (N,) of a known text."""
    text = np.asarray(text[-MAX_CHARACTERS:])
    kind = np.min_scalar_type(int(text.max()))
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, text=text.astype(kind), **learned._asdict())
    return file.getvalue()


def load(data: bytes, *, size: int, upgrade: Callable[[NDArray[np.int32]], Learned]) -> Experts:
    """Return the experts in the contents of FILE for a vocabulary of V = `size` ids.

    `upgrade` learns from the text of an older model.

    Raises:
        Unavailable: they are damaged (code `model_damaged`).
    """
    try:
        arrays = read_arrays(data, max_bytes=_MAX_BYTES)
        text = arrays["text"]
        _check_text(text, size)
        kept = text.astype(np.int32)
        if "children" not in arrays or arrays["weights"].shape != (WEIGHT_ROWS, INPUTS):  # of an older model
            return experts_of(kept, upgrade(kept))
        learned = Learned(*(arrays[name] for name in Learned._fields))
        _check_learned(learned, size)
    except (ValueError, KeyError) as error:
        raise Unavailable(f"{FILE} is damaged ({type(error).__name__})", code="model_damaged") from None
    return experts_of(kept, learned)


def _check_text(text: NDArray[Any], size: int) -> None:
    """Raise ValueError if it is not what `dump` writes for V = `size` ids."""
    if text.dtype.kind not in "iu" or text.ndim != 1 or not 0 < text.size <= MAX_CHARACTERS:
        raise ValueError("the text has invalid ids, or is too long")
    if text.min() < 0 or text.max() >= size:
        raise ValueError("an id is out of range")


def _check_learned(learned: Learned, size: int) -> None:
    """Raise ValueError if the kernels would read beyond an array, or for ever."""
    nodes = max(0, size - 2)
    shapes = (
        (size, 3), (nodes, 2), (CONTEXTS, MAP_STATES), (RECENT, RECENT_STATES), (MATCH_STATES,),
        (WEIGHT_ROWS, INPUTS), (LAST_ROWS, SETS), (ADAPTATION,), (LEARNED_SHARES, SHARE_STATES),
    )  # fmt: skip
    for i, (array, shape) in enumerate(zip(learned, shapes, strict=True)):
        dtype = np.int32 if i < 2 else np.float32
        if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
            raise ValueError("an array has another shape or type, or numbers that are not finite")
    characters, children = learned.characters, learned.children
    if characters.min() < 0 or characters[:, KIND].max() > RECORD_END or learned.adaptation.min() < 0:
        raise ValueError("a character or the adaptation is invalid")
    leaves = np.sort(-children[children <= 0])
    inner = np.sort(children[children > 0])
    if not np.array_equal(leaves, np.arange(1, size)[: len(leaves)]) or len(leaves) != nodes + (nodes > 0):
        raise ValueError("a character has no place in the tree")
    if not np.array_equal(inner, np.arange(1, nodes)) or (children >= nodes).any():
        raise ValueError("a node has no place in the tree")
    if (np.where(children > 0, children, nodes) <= np.arange(nodes)[:, None]).any():
        raise ValueError("a node is before its parent")


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
    experts: Experts,
    ids: NDArray[np.int32],
    state: State,
    at: int,
    first: int,
    logits: Logits,
    wanted: int = 0,
) -> None:
    """Let the experts read ids (T, B); turn logits (T - first, B, V) of a network into the mixture's.

    Both `logits` and `state` (B, .) are changed in place. Of the state the columns from `at` on are what the
    experts have read, `Experts.state_columns`; others are not touched. Steps before `first` have no logits,
    and the weights do not adapt to the characters after these. Logits before `wanted` stay as they are.
    """
    _mix()(*experts, np.ascontiguousarray(ids), state, at, first, logits, wanted)


class MixtureNetwork:
    """A network and context mixing. Thread-safe. The first call compiles or loads the kernels."""

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

    def without_experts(self, state: State) -> tuple[SharedNetwork, State]:
        """Return the network alone, and its part (B, S) of a state (B, .)."""
        return self.network, np.ascontiguousarray(state[:, : self._network_size])

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
        mix_logits(self.experts, ids, state, size, computed, logits, first)
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
        self, ids: NDArray[np.int32], state: State, inverse_temperature: Floats, uniforms: NDArray[np.float64]
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
            part = logits[start:end]
            mix_logits(self.experts, ids[start:end, None], state, size, first, part, end - start)
            states.append(state)
        return states

    def _step(
        self, step: Callable[..., tuple[Logits, State]], first: int, ids: NDArray[np.int32], state: State
    ) -> tuple[Logits, State]:
        del step  # the kernel steps the network, too
        computed = self._first_computed(first)
        logits, state = self._run(np.ascontiguousarray(ids, np.int32), state, computed, wanted=first)
        return _from_step(logits, first - computed), state

    def _run(
        self,
        ids: NDArray[np.int32],
        state: State,
        first: int,
        sampling: Sampling = NO_SAMPLING,
        *,
        wanted: int = 0,
    ) -> tuple[Logits, State]:
        """Read ids (T, B) and generate N; return logits (T - first + N, B, V) and the next state.

        Logits of steps before `wanted` are those of the network.
        """
        state = np.array(state, np.float32, order="C")
        logits = np.empty((len(ids) - first + len(sampling.uniforms), ids.shape[1], self.V), np.float32)
        if not _run()(
            *self.network.packed,
            *self.experts,
            ids,
            state,
            self._network_size,
            first,
            logits,
            wanted,
            *sampling,
        ):
            raise IndexError(f"ids must be from 0 to {self.V - 1}")
        return logits, state
