"""What runs a network: `open_network` picks it. Knows no text and no threads.

A graph of any architecture is run by ONNX Runtime, as a `Network`; int8 LSTMs by kernels of our own, as an
`LstmNetwork`. The state is an argument and a result, and both can be called from several threads at once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.runtime.lstm_network import LstmNetwork
from models.runtime.second_thread import SecondThread

Logits = NDArray[np.float32]
State = NDArray[np.float32]  # (B, S), all layers' h and c in one row: h1 | c1 | h2 | c2 | ...


class StepNetwork(Protocol):
    """What a batcher needs of a network; Network is one."""

    V: int

    def initial_state(self, rows: int = 1) -> State:
        """Return zeros, (rows, S)."""

    def step(self, ids: NDArray[np.int32], state: State, first: int = 0) -> tuple[Logits, State]:
        """Read ids (T, B) from state (B, S); return logits (T - first, B, V) and the state after them."""


class CheckedNetwork:
    """A network that calls `check` before each step. What it raises ends whatever reads with the network."""

    def __init__(self, network: StepNetwork, check: Callable[[], None]) -> None:
        self._network, self._check = network, check
        self.V = network.V

    def initial_state(self, rows: int = 1) -> State:
        """Return zeros, (rows, S)."""
        return self._network.initial_state(rows)

    def step(self, ids: NDArray[np.int32], state: State, first: int = 0) -> tuple[Logits, State]:
        """Check, then do as the network does."""
        self._check()
        return self._network.step(ids, state, first)


@runtime_checkable
class ChoosingNetwork(StepNetwork, Protocol):
    """A network that can also choose, so do many steps in one call, and read with two threads."""

    def choose(self, logits: Logits, sharpness: Logits, uniforms: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return ids (B,); see `models.runtime.lstm_network.LstmNetwork.choose`."""

    def generate(
        self, ids: NDArray[np.int32], state: State, sharpness: Logits, uniforms: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], Logits, State]:
        """Return chosen ids (T - 1, B), logits (T, B, V) and state (B, S); see there."""

    def read(
        self, ids: NDArray[np.int32], ends: Sequence[int], state: State, stop: NDArray[np.int64]
    ) -> list[State]:
        """Read ids (T,); return the states (1, S) after those of `ends` that were reached; see there."""


class Network:
    """A loaded graph. S is the length of a state row, V the vocabulary with id 0."""

    def __init__(self, graph: bytes, *, threads: int = 1) -> None:
        """Load `graph`; `threads` of ONNX Runtime work on a large step, two of ours where that is one.

        A small step has no use for a second core.

        Raises:
            ValueError: it is not a graph that `models.architectures.onnx_graph` makes.
        """
        session = _load(graph, 1)
        inputs = {i.name: i.shape for i in session.get_inputs()}
        outputs = {o.name: o.shape for o in session.get_outputs()}
        if set(inputs) != {"ids", "state", "first"} or set(outputs) != {"logits", "next_state"}:
            raise ValueError(f"not a graph of this runtime: it maps {sorted(inputs)} to {sorted(outputs)}")
        self.S = int(inputs["state"][1])
        self.V = int(outputs["logits"][2])
        # The wrapper's own `run` checks names again in Python on every call: 2 microseconds of 60.
        self._session, self._run = session, session._sess.run
        self._large_session = session if threads == 1 else _load(graph, threads)
        self._run_large = self._large_session._sess.run
        self._second = SecondThread("float32") if threads == 1 else None
        self._firsts: dict[int, NDArray[np.int64]] = {}

    def initial_state(self, rows: int = 1) -> State:
        """Return zeros, (rows, S)."""
        return np.zeros((rows, self.S), np.float32)

    def step(self, ids: NDArray[np.int32], state: State, first: int = 0) -> tuple[Logits, State]:
        """Read ids (T, B) from state (B, S); return logits (T - first, B, V) and the state after them.

        Steps before `first` get no logits. Neither argument is changed.
        """
        rows = ids.shape[1]
        if self._second and rows > 1 and ids.size >= SHARED:
            step = partial(self._step, first=first)
            return self._second.share(step, ids, state, rows=-(-rows // 2))
        return self._step(ids, state, first)

    def _step(self, ids: NDArray[np.int32], state: State, first: int) -> tuple[Logits, State]:
        at = self._firsts.get(first)
        if at is None:
            at = np.array(first, np.int64)
            if len(self._firsts) < 256:
                self._firsts[first] = at
        run = self._run if ids.size < LARGE else self._run_large
        logits, after = run(_OUTPUTS, {"ids": ids, "state": state, "first": at}, None)
        return logits, after


def open_network(name: str, data: bytes, *, threads: int = 1) -> StepNetwork:
    """Return what runs the file `name` of a saved model; `threads` are for a Network.

    Raises:
        ValueError: `data` is not what a file of this name holds.
    """
    if name.endswith(".npz"):
        return LstmNetwork(data)
    return Network(data, threads=threads)


_OUTPUTS = ["logits", "next_state"]

LARGE = 8
"""From this many ids in one call on, T * B, several cores are faster than one."""

SHARED = 32
"""From this many on it pays to share the rows between two threads."""


def _load(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(graph, _options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # each kind of damage has its own private class
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
