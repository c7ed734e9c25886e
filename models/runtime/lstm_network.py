"""The steps of an int8 network of an embedding, stacked LSTMs and a dense layer.

`nextchar.models.runtime.int8_file` describes its file. The results of a row are bit-identical alone and in
any batch, step by step and in one pass (see `nextchar.models.kernels.lstm_inference`). Large steps are shared
with a second thread.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.compile_cache import RUNTIME_KERNELS, compile_kernels
from nextchar.models.kernels.lstm_arguments import (
    COLUMNS,
    EXPONENTS,
    LOWER,
    NO_PIPELINE,
    NO_SAMPLING,
    QUANTIZED_ONE,
    ROWS_AT_ONCE,
    UPPER,
    PackedNetwork,
    Pipeline,
    Sampling,
    pack,
    padded_columns,
    padded_rows,
)
from nextchar.models.machine import available_cores
from nextchar.models.runtime.int8_file import Arrays, check_int8, read_int8

if TYPE_CHECKING:
    from nextchar.models.kernels.product_kernels import ProductKernel  # imports numba

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]
Step = Callable[[Ids, Floats], tuple[Floats, Floats]]

ROWS_OF_A_PART = 16
"""A step of at least two parts of this many rows is shared between two threads."""

CACHE_LINE_BYTES = 64

_SLICES_AHEAD = 2
"""The lower layers are at most this many slices ahead of the upper ones."""

_NO_STOP = np.zeros(1, np.int64)


class LstmNetwork:
    """A loaded int8 network. S is the length of a state row, V the vocabulary with id 0.

    Thread-safe. The first call in a process compiles the kernels or loads them from disk: see `prepare`.
    """

    def __init__(self, data: bytes) -> None:
        """Load the contents of a `model.int8.npz`.

        Raises:
            ValueError: they are damaged, or not made by `int8_file.quantize_lstm`.
        """
        arrays = read_int8(data)
        units = check_int8(arrays)
        self.V = len(arrays["dense/bias"])
        self.S = 2 * sum(units)
        self._arrays: Arrays = arrays
        self._units = units
        self._middle = (len(units) + 1) // 2  # the first of the upper layers
        self._no_logits = np.empty((0, 1, self.V), np.float32)
        self.is_ready = False
        self._preparing = threading.Lock()  # guards the fields below
        self._failure: Exception | None = None
        self._kernels: Any = None
        self._halves: tuple[PackedNetwork, PackedNetwork] | None = None  # None: a single layer
        self._second = SecondThread("int8")

    def prepare(self) -> None:
        """Load the kernels: a tenth of a second, or some seconds the first time on a machine.

        Raises:
            Exception: the compiler failed, for any reason.
        """
        with self._preparing:
            if self._failure:
                raise self._failure
            if not self.is_ready:
                try:
                    compile_kernels(RUNTIME_KERNELS)  # waits if another process is compiling
                    from nextchar.models.kernels import lstm_inference as kernels
                    from nextchar.models.kernels.selection import INT8_KERNEL
                except Exception as error:
                    self._failure = error  # another attempt would take as long and fail, too
                    raise
                self._network = _pack_network(self._arrays, self._units, INT8_KERNEL)
                if self._middle < len(self._units):
                    layout = self._network.layout
                    self._halves = (
                        self._network._replace(layout=layout[: self._middle + 1]),
                        self._network._replace(layout=layout[self._middle :]),
                    )
                self._kernels = kernels
                self._arrays = {}  # a second copy of the weights
                self.is_ready = True

    @property
    def packed(self) -> PackedNetwork:
        """The weights as the kernels read them."""
        if not self.is_ready:
            self.prepare()
        return self._network

    def initial_state(self, rows: int = 1) -> Floats:
        """Return zeros, (rows, S)."""
        return np.zeros((rows, self.S), np.float32)

    def step(self, ids: NDArray[np.int32], state: Floats, first: int = 0) -> tuple[Floats, Floats]:
        """Read ids (T, B) from state (B, S); return logits (T - first, B, V) and the state after them.

        Steps before `first` get no logits. The arguments are not modified.
        """
        rows = ids.shape[1]
        if rows < 2 * ROWS_OF_A_PART:
            return self.step_alone(ids, state, first)
        step = partial(self.step_alone, first=first)
        return self._second.share(step, ids, state, rows=ROWS_OF_A_PART)

    def step_alone(self, ids: NDArray[np.int32], state: Floats, first: int) -> tuple[Floats, Floats]:
        """`step` in the calling thread only."""
        if not self.is_ready:
            self.prepare()
        steps, rows = ids.shape
        state = np.array(state, np.float32, order="C")
        logits = np.empty((steps - first, rows, self.V), np.float32)
        ids = np.ascontiguousarray(ids, np.int32)
        at_once = max(1, ROWS_AT_ONCE // max(1, rows))
        for at in range(0, steps, at_once):
            end = min(at + at_once, steps)
            begin = min(max(first, at), end)  # of the steps with logits
            wanted = logits[max(0, begin - first) : max(0, end - first)]
            self._run(self._network, ids[at:end], state, begin - at, wanted)
        return logits, state

    def read_tree(
        self, ids: NDArray[np.int32], parents: NDArray[np.int64], ends: NDArray[np.int64], state: Floats
    ) -> Floats:
        """Return the logits (N, V) after each of N ids, which follow each other as a tree from state (1, S).

        They are sorted by level: `ends` has the end of each level, and `parents` (N,) the place of each one's
        predecessor in the level above. Of the first level they are 0.
        """
        logits = np.empty((len(ids), self.V), np.float32)
        if not self.is_ready:
            self.prepare()
        if not self._kernels.read_tree(*self._network, ids, parents, ends, state, logits):
            raise IndexError(f"ids must be from 0 to {self.V - 1}")
        return logits

    def read(
        self,
        ids: NDArray[np.int32],
        ends: Sequence[int],
        state: Floats,
        stop: NDArray[np.int64] = _NO_STOP,
        *,
        logits: Floats | None = None,
    ) -> list[Floats]:
        """Read ids (T,) of a text as `step` does; return the states (1, S) after each of `ends`, ascending.

        `logits` (ends[-1], 1, V), unless they are None or empty, are filled as far as the text was read.

        Networks of two or more layers are read layer-parallel by two threads: while one reads a slice with
        the upper half of the layers, the other reads the next slice with the lower half. With two free cores
        two layers of 256 to 512 units are read 1.7 to 2.0 times as fast as by one thread (1,000 to 10,000
        characters, int8). Reading returns early, perhaps with no state at all, if the second thread is busy
        or stop (1,) is set to 1.
        """
        if not self.is_ready:
            self.prepare()
        if not ends:
            return []
        ids = np.ascontiguousarray(ids[: ends[-1], None])
        if logits is None or not len(logits):
            logits = self._no_logits
        if self._halves is None or CORES == 1:
            return self._read_alone(ids, ends, state, stop, logits)
        lower, upper = self._halves
        longest = max(np.diff(ends, prepend=0))
        width = padded_rows(self._units[self._middle - 1])
        low, high = np.split(np.array(state, np.float32), [2 * sum(self._units[: self._middle])], axis=1)
        low_part = Pipeline(
            part=LOWER,
            ends=np.array(ends),
            boundary_x=np.empty((_SLICES_AHEAD, longest, width), np.uint8),
            boundary_sums=np.empty((_SLICES_AHEAD, longest, upper.layout[0, COLUMNS]), np.int32),
            states=np.empty((len(ends), low.shape[1]), np.float32),
            slices_done=np.zeros(2, np.int64),
            has_ended=np.zeros(1, np.int64),
            upper_started=np.zeros(1, np.int64),
            stop=stop,
        )
        high_part = low_part._replace(part=UPPER, states=np.empty((len(ends), high.shape[1]), np.float32))

        def read_part(network: PackedNetwork, state: Floats, pipeline: Pipeline, logits: Floats) -> None:
            try:
                self._run(network, ids, state, 0 if len(logits) else len(ids), logits, pipeline=pipeline)
            finally:
                pipeline.has_ended[0] = 1  # else the other thread would wait forever

        read_upper = partial(read_part, upper, np.ascontiguousarray(high), high_part, logits)
        other = self._second.begin(read_upper)
        try:
            read_part(lower, np.ascontiguousarray(low), low_part, self._no_logits)
        finally:
            if not other.cancel():
                other.result()
        read_upper()  # what is left if the second thread was busy
        done = high_part.slices_done[UPPER]
        return list(np.concatenate([low_part.states[:done], high_part.states[:done]], axis=1)[:, None])

    def _read_alone(
        self,
        ids: NDArray[np.int32],
        ends: Sequence[int],
        state: Floats,
        stop: NDArray[np.int64],
        logits: Floats,
    ) -> list[Floats]:
        states: list[Floats] = []
        for start, end in pairwise([0, *ends]):
            if stop[0]:
                break
            first = 0 if len(logits) else end - start
            logits[start:end], state = self.step_alone(ids[start:end], state, first)
            states.append(state)
        return states

    def choose(
        self, logits: Floats, inverse_temperature: Floats, uniforms: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """Choose an id (B,), at least 1, for each row of logits (B, V).

        By inverse_temperature (B,), 0 for the most likely id, and uniforms (B,) in [0, 1).
        """
        if not self.is_ready:
            self.prepare()
        chosen = np.empty(len(logits), np.int32)
        self._kernels.choose(np.ascontiguousarray(logits, np.float32), inverse_temperature, uniforms, chosen)
        return chosen

    def generate(
        self,
        ids: NDArray[np.int32],
        state: Floats,
        inverse_temperature: Floats,
        uniforms: NDArray[np.float64],
    ) -> tuple[NDArray[np.int32], Floats, Floats]:
        """Do T steps in one call, a choice after each but the last: `step` and `choose` in turn, to the bit.

        Args:
            ids: (B,) the last id of each row, not read yet.
            state: (B, S) before it.
            inverse_temperature: (B,), as for `choose`.
            uniforms: (T - 1, B), as for `choose`, one row per choice.

        Returns:
            The chosen ids (T - 1, B), the logits (T, B, V) after each step, and the state (B, S) at the end.
        """
        if not self.is_ready:
            self.prepare()
        state = np.array(state, np.float32, order="C")
        logits = np.empty((len(uniforms) + 1, len(ids), self.V), np.float32)
        chosen = np.empty((len(uniforms), len(ids)), np.int32)
        sampling = Sampling(inverse_temperature, uniforms, chosen)
        self._run(self._network, ids[None], state, 0, logits, sampling)
        return chosen, logits, state

    def _run(
        self,
        network: PackedNetwork,
        ids: NDArray[np.int32],
        state: Floats,
        first: int,
        logits: Floats,
        sampling: Sampling = NO_SAMPLING,
        pipeline: Pipeline = NO_PIPELINE,
    ) -> None:
        if not self._kernels.run(network, ids, state, first, logits, sampling, pipeline):
            raise IndexError(f"ids must be from 0 to {self.V - 1}")


def layers_of(arrays: Arrays, units: list[int]) -> Iterator[tuple[list[NDArray[np.int8]], Floats, Floats]]:
    """Yield what the kernels compute each layer of a file with, the dense one last.

    Its matrices, of inputs from the second layer on, and recurrent; and in float32 the factors of their sums
    and what is added, which for gates are those of exponents, see EXPONENTS.
    """
    for i, h in enumerate(units):
        inputs = [arrays[f"lstm_{i}/kernel"]] if i else []
        base = arrays[f"lstm_{i}/bias"] if i else arrays["table"]
        factors = np.repeat(EXPONENTS, h)
        scale = arrays[f"lstm_{i}/scale"] / np.float32(QUANTIZED_ONE) * factors
        matrices = [*inputs, arrays[f"lstm_{i}/recurrent"]]
        yield matrices, scale.astype(np.float32), (base * factors).astype(np.float32)
    scale = arrays["dense/scale"] / np.float32(QUANTIZED_ONE)
    yield [arrays["dense/kernel"]], scale.astype(np.float32), arrays["dense/bias"]


def _pack_network(arrays: Arrays, units: list[int], kernel: "ProductKernel") -> PackedNetwork:
    """Return the arrays of a file as a kernel reads them."""
    blocks: list[NDArray[np.int8]] = []
    floats: list[Floats] = []
    corrections: list[NDArray[np.int32]] = []
    layout: list[list[int]] = []

    def place(parts: list[Any], part: NDArray[Any]) -> int:
        at = sum(map(len, parts))
        parts.append(part.ravel())
        return at

    widths = [*units, len(arrays["dense/bias"])]
    for width, (matrices, scale, base) in zip(widths, layers_of(arrays, units), strict=True):
        correction = np.zeros(padded_columns(len(scale), kernel.panel), np.int32)
        for matrix in matrices:
            correction[: len(scale)] -= kernel.zero_point * matrix.sum(axis=0, dtype=np.int32)
        numbers = [place(floats, scale), place(floats, base)]
        places = [place(blocks, pack(matrix, kernel.panel)) for matrix in matrices]
        sums = [len(correction), place(corrections, correction)]
        layout.append([width, places[0], places[-1], *numbers, *sums, kernel.zero_point])
    return PackedNetwork(
        _aligned(blocks), _aligned(floats), np.concatenate(corrections), np.array(layout, np.int64)
    )


def _aligned(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the concatenation, aligned to the cache lines."""
    kind, count = parts[0].dtype, sum(map(len, parts))
    room = np.empty(count * kind.itemsize + CACHE_LINE_BYTES, np.uint8)
    start = -room.ctypes.data % CACHE_LINE_BYTES
    return np.concatenate(parts, out=room[start : start + count * kind.itemsize].view(kind))


CORES = available_cores()
"""With one core, steps are not shared."""


class SecondThread:
    """One worker thread. Thread-safe; the thread ends with the object."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def begin(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call `function` in the helper thread once it is free."""
        return self._pool.submit(function, *arguments)

    def share(self, step: Step, ids: Ids, state: Floats, *, rows: int) -> tuple[Floats, Floats]:
        """Return the logits (., B, V) and states (B, S) of a step for ids (T, B) and state (B, S).

        The batch is split into parts of `rows` rows, which both threads take from a common queue: if the
        helper gets no core, the calling thread does most or all of them.
        """
        if CORES == 1:
            return step(ids, state)
        starts = iter(range(0, ids.shape[1], rows))
        parts: dict[int, tuple[Floats, Floats]] = {}

        def do_parts() -> None:
            for at in starts:  # each part is taken once
                part = slice(at, at + rows)
                parts[at] = step(np.ascontiguousarray(ids[:, part]), state[part])

        helper = self.begin(do_parts)
        try:
            do_parts()
        finally:
            if not helper.cancel():
                helper.result()
        logits, states = zip(*(parts[at] for at in sorted(parts)), strict=True)
        return np.concatenate(logits, axis=1), np.concatenate(states)
