"""Peers of the runtime: loops of single steps in Keras or PyTorch from a known state.

Each peer is a class with `read(text)`, which sets the state after a text, and `keystroke(character)`: a step
for the typed character, and steps for COMPLETED characters, sampled with the peer's library. The typed
character stays in the state, the completion does not. There is no cache, batching or HTTP.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Contestant, ContestantDied, prepared
from benchmarks.networks import CHARACTERS, COMPLETED, E, V, Weights
from nextchar.models.saved_model import SavedModel

KERAS, TORCH = "Keras tf.function loop", "torch.nn.LSTM loop"
ID_OF = {character: i for i, character in enumerate(CHARACTERS, 1)}


class Peer(Protocol):
    """One way to generate text."""

    def read(self, text: str) -> NDArray[np.float32]:
        """Set the state after `text`; return the logits (V,) there."""

    def keystroke(self, character: str) -> None:
        """Read a character and complete it."""


@dataclass(frozen=True)
class Peers:
    """The peers that are here."""

    loops: dict[str, Peer]
    """By name."""
    missing: list[str]
    """The packages that are not installed."""
    cannot_run: dict[str, str]
    """By name: the error, or the signal, that ends a peer on this machine."""


def peers(saved: SavedModel, weights: Weights, layers: int, units: int) -> Peers:
    """Make the peers whose packages are installed.

    Each is tried in a process of its own before, which an instruction that the processor lacks would kill.
    """
    found = Peers({"loop on our graph": OurLoop(saved)}, [], {})
    kinds: dict[str, tuple[str, tuple[str, ...], Callable[[Weights, int, int], Peer]]] = {
        KERAS: ("keras", ("keras", "tensorflow"), KerasLoop),
        TORCH: ("torch", ("torch",), TorchLoop),
    }
    for name, (library, packages, kind) in kinds.items():
        if not all(map(importlib.util.find_spec, packages)):
            found.missing.append(" and ".join(packages))
            continue
        options = {"library": library, "layers": layers, "units": units}
        try:
            with prepared(Contestant(name, "step_loop", options)):
                pass
        except ContestantDied as died:
            found.cannot_run[name] = died.reason
        else:
            found.loops[name] = kind(weights, layers, units)
    return found


class OurLoop:
    """Our network alone, without threads, cache and events: a lower bound for our runtime."""

    def __init__(self, saved: SavedModel) -> None:
        from nextchar.models.runtime.model_networks import FLOAT32_FILE
        from nextchar.models.runtime.session import Network

        self._network = Network(saved.file(FLOAT32_FILE))
        self._state = self._network.initial_state()
        self._random = np.random.default_rng(0)

    def read(self, text: str) -> NDArray[np.float32]:
        """Read a text in one call."""
        ids = np.array([[ID_OF[c]] for c in text], np.int32)
        logits, self._state = self._network.step(ids, self._network.initial_state(), len(ids) - 1)
        return logits[0, 0]

    def keystroke(self, character: str) -> None:
        """Sample with NumPy."""
        logits, state = self._network.step(np.array([[ID_OF[character]]], np.int32), self._state)
        self._state = state
        for place in range(COMPLETED):
            z = logits[0, 0, 1:]
            reached = np.exp(z - z.max()).cumsum()
            chosen = int(reached.searchsorted(reached[-1] * self._random.random(), "right")) + 1
            if place < COMPLETED - 1:
                logits, state = self._network.step(np.array([[min(chosen, V - 1)]], np.int32), state)


class KerasLoop:
    """Keras layers, with one compiled `tf.function` for a step and its sampling."""

    def __init__(self, weights: Weights, layers: int, units: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ["KERAS_BACKEND"] = "tensorflow"
        import keras
        import tensorflow as tf

        ids = keras.Input((None,), batch_size=1, dtype="int32")
        states_in = [keras.Input((units,), batch_size=1) for _ in range(2 * layers)]
        x, states_out = keras.layers.Embedding(V, E, name="embedding")(ids), []
        for i in range(layers):
            lstm = keras.layers.LSTM(units, return_sequences=True, return_state=True, name=f"lstm_{i}")
            x, h, c = lstm(x, initial_state=states_in[2 * i : 2 * i + 2])
            states_out += [h, c]
        model = keras.Model([ids, *states_in], [keras.layers.Dense(V, name="dense")(x), *states_out])
        model.get_layer("embedding").set_weights([weights["embedding"]])
        for i in range(layers):
            model.get_layer(f"lstm_{i}").set_weights(
                [weights[f"lstm_{i}/{part}"] for part in ("kernel", "recurrent", "bias")]
            )
        model.get_layer("dense").set_weights([weights["dense/kernel"], weights["dense/bias"]])

        @tf.function(reduce_retracing=True)
        def read(ids: Any, states: Any) -> Any:
            logits, *states = model([ids, *states], training=False)
            return logits[:, -1], states

        @tf.function
        def step(ids: Any, states: Any) -> Any:
            logits, *states = model([ids, *states], training=False)
            chosen = tf.random.categorical(logits[:, -1, 1:], 1, dtype=tf.int32) + 1
            return chosen, states

        self.model = model
        self._tf, self._read, self._step = tf, read, step
        self.zeros = [tf.zeros((1, units)) for _ in range(2 * layers)]
        self._states = self.zeros

    def read(self, text: str) -> NDArray[np.float32]:
        """Read a text in one call."""
        ids = self._tf.constant([[ID_OF[c] for c in text]])
        logits, self._states = self._read(ids, self.zeros)
        found: NDArray[np.float32] = logits.numpy()[0]
        return found

    def keystroke(self, character: str) -> None:
        """Sample in the compiled step; return every character to Python."""
        chosen, states = self._step(self._tf.constant([[ID_OF[character]]]), self._states)
        self._states = states
        chosen.numpy()
        for _ in range(COMPLETED - 1):
            chosen, states = self._step(chosen, states)
            chosen.numpy()

    def predict(self, character: str) -> None:
        """Do the same with `model.predict`."""
        ids, states = np.array([[ID_OF[character]]], np.int32), [s.numpy() for s in self.zeros]
        random = np.random.default_rng(0)
        for _ in range(COMPLETED):
            logits, *states = self.model.predict([ids, *states], verbose=0)
            z = np.exp(logits[0, -1, 1:] - logits[0, -1, 1:].max()).astype(np.float64)
            ids = np.array([[random.choice(V - 1, p=z / z.sum()) + 1]], np.int32)


class TorchLoop:
    """torch.nn.LSTM in inference mode, with its fastest number of threads."""

    def __init__(self, weights: Weights, layers: int, units: int) -> None:
        import torch

        self._torch = torch
        self._embedding = torch.nn.Embedding(V, E)
        self._lstm = torch.nn.LSTM(E, units, layers)
        self._dense = torch.nn.Linear(units, V)
        with torch.no_grad():
            self._embedding.weight.copy_(torch.from_numpy(weights["embedding"]))
            for i in range(layers):
                # Gates in the order of Keras: i, f, g, o.
                for name, part in (("weight_ih", "kernel"), ("weight_hh", "recurrent"), ("bias_ih", "bias")):
                    value = torch.from_numpy(weights[f"lstm_{i}/{part}"].T.copy())
                    getattr(self._lstm, f"{name}_l{i}").copy_(value)
                getattr(self._lstm, f"bias_hh_l{i}").zero_()
            self._dense.weight.copy_(torch.from_numpy(weights["dense/kernel"].T.copy()))
            self._dense.bias.copy_(torch.from_numpy(weights["dense/bias"]))
        self._state: Any = None
        self._threads = 1

    def choose_threads(self, seconds_of: Any) -> None:
        """Set the number of threads that minimizes `seconds_of(self)`."""
        tried = {}
        for threads in sorted({1, self._torch.get_num_threads()}):
            self._threads = threads
            tried[threads] = seconds_of(self)
        self._threads = min(tried, key=lambda threads: tried[threads])

    def read(self, text: str) -> NDArray[np.float32]:
        """Read a text in one call."""
        with self._torch.inference_mode():
            ids = self._torch.tensor([[ID_OF[c]] for c in text])
            found, self._state = self._lstm(self._embedding(ids))
            logits: NDArray[np.float32] = self._dense(found[-1])[0].numpy()
            return logits

    def keystroke(self, character: str) -> None:
        """Sample with torch.multinomial."""
        torch = self._torch
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            found, state = self._lstm(self._embedding(torch.tensor([[ID_OF[character]]])), self._state)
            self._state = state
            for place in range(COMPLETED):
                chosen = torch.multinomial(torch.softmax(self._dense(found[-1])[:, 1:], 1), 1) + 1
                int(chosen)
                if place < COMPLETED - 1:
                    found, state = self._lstm(self._embedding(chosen), state)
