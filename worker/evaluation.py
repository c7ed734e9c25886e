"""Held-out bits per character of a network or a mixture, and samples, with the runtime that serves models.

Held-out text is contiguous. Each prediction is made from the state after the text before it, as far back as
`warm_up`. Bits per character are the mean of -log2 p.

`Evaluator` measures a network while it trains, and keeps the weights that are best on held-out text. The
runtime reads the files of a saved model, to which trained networks are exported.
"""

import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures import architecture
from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.architectures.onnx_graph import quantize, stateful_lstm_weights
from nextchar.models.architectures.spec import Differentiable, Trainable
from nextchar.models.kernels.mixture_arguments import Experts
from nextchar.models.runtime.decoding import log_softmax
from nextchar.models.runtime.int8_file import quantize_lstm
from nextchar.models.runtime.mixture import mix_logits
from nextchar.models.runtime.session import Logits, Network, StepNetwork
from nextchar.models.runtime.surprisal import SLICE_LOGITS
from nextchar.models.text.vocabulary import UNKNOWN_ID, Vocabulary, unknown_bits
from nextchar.worker.prepared_text import Ids, Text
from nextchar.worker.schedule import RunState

_MAX_STEPS = 64  # whose logits are in memory at once
_ROWS = 64  # read in parallel by default
_WARM_UP = 256  # characters, by default


def bits_per_character(
    network: StepNetwork, ids: NDArray[np.int32], *, before: Ids, rows: int = _ROWS, warm_up: int = _WARM_UP
) -> float:
    """Return the mean surprisal of `ids` in bits per character; see `bits_by_expert`."""
    return bits_by_expert(network, {}, ids, before=before, rows=rows, warm_up=warm_up)["lstm"]


