"""Networks that can be stepped: `open_network` loads one from a file of a saved model.

A graph of any architecture is run by ONNX Runtime, as a `Network`; int8 LSTMs by our own kernels, as an
`LstmNetwork`. The state is an argument and a result. Both are thread-safe.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nextchar.models.runtime.lstm_network import LstmNetwork, SecondThread

Logits = NDArray[np.float32]
State = NDArray[np.float32]  # (B, S), all layers' h and c in one row: h1 | c1 | h2 | c2 | ...
Check = Callable[[], None]
"""Called before each step of the network; what it raises ends the work."""


def no_check() -> None:
    """Do nothing."""


class StepNetwork(Protocol):
    """A network that maps ids and a state to logits and the next state."""

    V: int

    def initial_state(self, rows: int = 1) -> State:
        """Return zeros, (rows, S)."""

    def step(self, ids: NDArray[np.int32], state: State, first: int = 0) -> tuple[Logits, State]:
        """Read ids (T, B) from state (B, S); return logits (T - first, B, V) and the state after them."""


class SharedNetwork(StepNetwork, Protocol):
    """A network that shares large steps with a second thread."""

    def step_alone(self, ids: NDArray[np.int32], state: State, first: int) -> tuple[Logits, State]:
        """`step` in the calling thread only."""


class CheckedNetwork:
    """A network that calls `check` before each step."""

    def __init__(self, network: StepNetwork, check: Check) -> None:
        self._network, self._check = network, check
        self.V = network.V

    def initial_state(self, rows: int = 1) -> State:
        """Return zeros, (rows, S)."""
        return self._network.initial_state(rows)

    def step(self, ids: NDArray[np.int32], state: State, first: int = 0) -> tuple[Logits, State]:
        """Check, then step."""
        self._check()
        return self._network.step(ids, state, first)


@runtime_checkable
class GeneratingNetwork(StepNetwork, Protocol):
    """A network that can also sample, and so run many steps in one call; see `LstmNetwork`."""

    def choose(
        self, logits: Logits, inverse_temperature: Logits, uniforms: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """Return ids (B,) sampled from logits (B, V)."""

    def generate(
        self, ids: NDArray[np.int32], state: State, inverse_temperature: Logits, uniforms: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], Logits, State]:
        """Return chosen ids (T - 1, B), logits (T, B, V) and state (B, S)."""

    def read(
        self, ids: NDArray[np.int32], ends: Sequence[int], state: State, stop: NDArray[np.int64]
    ) -> list[State]:
        """Read ids (T,); return the states (1, S) at those of `ends` that were reached."""


class Network:
    """A loaded graph. S is the length of a state row, V the vocabulary with id 0."""

    def __init__(self, graph: bytes, *, threads: int = 1) -> None:
        """Load `graph`.

        Args:
            graph: an ONNX graph made by `nextchar.models.architectures.onnx_graph`.
            threads: ONNX Runtime threads for large steps; with 1, two Python threads share large batches.
                Small steps always use one.

        Raises:
            ValueError: the graph cannot be loaded, or has other inputs and outputs.
        """
        session = _load(graph, 1)
        inputs = {i.name: i.shape for i in session.get_inputs()}
        outputs = {o.name: o.shape for o in session.get_outputs()}
        if set(inputs) != {"ids", "state", "first"} or set(outputs) != {"logits", "next_state"}:
            raise ValueError(f"not a graph of this runtime: it maps {sorted(inputs)} to {sorted(outputs)}")
        self.S = int(inputs["state"][1])
        self.V = int(outputs["logits"][2])
        self._session, self._run = session, session.run
        self._large_session = session if threads == 1 else _load(graph, threads)
        self._run_large = self._large_session.run
        self._second = SecondThread("float32") if threads == 1 else None
        self._first_arrays: dict[int, NDArray[np.int64]] = {}

    def initial_state(self, rows: int = 1) -> State:
        """Return zeros, (rows, S)."""
        return np.zeros((rows, self.S), np.float32)

    def step(self, ids: NDArray[np.int32], state: State, first: int = 0) -> tuple[Logits, State]:
        """Read ids (T, B) from state (B, S); return logits (T - first, B, V) and the state after them.

        Steps before `first` get no logits. The arguments are not modified.
        """
        rows = ids.shape[1]
        if self._second and rows > 1 and ids.size >= MIN_SHARED_IDS:
            step = partial(self.step_alone, first=first)
            return self._second.share(step, ids, state, rows=-(-rows // 2))
        return self.step_alone(ids, state, first)

    def step_alone(self, ids: NDArray[np.int32], state: State, first: int) -> tuple[Logits, State]:
        """`step` without a second thread of this object."""
        first_array = self._first_arrays.get(first)
        if first_array is None:
            first_array = np.array(first, np.int64)
            if len(self._first_arrays) < 256:
                self._first_arrays[first] = first_array
        run = self._run if ids.size < MIN_LARGE_IDS else self._run_large
        logits, after = run(_OUTPUTS, {"ids": ids, "state": state, "first": first_array}, None)
        return logits, after


def open_network(name: str, data: bytes, *, threads: int = 1) -> SharedNetwork:
    """Return the network in the file `name` of a saved model; `threads` as for Network.

    Raises:
        ValueError: `data` is damaged or of another format.
    """
    if name.endswith(".npz"):
        return LstmNetwork(data)
    return Network(data, threads=threads)


_OUTPUTS = ["logits", "next_state"]

MIN_LARGE_IDS = 8
"""From this many ids T * B in one call on, several cores are faster than one."""

MIN_SHARED_IDS = 32
"""From this many ids T * B in one call on, sharing the rows between two threads is faster."""


def _load(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    # In its own thread, because the first session of a process makes its thread flush subnormal numbers to
    # zero, for good.
    make = partial(onnxruntime.InferenceSession, graph, _options(threads), providers=["CPUExecutionProvider"])
    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(make).result()
    except Exception as error:  # ONNX Runtime raises a private class for each kind of damage
        raise ValueError(f"ONNX Runtime cannot load the graph: {error}") from error


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A spinning pool would take a core from the event loop between keystrokes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    return options