def bits_by_expert(
    network: StepNetwork,
    mixtures: Mapping[str, Experts],
    ids: NDArray[np.int32],
    *,
    before: Ids,
    rows: int = _ROWS,
    warm_up: int = _WARM_UP,
) -> dict[str, float]:
    """Return the mean surprisal of `ids` in bits per character by the network, `lstm`, and by its mixtures.

    For speed the text is read as contiguous rows in parallel, each after the `warm_up` characters before it.
    With rows=1 and a long warm-up it is read in one pass. The weights of a mixture adapt to the characters of
    its row, not to those of the warm-up, which the experts may have seen.

    Args:
        network: the graph to evaluate.
        mixtures: by name, experts to mix it with.
        ids: (N,) the held-out text.
        before: the text before it; at least one character.
        rows: the number of parallel rows.
        warm_up: characters read before each row.
    """
    length = -(-len(ids) // rows)
    rows = -(-len(ids) // length)
    text = np.concatenate([before[-max(1, min(warm_up, len(before))) :], ids])
    lead = len(text) - len(ids)
    # Row r predicts ids[r * length : (r + 1) * length], having read the `lead` characters before those.
    starts = np.arange(rows) * length
    positions = starts[None, :] + np.arange(lead + length - 1)[:, None]  # (T, rows), into `text`
    inputs, targets = text.take(positions, mode="clip"), text.take(positions + 1, mode="clip")
    counts = positions + 1 < len(text)
    counts[: lead - 1] = False
    state = network.initial_state(rows)
    read = {name: np.zeros((rows, mixed.state_columns), np.float32) for name, mixed in mixtures.items()}
    bits = dict.fromkeys(("lstm", *mixtures), 0.0)
    steps = max(1, min(_MAX_STEPS, SLICE_LOGITS // (rows * network.V)))
    bounds = (*range(0, lead - 1, steps), *range(lead - 1, len(inputs), steps), len(inputs))
    for start, end in pairwise(bounds):
        part = slice(start, end)
        first = 0 if counts[part].any() else end - start  # the warm-up needs no logits
        logits, state = network.step(inputs[part], state, first)
        of_experts = {"lstm": logits} | {name: logits.copy() for name in mixtures}
        for name, experts in mixtures.items():
            mix_logits(experts, inputs[part], read[name], 0, first, of_experts[name])
        if not first:
            for name, of_expert in of_experts.items():
                bits[name] += float(_surprisal(of_expert, targets[part])[counts[part]].sum())
    return {name: total / len(ids) for name, total in bits.items()}


def _surprisal(logits: Logits, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the surprisal of ids (T, B) in bits, by logits (T, B, V)."""
    columns = np.maximum(ids - 1, 0)[..., None]
    log_p = np.take_along_axis(log_softmax(logits), columns, -1)[..., 0]
    return np.where(ids == UNKNOWN_ID, unknown_bits(logits.shape[-1]), -log_p / np.log(2))


def sample(network: StepNetwork, vocabulary: Vocabulary, *, prompt: str, characters: int, seed: int) -> str:
    """Return text generated after `prompt` at temperature 1."""
    random = np.random.default_rng(seed)
    state = network.initial_state(1)
    logits, state = network.step(vocabulary.encode(prompt)[:, None], state)
    ids = []
    for _ in range(characters):
        p = np.exp(log_softmax(logits[-1, 0]))  # of id 1 and up
        ids.append(int(random.choice(len(p), p=p)) + 1)
        logits, state = network.step(np.array([[ids[-1]]], np.int32), state)
    return vocabulary.to_text(vocabulary.decode(ids))


def graph_of(network: Trainable) -> bytes:
    """Return the ONNX graph of the network with its current weights."""
    return architecture(network.config.architecture).graph(network.config, network.weights())


def saved_files(network: Trainable) -> dict[str, bytes]:
    """Return the contents of model.onnx and model.keras."""
    return {"model.onnx": graph_of(network), "model.keras": keras_file(network)}


def keras_file(network: Trainable) -> bytes:
    """Return the contents of a `.keras` file of stock layers. Only networks in Keras load Keras."""
    if isinstance(network, KernelLSTM):
        return network.keras_file()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        cast(Differentiable, network).keras_model().save(path)
        return path.read_bytes()


def int8_file(graph: bytes) -> tuple[str, bytes]:
    """Return the name and contents of a model.onnx in int8, for the kernels if they support the network."""
    try:
        weights = stateful_lstm_weights(graph)
    except ValueError:  # another architecture
        return "model.int8.onnx", quantize(graph)
    if "hidden/kernel" in weights:  # a layer that the kernels do not support
        return "model.int8.onnx", quantize(graph)
    return "model.int8.npz", quantize_lstm(weights)


PATIENCE = 2  # evaluations in a row without a new best: the network overfits

_SAMPLE_CHARACTERS = 240
_THREADS = 2
_ROWS_WHILE_TRAINING, _WARM_UP_WHILE_TRAINING = 32, 64


class Evaluator:
    """Measures held-out bits per character, and writes samples of text.

    Attributes:
        best: the weights of the best evaluation so far, in the order of the network's variables.
        sample: the newest sample.
    """

    def __init__(self, network: Trainable, text: Text, *, seed: int) -> None:
        self.best: list[NDArray[np.float32]] | None = None
        self.sample = ""
        self._network, self._text, self._seed = network, text, seed
        self._graph: Network

    def evaluate(self, state: RunState) -> float:
        """Return the held-out bits per character of the network now; note in `state` if they are the best.

        If they are not finite, nothing is noted: the run has diverged.
        """
        self._graph = Network(graph_of(self._network), threads=_THREADS)
        held_out = self._text.selection[: state.evaluation_characters]
        bits = bits_per_character(
            self._graph,
            held_out,
            before=self._text.train,
            rows=_ROWS_WHILE_TRAINING,
            warm_up=_WARM_UP_WHILE_TRAINING,
        )
        if not np.isfinite(bits):
            return bits
        state.evaluations_since_best += bits > state.best_bits
        if bits < state.best_bits or self.best is None:
            state.best_bits, state.best_step, state.evaluations_since_best = bits, state.step, 0
            self.best = [v.numpy() for v in self._network.variables]
        state.evaluations += 1
        return bits

    def write_sample(self) -> str:
        """Return text that the network, as of the last evaluation, writes after the training text."""
        self.sample = sample(
            self._graph,
            self._text.vocabulary,
            prompt=self._text.prompt,
            characters=_SAMPLE_CHARACTERS,
            seed=self._seed,
        )
        return self.sample

    def load_best(self) -> None:
        """Set the network's weights to the best ones."""
        assert self.best is not None
        for variable, value in zip(self._network.variables, self.best, strict=True):
            variable.assign(value)
